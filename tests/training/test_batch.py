"""Samples of different shapes become one batch in which nothing is stored twice."""

import numpy as np
import pytest

from videoflamingo.prompt import Medium, Segment, Text
from videoflamingo.training.batch import Sample, collate
from videoflamingo.training.texts import PlannedText
from videoflamingo.video.medium import MediumRequest


def features(*values: float) -> np.ndarray:
    """`[T, 2, 3]`, float16: frame i is filled with value i."""
    return np.stack([np.full((2, 3), value, np.float16) for value in values])


def frames(num_frames: int, height: int, width: int) -> np.ndarray:
    return np.arange(num_frames * 3 * height * width, dtype=np.uint8).reshape(num_frames, 3, height, width)


def sample(segments: list[Segment], media: list[np.ndarray], name: str = "") -> Sample:
    requests = [MediumRequest(f"{number}.mp4") for number in range(len(media))]
    return Sample(PlannedText(segments, requests), media, name)


def test_samples_of_different_numbers_of_media_and_frames_are_padded() -> None:
    batch = collate(
        [
            sample([Medium(), Medium(), Text("a")], [features(1, 2, 3), features(4)], "first"),
            sample([Medium(), Text("b")], [features(5, 6)], "second"),
        ]
    )
    assert batch.features[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.frame_index.tolist() == [[[0, 1, 2], [3, -1, -1]], [[4, 5, -1], [-1, -1, -1]]]
    assert batch.names == ["first", "second"]
    assert (len(batch), batch.num_media, batch.frames) == (2, 3, [])


def test_a_medium_that_appears_twice_is_stored_once() -> None:
    shared = features(7, 8)
    batch = collate([sample([Medium(), Medium()], [shared, features(9)]), sample([Medium()], [shared])])
    assert batch.features[:, 0, 0].tolist() == [7, 8, 9]
    assert batch.frame_index.tolist() == [[[0, 1], [2, -1]], [[0, 1], [-1, -1]]]


def test_a_medium_played_backwards_is_stored_in_its_own_order() -> None:
    batch = collate([sample([Medium()], [features(1, 2, 3)[::-1]])])
    assert batch.features[:, 0, 0].tolist() == [3, 2, 1]


def test_frames_of_any_size_stand_beside_features_and_follow_them() -> None:
    small, large = frames(2, 4, 6), frames(1, 8, 8)[..., ::-1]
    batch = collate([sample([Medium(), Medium()], [small, features(1, 2, 3)]), sample([Medium()], [large])])
    assert batch.features[:, 0, 0].tolist() == [1, 2, 3]
    assert [one.tolist() for one in batch.frames] == [small.tolist(), large.tolist()]
    assert batch.frame_index.tolist() == [[[3, 4, -1], [0, 1, 2]], [[5, -1, -1], [-1, -1, -1]]]


def test_a_sample_without_media_stands_beside_one_with() -> None:
    batch = collate([sample([Text("a")], []), sample([Medium()], [features(1)])])
    assert batch.frame_index.tolist() == [[[-1]], [[0]]]


def test_a_batch_without_media_has_no_frames() -> None:
    batch = collate([sample([Text("a")], []), sample([Text("b")], [])])
    assert batch.frame_index.shape == (2, 0, 0)
    assert batch.features is None
    assert (batch.frames, batch.num_media) == ([], 0)


def test_a_batch_of_nothing_is_a_batch() -> None:
    batch = collate([])
    assert (len(batch), batch.features, batch.num_media) == (0, None, 0)


@pytest.mark.parametrize("count", [0, 2])
def test_a_prompt_must_have_a_place_for_each_medium(count: int) -> None:
    requests = [MediumRequest("a.mp4")] * count
    with pytest.raises(ValueError, match=f"x: the prompt has places for 1 media, but {count} are given"):
        PlannedText([Medium(), Text("a")], requests, place="x")


def test_a_sample_must_have_all_media_its_text_asks_for() -> None:
    text = PlannedText([Medium(), Text("a")], [MediumRequest("a.mp4")])
    with pytest.raises(ValueError, match="Sample 'x': 1 media are asked for, but 0 given"):
        Sample(text, [], "x")
