"""Films of photographs: the same from the same number, cut between views, with a cast that is named."""

import re
from pathlib import Path

import numpy as np
import pytest

from datamodules.world import photo_films
from datamodules.world.photo_films import FILM_FRAMES, VIEW_FRAMES, PhotoFilm, cut_outs, landscapes
from videoflamingo.errors import UsageError
from videoflamingo.video import load_clip

SIZE = 64


def frames(film: PhotoFilm, folder: Path) -> np.ndarray:
    path = film.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    film.write(path)
    return load_clip(path, num_frames=FILM_FRAMES).frames


def test_a_number_always_gives_the_same_film(photographs: Path, tmp_path: Path) -> None:
    film = PhotoFilm("train", 3, SIZE)
    once = frames(film, tmp_path / "once")
    assert once.shape[0] == FILM_FRAMES
    assert SIZE in once.shape
    assert np.array_equal(once, frames(film, tmp_path / "again"))
    for other in (PhotoFilm("train", 4, SIZE), PhotoFilm("held_out", 3, SIZE)):
        assert not np.array_equal(once, frames(other, tmp_path))


def test_a_film_is_cut_between_its_views_only(photographs: Path, tmp_path: Path) -> None:
    cuts, others = [], []
    for number in range(6):
        shown = frames(PhotoFilm("train", number, SIZE), tmp_path).astype(float)
        steps = np.abs(np.diff(shown, axis=0)).reshape(FILM_FRAMES - 1, -1).mean(-1)
        at_cut = np.arange(1, FILM_FRAMES) % VIEW_FRAMES == 0
        cuts += steps[at_cut].tolist()
        others += steps[~at_cut].tolist()
    assert np.median(cuts) > 1.3 * np.median(others)


def test_what_is_shown_is_named_again_and_again(photographs: Path) -> None:
    names = {"bald eagle", "cow", "fig", "plum", "rose", "van"}
    seen = set()
    for number in range(30):
        film = PhotoFilm("train", number, SIZE)
        said = [word.removeprefix(" here ") for word in film.words()]
        assert len(said) == 8
        assert len(set(said)) == len(film.cast) == len(set(film.cast))
        assert set(said) <= names
        seen |= set(said)
    assert seen == names


def test_of_a_place_there_is_nothing_to_say_and_each_view_has_other_things(photographs: Path, tmp_path: Path) -> None:
    films = [PhotoFilm("train", 3, SIZE, place_only) for place_only in (False, True)]
    assert films[1].words() == (" here",) * 8
    assert films[0].path(tmp_path) != films[1].path(tmp_path)
    assert not np.array_equal(*(frames(film, tmp_path) for film in films))


def test_views_of_a_montage_are_of_other_places_in_one_tint(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_films, "MONTAGE_COLOURFULNESS", (0.0, 0.0))  # so that only the tint is left
    monkeypatch.setattr(photo_films, "MONTAGE_TINT", 0.3)
    casts, cuts, others = [], [], []
    for number in range(6):
        film = PhotoFilm("train", number, SIZE, montage=True)
        assert film.words() == (" here",) * 8
        shown = frames(film, tmp_path).astype(float)
        steps = np.abs(np.diff(shown, axis=0)).reshape(FILM_FRAMES - 1, -1).mean(-1)
        at_cut = np.arange(1, FILM_FRAMES) % 6 == 0
        cuts += steps[at_cut].tolist()
        others += steps[~at_cut].tolist()
        red, green, blue = shown.mean((2, 3)).T
        casts.append(np.stack([np.log(red / green), np.log(blue / green)]))
        assert casts[-1].std(-1).max() < 0.04
    assert np.median(cuts) > 1.5 * np.median(others)
    assert np.mean(casts, -1).std(0).min() > 0.1
    assert len({film.path(tmp_path) for film in (PhotoFilm("train", 1, montage=at) for at in (False, True))}) == 2


def test_only_photographs_are_used(photographs: Path) -> None:
    assert [path.stem for path in cut_outs()] == ["bald_eagle-2", "cow", "fig", "plum", "rose", "van"]
    assert [path.stem for path in landscapes()] == ["hill", "lake"]


def test_a_cut_out_whose_file_has_no_name_is_a_thing(photographs: Path) -> None:
    (photographs / "stamps/animals/7-mirror.png").write_bytes((photographs / "stamps/animals/cow.png").read_bytes())
    cut_outs.cache_clear()
    said = {word for number in range(30) for word in PhotoFilm("train", number).words()}
    assert " here thing" in said


def test_without_the_photographs_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Path
) -> None:
    monkeypatch.setattr(photo_films, "CUT_OUTS", tmp_path / "none")
    cut_outs.cache_clear()
    told = f"pictures in {tmp_path / 'none'}, where there are none; apt-get install tuxpaint-stamps-default"
    with pytest.raises(UsageError, match=re.escape(told)):
        PhotoFilm("train", 0, SIZE).words()
