"""A question is never shown with an example of its own video, under whatever name."""

from pathlib import Path

import numpy as np
import pytest

from videoflamingo.errors import UsageError
from videoflamingo.fewshot.leakage import LeakageGuard, overlap
from videoflamingo.video.medium import FilePart, MediumRequest
from videoflamingo.video.sampling import Sampling


def medium(source: str | Path | FilePart, start: float | None = None, end: float | None = None) -> MediumRequest:
    name = source if isinstance(source, FilePart) else str(source)
    return MediumRequest(name, Sampling(start_seconds=start, end_seconds=end))


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("cat.mp4", "dog.mp4", "bird.mp4")]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 200_000)
    return paths


def test_the_same_path_is_the_same_video(videos: list[Path]) -> None:
    guard = LeakageGuard([medium(path) for path in (*videos, videos[1])])
    assert guard.leaks(medium(videos[1])).all == {1, 3}


def test_a_path_spelled_otherwise_or_through_a_link_is_the_same_video(
    videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos[0].parent / "link.mp4").symlink_to(videos[1])
    monkeypatch.chdir(videos[0].parent)
    guard = LeakageGuard([medium(path) for path in videos])
    assert guard.leaks(medium("link.mp4")).all == guard.leaks(medium("./dog.mp4")).all == {1}


def test_a_copy_under_another_name_is_the_same_video(videos: list[Path]) -> None:
    copy = videos[0].parent / "copy.mp4"
    copy.write_bytes(videos[2].read_bytes())
    assert LeakageGuard([medium(path) for path in videos]).leaks(medium(copy)).same_video == {2}


@pytest.mark.parametrize("place", [0, 100_000 - 1])
def test_files_that_differ_at_either_end_are_two_videos(tmp_path: Path, place: int) -> None:
    one, other = tmp_path / "one.mp4", tmp_path / "other.mp4"
    data = bytearray(100_000)
    one.write_bytes(data)
    data[place] = 1
    other.write_bytes(data)
    assert not LeakageGuard([medium(one)]).leaks(medium(other)).all


def test_empty_files_and_missing_ones_are_not_taken_for_copies_of_each_other(tmp_path: Path) -> None:
    for name in ("one.mp4", "other.mp4"):
        (tmp_path / name).touch()
    support = [medium(tmp_path / "one.mp4"), medium(tmp_path / "lost.mp4")]
    guard = LeakageGuard(support)
    assert not guard.leaks(medium(tmp_path / "other.mp4")).all
    assert guard.leaks(medium(tmp_path / "lost.mp4")).all == {1}


def test_a_link_with_another_token_is_the_same_video() -> None:
    guard = LeakageGuard([medium("https://x.org/a.mp4?token=1"), medium("https://x.org/b.mp4")])
    assert guard.leaks(medium("https://x.org/a.mp4?token=2")).all == {0}


def test_parts_of_one_shard_are_videos_of_their_own(videos: list[Path]) -> None:
    shard = str(videos[0])
    support = [medium(FilePart(shard, 0, 100, "a.mp4")), medium(FilePart(shard, 100, 100, "b.mp4"))]
    assert LeakageGuard(support).leaks(medium(FilePart(shard, 100, 100, "b.mp4"))).all == {1}


def test_all_parts_of_the_asked_video_are_kept_away(videos: list[Path]) -> None:
    guard = LeakageGuard([medium(videos[0], 0, 2), medium(videos[0], 8, 9), medium(videos[1], 0, 2)])
    assert guard.leaks(medium(videos[0], 5, 6)).all == {0, 1}


def test_other_parts_may_be_shown_where_that_is_allowed_but_not_overlapping_ones(videos: list[Path]) -> None:
    support = [medium(videos[0], 0, 2), medium(videos[0], 4, 6), medium(videos[0], 5.5), medium(videos[0])]
    guard = LeakageGuard(support, other_parts=True)
    assert guard.leaks(medium(videos[0], 2, 5)).all == {1, 3}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [((0, 2), (2, 4), False), ((0, 2.1), (2, 4), True), ((None, None), (3, 4), True), ((None, 1), (1, None), False)],
)
def test_parts_overlap_if_a_moment_is_in_both(
    one: tuple[float | None, float | None], other: tuple[float | None, float | None], common: bool
) -> None:
    assert overlap(medium("a.mp4", *one), medium("a.mp4", *other)) is common
    assert overlap(medium("a.mp4", *other), medium("a.mp4", *one)) is common


def test_videos_with_nearly_the_same_features_are_duplicates() -> None:
    asked = np.array([3.0, 4.0, 0.0])
    features = np.array([[3.0, 4.0, 0.01], [6.0, 8.0, 0.0], [3.0, 4.0, 1.0], [3.0, 4.0, 0.0]])
    guard = LeakageGuard([medium(f"{name}.mp4") for name in "abcd"], features=features)
    assert guard.leaks(medium("d.mp4"), asked) == (frozenset({3}), frozenset({0, 1}))


@pytest.mark.parametrize("least", [0.9, None])
def test_how_alike_duplicates_are_can_be_said(least: float | None) -> None:
    features = np.array([[1.0, 0.4]])
    guard = LeakageGuard([medium("a.mp4")], features=features, duplicate_similarity=least)
    assert guard.leaks(medium("b.mp4"), np.array([1.0, 0.0])).duplicates == ({0} if least else set())


def test_a_video_without_features_is_compared_by_name_only() -> None:
    guard = LeakageGuard([medium("a.mp4")], features=np.ones((1, 2)))
    assert not guard.leaks(medium("b.mp4")).all


def test_a_similarity_that_no_cosine_has_is_refused() -> None:
    with pytest.raises(UsageError, match="duplicate_similarity is 2; give a cosine"):
        LeakageGuard([], duplicate_similarity=2)
