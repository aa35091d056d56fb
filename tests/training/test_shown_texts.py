"""The first texts of a batch, and their media as small pictures with times."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.videos import packed, write_video
from tests.video.kinds import read_index
from videoflamingo.prompt import Medium, PromptTemplate, Segment, Text
from videoflamingo.training.batch import Batch, Sample, collate
from videoflamingo.training.shown_texts import MOST_FRAMES, MOST_MEDIA, first_texts, read_medium, shown_media
from videoflamingo.training.texts import PlannedText
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., MediumRequest]:
    """Four frames of a video whose frames are 0, 1, ..., 11, ten a second: those of 0.1, 0.4, 0.7 and 1.0 s."""
    path = write_video(tmp_path / "clip.mp4")
    return lambda **changes: MediumRequest(str(path), Sampling(num_frames=4), **changes)


def sample(*media: tuple[MediumRequest, np.ndarray]) -> Sample:
    segments: list[Segment] = [*(Medium() for _ in media), Text("a")]
    return Sample(PlannedText(segments, [one for one, _ in media]), [array for _, array in media], "own")


def frames_of(value: int, count: int = 2) -> np.ndarray:
    return np.full((count, 3, 8, 8), value, np.uint8)


def features_of(value: int, count: int = 2) -> np.ndarray:
    return np.full((count, 4, 2), value, np.float16)


def values_seen(batch: Batch) -> list[list[list[int]]]:
    """For each text and medium, the value of each frame that `frame_index` leads to."""
    features = [] if batch.features is None else [int(one[0, 0]) for one in batch.features]
    everything = features + [int(frame[0, 0, 0]) for clip in batch.frames for frame in clip]
    return [[[everything[at] for at in medium if at >= 0] for medium in row] for row in batch.frame_index.tolist()]


def test_the_first_texts_keep_their_own_media_and_no_others(request_of: Callable[..., MediumRequest]) -> None:
    own, shared = request_of(), frames_of(7)
    samples = [
        sample((own, features_of(1)), (own, frames_of(2, 3))),
        sample((own, shared)),
        sample((own, features_of(4))),
        sample((own, shared), (own, frames_of(6))),
    ]
    whole = collate(samples)
    first = first_texts(whole, 2)
    assert values_seen(first) == [[[1, 1], [2, 2, 2]], [[7, 7], []]]
    assert values_seen(first) == values_seen(whole)[:2]
    assert len(first) == 2 and first.names == ["own", "own"]
    assert [len(clip) for clip in first.frames] == [3, 2]
    assert first.features is not None and len(first.features) == 2


def test_texts_without_media_may_be_the_first(request_of: Callable[..., MediumRequest]) -> None:
    first = first_texts(collate([sample(), sample((request_of(), features_of(1)))]), 1)
    assert first.features is None and first.frames == [] and first.num_media == 0


def test_more_texts_than_there_are_is_all_of_them(request_of: Callable[..., MediumRequest]) -> None:
    whole = collate([sample((request_of(), frames_of(1)))])
    assert values_seen(first_texts(whole, 5)) == values_seen(whole)


def test_the_first_texts_are_answered_as_in_the_whole_batch(
    make_module: Callable[..., object], make_batch: Callable[[int, int], Batch]
) -> None:
    module, batch = make_module().eval(), make_batch(0, 4)
    with torch.no_grad():
        assert module.predict_step(first_texts(batch, 2), 0) == module.predict_step(batch, 0)[:2]


def indices_in(urls: tuple[str, ...]) -> list[int]:
    """The index that each picture shows."""
    opened = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))) for url in urls]
    return [read_index(np.asarray(image.resize((128, 96)))) for image in opened]


def test_cached_media_are_read_from_the_file_with_their_times(request_of: Callable[..., MediumRequest]) -> None:
    (medium,) = shown_media(collate([sample((request_of(), features_of(0, 4)))]), 0)
    assert indices_in(medium.frames) == [1, 4, 7, 10]
    assert medium.times_seconds == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert medium.name.endswith("clip.mp4") and medium.note == ""


def test_frames_that_the_model_sees_are_the_ones_shown(request_of: Callable[..., MediumRequest]) -> None:
    """The batch's, also where the file has changed meanwhile."""
    request = request_of()
    seen = read_medium(request).frames
    write_video(Path(request.name), first=100)
    (medium,) = shown_media(collate([sample((request, seen))]), 0)
    assert indices_in(medium.frames) == [1, 4, 7, 10]


def test_a_video_shown_backwards_has_its_times_backwards(request_of: Callable[..., MediumRequest]) -> None:
    (medium,) = shown_media(collate([sample((request_of(backwards=True), features_of(0, 4)))]), 0)
    assert indices_in(medium.frames) == [10, 7, 4, 1]
    assert medium.times_seconds == pytest.approx([1.0, 0.7, 0.4, 0.1])


def test_other_changes_are_shown_too(request_of: Callable[..., MediumRequest]) -> None:
    plain, mirrored = read_medium(request_of()).frames, read_medium(request_of(mirrored=True)).frames
    assert np.array_equal(mirrored, plain[..., ::-1]) and not np.array_equal(mirrored, plain)


def test_a_part_of_a_tar_file_is_shown(tmp_path: Path) -> None:
    part = packed(write_video(tmp_path / "clip.mp4"), tmp_path / "shard.tar")
    (medium,) = shown_media(collate([sample((MediumRequest(part, Sampling(num_frames=2)), features_of(0)))]), 0)
    assert indices_in(medium.frames) == [3, 9]
    assert medium.name.endswith("shard.tar#clip.mp4")


@pytest.mark.parametrize("media", [features_of(0, 4), frames_of(5, 4)], ids=["features", "frames"])
def test_a_file_that_is_gone_is_said(request_of: Callable[..., MediumRequest], media: np.ndarray) -> None:
    request = request_of()
    Path(request.name).unlink()
    (medium,) = shown_media(collate([sample((request, media))]), 0)
    assert medium.note.startswith("the file cannot be read any more: ") and "clip.mp4" in medium.note
    assert len(medium.frames) == (4 if media.ndim == 4 else 0)
    assert medium.times_seconds is None


def test_of_long_videos_some_frames_are_shown(request_of: Callable[..., MediumRequest]) -> None:
    request = replace(request_of(), sampling=Sampling(num_frames=12))
    (medium,) = shown_media(collate([sample((request, features_of(0, 12)))]), 0)
    assert len(medium.frames) == MOST_FRAMES and medium.num_frames == 12
    assert indices_in(medium.frames)[0] == 0 and indices_in(medium.frames)[-1] == 11


def test_of_many_media_the_first_are_shown(request_of: Callable[..., MediumRequest]) -> None:
    many = [(request_of(seed=number), frames_of(number)) for number in range(MOST_MEDIA + 3)]
    assert len(shown_media(collate([sample(*many)]), 0)) == MOST_MEDIA


def test_a_caption_is_a_text_with_one_medium(request_of: Callable[..., MediumRequest]) -> None:
    text = PlannedText(PromptTemplate().ask(None, "a dog"), [request_of()])
    assert len(shown_media(collate([Sample(text, [frames_of(1)])]), 0)) == 1
