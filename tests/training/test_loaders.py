"""Steps and batches with their media read: from files, in order, and with those left out that cannot be read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.videos import packed, write_video
from videoflamingo import load_clip
from videoflamingo.errors import VideoError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.loaders import MediaReader, PlannedPart, StepLoader, TextLoader
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five that can be read; number 5 is no video."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{number}.mp4", 20 * number) for number in range(5)]
    (folder / "5.mp4").write_text("no video")
    return [*paths, folder / "5.mp4"]


def request_of(path: Path, **changes: object) -> MediumRequest:
    return replace(MediumRequest(str(path), Sampling(num_frames=3)), **changes)


def text_of(request: MediumRequest) -> PlannedText:
    return PlannedText(PromptTemplate().ask(None, "a number"), [request], place=request.name)


@pytest.fixture
def plan(videos: list[Path]) -> Callable[[int], list[PlannedPart]]:
    """Step i asks for videos i and i + 1."""

    def two(step: int) -> list[PlannedPart]:
        texts = [("a", text_of(request_of(videos[number % 5]))) for number in (step, step + 1)]
        return [PlannedPart("a", 1.0, [texts])]

    return two


def frames_of(path: Path) -> np.ndarray:
    return load_clip(path, num_frames=3).frames


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("prefetch_steps", [0, 3])
def test_an_epoch_begins_with_the_step_after_the_last_one_taken(
    plan: Callable[[int], list[PlannedPart]], videos: list[Path], num_workers: int, prefetch_steps: int
) -> None:
    media = MediaReader(num_workers=num_workers)
    taken = 6
    loader = StepLoader(plan, media, 3, lambda: taken, prefetch_steps=prefetch_steps)
    steps = list(loader)
    assert [step.index for step in steps] == [6, 7, 8]
    for step in steps:
        (batch,) = step.parts[0].batches
        expected = [frames_of(videos[number % 5]) for number in (step.index, step.index + 1)]
        assert all(np.array_equal(own, other) for own, other in zip(batch.frames, expected, strict=True))
    taken = 9
    assert [step.index for step in loader] == [9, 10, 11]
    media.close()


def test_steps_begun_for_later_are_used_in_the_next_epoch_and_given_up_after_a_jump(
    plan: Callable[[int], list[PlannedPart]],
) -> None:
    planned: list[int] = []

    def noted(step: int) -> list[PlannedPart]:
        planned.append(step)
        return plan(step)

    taken = 0
    loader = StepLoader(noted, MediaReader(), 2, lambda: taken, prefetch_steps=2)
    list(loader)
    assert planned == [0, 1, 2, 3]
    taken = 2
    list(loader)
    assert planned == [0, 1, 2, 3, 4, 5]
    taken = 10
    assert next(iter(loader)).index == 10
    assert planned[6:] == [10, 11, 12]


def test_a_text_whose_video_cannot_be_read_is_left_out_and_named(videos: list[Path]) -> None:
    texts = [("a", text_of(request_of(path))) for path in (videos[0], videos[5], videos[1])]
    loader = StepLoader(lambda _: [PlannedPart("a", 1.0, [texts])], MediaReader(), 1, lambda: 0)
    (step,) = loader
    assert [text.place for text in step.parts[0].batches[0].texts] == [str(videos[0]), str(videos[1])]
    ((name, reason),) = step.failed
    assert name == str(videos[5])
    assert name in reason


def test_too_many_that_cannot_be_read_end_the_run(videos: list[Path]) -> None:
    texts = [("a", text_of(request_of(path))) for path in (videos[0], videos[5])]
    loader = StepLoader(lambda _: [PlannedPart("a", 1.0, [texts])], MediaReader(), 100, lambda: 0, max_failed_share=0.2)
    with pytest.raises(VideoError, match=r"11 of 22 media could not be read, more than data.max_failed_share=0.2"):
        list(loader)


def test_a_medium_asked_for_twice_is_read_once(videos: list[Path]) -> None:
    same, mirrored = request_of(videos[2]), request_of(videos[2], mirrored=True)
    texts = [("a", text_of(request)) for request in (same, request_of(videos[2]), mirrored)]
    (step,) = StepLoader(lambda _: [PlannedPart("a", 1.0, [texts])], MediaReader(), 1, lambda: 0)
    batch = step.parts[0].batches[0]
    assert len(batch.frames) == 2
    assert batch.frame_index.tolist() == [[[0, 1, 2]], [[0, 1, 2]], [[3, 4, 5]]]
    assert np.array_equal(batch.frames[1], batch.frames[0].flip(-1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_part_of_a_file_is_read_and_a_broken_one_left_out(
    videos: list[Path], tmp_path: Path, num_workers: int
) -> None:
    part = packed(videos[3], tmp_path / "shard.tar")
    gone = replace(part, offset=10**9)
    media = MediaReader(num_workers=num_workers)
    texts = [("a", text_of(MediumRequest(source, Sampling(num_frames=3)))) for source in (part, gone)]
    (step,) = StepLoader(lambda _: [PlannedPart("a", 1.0, [texts])], media, 1, lambda: 0)
    media.close()
    assert np.array_equal(step.parts[0].batches[0].frames[0], frames_of(videos[3]))
    ((_, reason),) = step.failed
    assert "the file ends within it" in reason


class Validation(Texts):
    """The videos, in order."""

    def __init__(self, videos: list[Path]) -> None:
        self.videos = videos

    def size(self, split: Split) -> int:
        return len(self.videos)

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        assert draw == Draw(position=index)
        return text_of(request_of(self.videos[index]))


def test_a_split_is_read_in_order_and_what_cannot_be_read_is_kept_account_of(videos: list[Path]) -> None:
    loader = TextLoader("own", Validation(videos), "validate", MediaReader(), 4)
    batches = list(loader)
    assert len(loader) == 2
    assert [[text.place for text in batch.texts] for batch in batches] == [
        [str(path) for path in videos[:4]],
        [str(videos[4])],
    ]
    assert [name for name, _ in loader.failed] == [str(videos[5])]


def test_processes_share_a_split_in_equally_many_batches(videos: list[Path]) -> None:
    texts = Validation(videos[:5])
    shares = [list(TextLoader("own", texts, "validate", MediaReader(), 2, rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in share] for share in shares] == [[2, 1], [2, 0]]
    places = [text.place for share in shares for batch in share for text in batch.texts]
    assert sorted(places) == [str(path) for path in videos[:5]]
