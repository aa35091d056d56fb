"""Episodes: what is told before counts, what cannot be known does not, and clips show what their answers say."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.world import photo_films
from datamodules.world.episodes import EpisodeTexts
from datamodules.world.motions import FAMILIES, sample_motions
from datamodules.world.names import made_up_names
from datamodules.world.rules import RULES, rules
from datamodules.world.sampling import sample_scene
from datamodules.world.shapes import SHAPES, bursty
from datamodules.world.stages import (
    ANGLES,
    GRID,
    NUM_FRAMES,
    Stage,
    casts,
    frames_of_motion,
    frames_of_turn,
    movers,
    still_of_cast,
    turned_still,
    words_of_film,
    words_of_motion,
)
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, Text
from videoflamingo.training.texts import Draw, PlannedText
from videoflamingo.video import load_clip


def episodes(folder: Path | str = "world", **options: Any) -> EpisodeTexts:
    small = {
        "num_movers": 6,
        "num_casts": 40,
        "backgrounds": 2,
        "num_videos": 40,
        "num_pictures": 10,
        "size": 64,
        "num_films": 6,
        "turned_backgrounds": 2,
    }
    return EpisodeTexts(str(folder), **{**small, **options})


def of_kind(texts: EpisodeTexts, kind: str, count: int = 40, split: str = "train") -> list[PlannedText]:
    own = [index for index, shape in enumerate(texts.shapes) if shape.kind == kind]
    return [texts.plan(split, own[at % len(own)], Draw(0, 0, at)) for at in range(count)]  # type: ignore[arg-type]


def answers(text: PlannedText) -> list[tuple[str, bool]]:
    """Each chunk's answer, and whether the loss is on it."""
    found = []
    for at, segment in enumerate(text.segments):
        if isinstance(segment, EndOfChunk):
            answer = text.segments[at - 1]
            assert isinstance(answer, Text)
            assert answer.is_answer == segment.is_answer
            found.append((answer.text, answer.is_answer))
    return found


@pytest.mark.parametrize("kind", ["bind", "scene", "clip", "film", "motion", "order"])
def test_only_what_was_told_before_counts(kind: str) -> None:
    for text in of_kind(episodes(), kind):
        told: set[str] = set()
        for answer, counts in answers(text):
            assert counts == (answer in told)
            told.add(answer)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_an_episode_is_a_function_of_its_draw(kind: str) -> None:
    one, two = (of_kind(episodes(), kind, 6) for _ in range(2))
    assert [text.segments for text in one] == [text.segments for text in two]
    assert [text.media for text in one] == [text.media for text in two]
    assert len({str(text.segments) for text in one}) > 2


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_every_medium_is_told_what_to_say(kind: str) -> None:
    for text in of_kind(episodes(), kind, 10):
        assert len(text.readouts) == len(text.media)
        assert all(said and all(one.startswith(" ") for one in said) for said in text.readouts)


def test_what_happens_can_be_said_without_names() -> None:
    named, unnamed = episodes(), episodes(names_said=False)
    for with_names, without in zip(of_kind(named, "motion", 10), of_kind(unnamed, "motion", 10), strict=True):
        words = [[one.split()[0] for one in said] for said in with_names.readouts]
        assert [[one.removeprefix(" ") for one in said] for said in without.readouts] == words


def test_names_go_with_drawings() -> None:
    for text in of_kind(episodes(), "bind"):
        names = dict(zip([answer for answer, _ in answers(text)], text.readouts, strict=True))
        assert len(set(names.values())) == len(names)
        for (answer, _), said in zip(answers(text), text.readouts, strict=True):
            assert names[answer] == said


def test_names_go_with_what_moves_in_scenes_or_rests_in_pictures() -> None:
    lengths = set()
    for text in of_kind(episodes(), "scene"):
        drawings = [said[0].split(maxsplit=1)[1] for said in text.readouts]
        names = dict(zip([answer for answer, _ in answers(text)], drawings, strict=True))
        assert len(set(names.values())) == len(names) >= 2
        assert [names[answer] for answer, _ in answers(text)] == drawings
        lengths |= {request.sampling.num_frames for request in text.media if request.order is None}
        assert all("picture" not in str(request.source) for request in text.media)
    assert lengths == {8}


def test_names_go_with_videos_of_which_parts_are_shown() -> None:
    shown = set()
    for text in of_kind(episodes(), "clip"):
        sources = [request.source for request in text.media]
        names = dict(zip([answer for answer, _ in answers(text)], sources, strict=True))
        assert len(set(names.values())) == len(names) >= 2
        assert [names[answer] for answer, _ in answers(text)] == sources
        for request, said in zip(text.media, text.readouts, strict=True):
            assert request.order is not None
            assert len(request.order) == len(said) >= 4
            assert request.order == tuple(range(request.order[0], request.order[-1] + 1))
            shown.add((request.order, request.backwards))
    assert len(shown) > 10


def test_parts_shown_backwards_say_what_these_frames_show() -> None:
    texts = episodes()
    world = texts.world
    sources = (request.source for request in world.media("train"))
    scenes = dict(zip(sources, world.scenes("train"), strict=True))
    checked = 0
    for text in of_kind(texts, "clip", 80):
        for request, said in zip(text.media, text.readouts, strict=True):
            scene = scenes[request.source]
            if scene.kind == "sequence":
                order = list(request.order or ())
                shown = [scene.sampled_times()[at] for at in (order[::-1] if request.backwards else order)]
                there = [next(actor for actor in scene.actors if actor.pose_at(time)) for time in shown]
                assert said == tuple(f" still {actor.name}" for actor in there)
                checked += request.backwards
    assert checked > 5


def test_true_names_are_of_what_moves_or_does_something() -> None:
    for text in of_kind(episodes(), "doer"):
        for (answer, counts), said in zip(answers(text), text.readouts, strict=True):
            assert counts
            assert {one.split(maxsplit=1)[1] for one in said} == {answer.strip()}


def test_asked_which_comes_first_the_answer_is_what_was_seen_first() -> None:
    skills = Counter()
    for text in of_kind(episodes(), "which"):
        asked = [segment.text for segment in text.segments if isinstance(segment, Text) and "?" in segment.text]
        for question, (answer, counts), said in zip(asked, answers(text), text.readouts, strict=True):
            shown = list(dict.fromkeys(one.removeprefix(" still ") for one in said))
            named = sorted((name for name in shown if f"the {name}" in question), key=shown.index)
            if "right after" in question or "follows" in question:
                expected = {shown[shown.index(name) + 1] for name in named if name != shown[-1]}
                skills["next"] += 1
            else:
                expected = {named[0] if "first" in question else named[-1]}
                skills["first" if "first" in question else "last"] += 1
            assert counts
            assert answer.strip() in expected
    assert len(skills) == 3
    assert min(skills.values()) > 20


def test_which_came_first_can_be_asked_only_where_it_is_not_first_of_all() -> None:
    skills: Counter[str] = Counter()
    for text in of_kind(episodes(within_share=1.0), "which"):
        asked = [segment.text for segment in text.segments if isinstance(segment, Text) and "?" in segment.text]
        for question, (answer, _), said in zip(asked, answers(text), text.readouts, strict=True):
            shown = list(dict.fromkeys(one.removeprefix(" still ") for one in said))
            place = shown.index(answer.strip())
            assert len(shown) > 2
            if "right after" in question or "follows" in question:
                assert f"the {shown[place - 1]}" in question
                skills["next"] += 1
            else:
                end = "first" if "first" in question else "last"
                later = {"first": shown[place + 1 :], "last": shown[:place]}[end]
                assert 0 < place < len(shown) - 1
                assert any(f"the {name}" in question for name in later)
                skills[end] += 1
    assert len(skills) == 3
    assert min(skills.values()) > 20


def test_which_came_first_can_be_asked_as_often_where_it_is_first_of_all_as_elsewhere() -> None:
    places: Counter[str] = Counter()
    for text in of_kind(episodes(within_share=0.5), "which", 120):
        asked = [segment.text for segment in text.segments if isinstance(segment, Text) and "?" in segment.text]
        for question, (answer, _), said in zip(asked, answers(text), text.readouts, strict=True):
            shown = list(dict.fromkeys(one.removeprefix(" still ") for one in said))
            if "right after" in question or "follows" in question:
                places["next"] += 1
            else:
                places["within" if 0 < shown.index(answer.strip()) < len(shown) - 1 else "end"] += 1
    assert 0.45 < places["next"] / places.total() < 0.55
    assert 0.42 < places["within"] / (places["within"] + places["end"]) < 0.58


def test_asked_about_stills_one_after_the_other_the_answers_are_what_was_seen() -> None:
    places: Counter[str] = Counter()
    orders = set()
    texts = episodes()
    stages = {str(stage.path(texts.folder)): stage for stage in texts.stages("train") if isinstance(stage, Stage)}
    for text in of_kind(texts, "sequence", 120):
        asked = [segment.text for segment in text.segments if isinstance(segment, Text) and "?" in segment.text]
        chunks = zip(asked, answers(text), text.readouts, text.media, strict=True)
        for question, (answer, counts), said, media in chunks:
            stage = stages[str(media.source)]
            at = [(frame - 1) // 3 for frame in media.order or ()]
            assert list(said) == [f" still {stage.drawings[which].name}" for which in at]
            shown = list(dict.fromkeys(stage.drawings[which].name for which in at))
            orders.add((media.source, tuple(dict.fromkeys(at))))
            assert counts
            assert len(shown) in (3, 4)
            named = [name for name in shown if f"the {name} " in question or f"the {name}?" in question]
            if "right after" in question or "follows" in question:
                places["next"] += 1
                assert [answer.strip()] == [shown[shown.index(name) + 1] for name in named]
            else:
                first, last = sorted(named, key=shown.index)
                assert answer.strip() == (first if "first" in question else last)
                places["within" if answer.strip() in shown[1:-1] else "end"] += 1
    assert 0.15 < places["next"] / places.total() < 0.25
    assert 0.33 < places["within"] / (places["within"] + places["end"]) < 0.47
    assert len(orders) > places.total() / 2


@pytest.mark.parametrize(("option", "share"), [("within_share", -0.1), ("pooled_only_share", 1.5)])
def test_a_share_that_is_none_is_refused(option: str, share: float) -> None:
    with pytest.raises(UsageError, match=f"{option} is {share}; give a share from 0 to 1"):
        episodes(**{option: share})


def test_some_episodes_about_films_are_told_by_pooled_tokens_alone() -> None:
    texts = episodes(pooled_only_share=0.5)
    assert 25 < sum(text.pooled_only for text in of_kind(texts, "film", 80)) < 55
    assert not any(text.pooled_only for kind in sorted({*SHAPES} - {"film"}) for text in of_kind(texts, kind, 10))
    assert not any(text.pooled_only for text in of_kind(episodes(), "film"))


def test_another_series_shows_other_files_of_the_same_drawings(photographs: Path) -> None:
    options = {"num_photo_films": 5, "num_beside": 4, "num_alone": 12, "num_validation": 1}
    one, two = episodes(**options), episodes(series=1, **options)
    for split in ("train", "validate"):
        sources = [{str(media.source) for media in texts.media(split)} for texts in (one, two)]
        assert len(sources[0]) == len(sources[1]) > 20
        assert not sources[0] & sources[1]
    asked = {str(media.source) for kind in SHAPES for text in of_kind(two, kind, 10) for media in text.media}
    assert asked <= {str(media.source) for media in two.media("train")}
    for first, second in zip(one.stages("train"), two.stages("train"), strict=True):
        if isinstance(first, Stage) and first.kind != "film":
            assert isinstance(second, Stage)
            assert first.drawings == second.drawings


def test_names_go_with_films_of_photographs_of_which_parts_are_shown(photographs: Path) -> None:
    texts = episodes(num_films=30, num_photo_films=30)
    of_photographs = 0
    for split in ("train", "validate"):
        for text in of_kind(texts, "film", split=split):
            named: dict[str, set[str]] = {}
            for (answer, _), request in zip(answers(text), text.media, strict=True):
                named.setdefault(answer, set()).add(str(request.source))
            assert all(len(own) == 1 for own in named.values())
            if "photo-film" not in str(text.media[0].source):
                continue
            of_photographs += 1
            assert all(("held_out" in str(request.source)) == (split != "train") for request in text.media)
            for request in text.media:
                (step,) = set(np.diff(request.order or ()))
                assert 0 <= min(request.order or ()) < max(request.order or ()) < 24
                assert step in (1, 2)
    assert 30 < of_photographs < 65
    assert sum("photo-film" in str(media.source) for media in texts.media("train")) == 30


def test_montages_are_shown_among_each_other_and_beside_films_of_one_place(photographs: Path) -> None:
    texts = episodes(num_films=30, num_photo_films=30, num_montages=30, places_only=True)
    assert sum("train-photo-montage" in str(media.source) for media in texts.media("train")) == 30
    together: Counter[tuple[bool, bool]] = Counter()  # whether there are montages, and others
    for split in ("train", "validate"):
        for text in of_kind(texts, "film", 60, split=split):
            named: dict[str, set[str]] = {}
            for (answer, _), request in zip(answers(text), text.media, strict=True):
                named.setdefault(answer, set()).add(str(request.source))
                assert ("held_out" in str(request.source)) == (split != "train")
            assert all(len(own) == 1 for own in named.values())
            files = set.union(*named.values())
            assert len(files) == len(named)
            montages = sum("photo-montage" in file for file in files)
            together[montages > 0, montages < len(files)] += 1
    assert together[True, True] > together[True, False] > 0
    assert 0.45 < (together[True, True] + together[True, False]) / together.total() < 0.75


@pytest.mark.parametrize("option", ["num_photo_films", "num_montages"])
def test_photographs_that_are_not_installed_are_missed_before_any_file_is_made(
    option: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_films, "LANDSCAPES", tmp_path / "none")
    photo_films.landscapes.cache_clear()
    with pytest.raises(UsageError, match="apt-get install"):
        episodes(tmp_path / "world", **{option: 30}).prepare()
    assert not (tmp_path / "world").exists()


def test_all_films_may_be_of_photographs(photographs: Path) -> None:
    texts = episodes(num_films=0, num_photo_films=30)
    assert all("photo-film" in str(text.media[0].source) for text in of_kind(texts, "film"))


def test_pictures_to_name_show_drawings_turned_or_upright() -> None:
    kinds = Counter()
    for text in of_kind(episodes(), "name"):
        for (answer, _), request in zip(answers(text), text.media, strict=True):
            kind = "turned" if "turned" in str(request.source) else "cast"
            kinds[kind] += 1
            (frame,) = request.order or ()
            each = ANGLES if kind == "turned" else 3
            group = int(Path(str(request.source)).stem.split("-")[0])
            assert answer.endswith(f" {casts('train')[group][(frame - 1) // each].name}")
    assert abs(kinds["turned"] - kinds["cast"]) < 0.2 * kinds.total()
    assert all("turned" not in str(media.source) for media in episodes(turned_backgrounds=0).media("train"))


def test_turns_are_shown_of_every_cast_where_there_are_turned_ones() -> None:
    texts = episodes(family_chances={"turn": 1.0})
    for split in ("train", "validate"):
        sources = [str(media.source) for text in of_kind(texts, "motion", split=split) for media in text.media]
        assert len(set(sources)) > 20
        assert all("-turned-" in source and ("held_out" in source) == (split != "train") for source in sources)
    sources = [
        str(media.source)
        for text in of_kind(episodes(family_chances={"turn": 1.0}, turned_backgrounds=0), "motion")
        for media in text.media
    ]
    assert all("-mover-" in source for source in sources)


def test_one_class_of_films_may_have_cuts() -> None:
    with_cuts = 0
    for text in of_kind(episodes(num_films=20, films_cut=True), "film", 80):
        sources: dict[str, set[str]] = {}
        for (answer, _), request in zip(answers(text), text.media, strict=True):
            sources.setdefault(answer, set()).add(str(request.source))
        several = [name for name, own in sources.items() if len(own) > 1]
        assert len(several) <= 1
        assert sum(map(len, sources.values())) == len(set().union(*sources.values()))  # no other class has them
        with_cuts += len(several)
    assert 10 < with_cuts < 50


def test_families_of_motions_are_as_often_as_asked() -> None:
    texts = episodes(family_chances={"turn": 1.0})
    said = {one.split()[0] for text in of_kind(texts, "motion") for told in text.readouts for one in told}
    assert said == {"back", "still", "around"}


def test_names_go_with_films_of_which_parts_are_shown() -> None:
    starts = set()
    for text in of_kind(episodes(), "film"):
        sources = [request.source for request in text.media]
        names = dict(zip([answer for answer, _ in answers(text)], sources, strict=True))
        assert len(set(names.values())) == len(names) >= 2
        assert [names[answer] for answer, _ in answers(text)] == sources
        for request in text.media:
            assert request.order is not None
            assert len(set(np.diff(request.order))) == 1
            assert 1 <= request.order[0] < request.order[-1] < NUM_FRAMES["film"]
            starts.add(request.order[0])
    assert len(starts) > 5


def test_a_film_shows_the_same_drawings_throughout_and_says_who_they_are(tmp_path: Path) -> None:
    stage = Stage("film", "train", 3, 0, size=64)
    stage.write(tmp_path / "film.mp4")
    frames = load_clip(tmp_path / "film.mp4", num_frames=NUM_FRAMES["film"]).frames.astype(int)
    assert min(np.abs(frame - frames[0]).sum() for frame in frames[1:]) > 20_000
    assert min(np.abs(one - other).sum() for one, other in pairwise(frames[1:])) > 0
    _, shown = stage.stills()
    assert {actor.drawing for actors in shown[1:] for actor in actors} == set(stage.drawings)
    assert all(len(actors) == len(stage.drawings) for actors in shown[1:])
    assert {word.removeprefix(" here ") for word in words_of_film(stage)} <= {one.name for one in stage.drawings}
    assert {drawing.held_out for drawing in Stage("film", "held_out", 3, 0).drawings} == {True}


def test_too_few_films_for_an_episode_are_named() -> None:
    with pytest.raises(UsageError, match="different films, and there are 0; raise num_films, or leave its kind out"):
        of_kind(episodes(num_films=0, shares={"film": 1.0}), "film")
    assert "film" not in {shape.kind for shape in episodes(num_films=0).shapes}


def test_too_few_videos_for_an_episode_are_named() -> None:
    message = "takes [0-9] different videos, and there are 1; raise num_videos, or leave its kind out of shares"
    with pytest.raises(UsageError, match=message):
        of_kind(episodes(num_videos=1), "clip")


def test_a_step_is_of_one_shape_and_within_the_media_it_may_have() -> None:
    texts = episodes(pictures_per_step=64, videos_per_step=24)
    kinds = set()
    for step in range(200):
        chosen = texts.choose(step, 30, 0)
        (index,) = {index for index, _ in chosen}
        kind, chunks = texts.shapes[index].kind, texts.shapes[index].num_chunks
        kinds.add(kind)
        assert 1 <= len(chosen) <= 30
        assert len(chosen) * chunks <= max(64 if kind in ("name", "bind") else 24, chunks)
        assert len({draw.position for _, draw in chosen}) == len(chosen)
    assert kinds == set(SHAPES)
    assert texts.choose(7, 30, 0) == texts.choose(7, 30, 0)


def test_validation_is_about_what_is_held_out() -> None:
    texts = episodes(num_validation=20)
    trained = {request.source for request in texts.media("train")}
    validated = {request.source for request in texts.media("validate")}
    assert validated
    assert not trained & validated
    for text in of_kind(texts, "motion", split="validate"):
        assert {request.source for request in text.media} <= validated


def test_stages_are_all_that_episodes_ask_for() -> None:
    texts = episodes()
    known = {request.source for request in texts.media("train")}
    for kind in SHAPES:
        for text in of_kind(texts, kind, 20):
            assert {request.source for request in text.media} <= known
            assert all(
                request.order is None or max(request.order) < request.sampling.num_frames for request in text.media
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_movers": 0}, "num_movers is 0; give 1 to "),
        ({"num_casts": 10_000}, "num_casts is 10000; give 1 to "),
        ({"shares": {"song": 1.0}}, r"shares \{'song': 1.0\}; give name, doer"),
        ({"shares": {"name": 0.0}}, "some above 0"),
        ({"family_chances": {"order": 1.0}}, r"family_chances \{'order': 1.0\}; give path, rhythm"),
        ({"family_chances": {"path": 0.0}}, "numbers above 0"),
        ({"family_chances": {}}, "numbers above 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        episodes(**options)


def test_bursty_shows_every_class_once_first() -> None:
    for seed in range(20):
        chunks = bursty(4, 9, np.random.default_rng(seed))
        assert sorted(of_class for of_class, _ in chunks[:4]) == [0, 1, 2, 3]
        assert [counts for _, counts in chunks] == [False] * 4 + [True] * 5


def test_a_stage_is_a_video_of_its_stills(tmp_path: Path) -> None:
    stage = Stage("cast", "train", 1, 0, size=64)
    stage.write(tmp_path / "cast.mp4")
    frames = load_clip(tmp_path / "cast.mp4", num_frames=NUM_FRAMES["cast"]).frames.astype(int)
    empty = frames[0]
    shown = [np.abs(frame - empty).sum() for frame in frames]
    assert shown[0] == 0
    assert min(shown[1:]) > 20_000
    assert stage.drawings == casts("train")[1]
    assert {drawing.held_out for drawing in (*stage.drawings, *movers("train"))} == {False}
    assert {drawing.held_out for drawing in movers("held_out")} == {True}


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_of_a_motion_are_there_and_are_told(family: Any) -> None:
    stage = Stage("cast" if family == "order" else "mover", "train", 0, 0)
    rng = np.random.default_rng(0)
    for motion in sample_motions(5, family, rng):
        frames = frames_of_motion(motion, rng)
        assert len(frames) == 8
        assert 0 <= min(frames) <= max(frames) < NUM_FRAMES[stage.kind]
        told = words_of_motion(motion, stage.drawings, frames)
        assert len(told) == 8
        if family == "order":
            which = {still_of_cast(who, place): stage.drawings[who].name for who in range(4) for place in range(3)}
            assert told == [f" still {which[frame]}" for frame in frames]
        if family == "path":
            cells = [divmod(frame - 1, GRID) for frame in frames]
            for (row, column), (next_row, next_column), (x, y) in zip(cells, cells[1:], motion.steps, strict=False):
                assert ((row + y) % GRID, (column + x) % GRID) == (next_row, next_column)


def test_a_turned_drawing_turns_as_its_motion_says(tmp_path: Path) -> None:
    stage = Stage("turned", "train", 2, 1, size=64)
    _, shown = stage.stills()
    assert len(shown) == NUM_FRAMES["turned"]
    rng = np.random.default_rng(0)
    for motion in sample_motions(5, "turn", rng):
        which = int(rng.integers(4))
        actors = [shown[frame] for frame in frames_of_turn(motion, which, rng)]
        assert {actor.drawing for (actor,) in actors} == {stage.drawings[which]}
        angles = np.array([actor.angle for (actor,) in actors])
        apart = np.diff(angles) - 45.0 * np.array(motion.steps)
        assert (apart + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=1e-6)
    assert turned_still(3, 7) == turned_still(3, -1) == NUM_FRAMES["turned"] - 1
    stage.write(tmp_path / "turned.mp4")
    frames = load_clip(tmp_path / "turned.mp4", num_frames=NUM_FRAMES["turned"]).frames.astype(int)
    assert min(np.abs(frame - frames[0]).sum() for frame in frames[1:]) > 2_000


def test_made_up_names_begin_differently() -> None:
    names = made_up_names(40, np.random.default_rng(1), avoid=["dax"])
    assert len({name[:2] for name in [*names, "dax"]}) == 41
    with pytest.raises(ValueError, match="not 1000 names"):
        made_up_names(1000, np.random.default_rng(0))


def test_some_rules_are_never_trained() -> None:
    assert set(rules(held_out=True)) == {"second", "beside", "direction and name"}
    assert not set(rules(held_out=True)) & set(rules(held_out=False))
    sequence, move = sample_scene(3, "sequence"), sample_scene(5, "move")
    assert RULES["second"].answer(sequence) == sequence.actors[1].name
    assert RULES["direction and name"].answer(move) == f"{move.main.direction} {move.main.name}"
    for name, rule in RULES.items():
        for kind in rule.kinds:
            said = [rule.answer(sample_scene(seed, kind)) for seed in range(30)]
            assert len({one for one in said if one}) > 1, name
