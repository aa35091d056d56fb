"""Samples of different shapes become one batch in which nothing is stored twice."""

import numpy as np
import pytest

from videoflamingo.prompt import Medium, Text
from videoflamingo.training.batch import Sample, collate


def frames(*values: float) -> np.ndarray:
    """`[T, 2, 3]`, float16: frame i is filled with value i."""
    return np.stack([np.full((2, 3), value, np.float16) for value in values])


def test_samples_of_different_numbers_of_media_and_frames_are_padded() -> None:
    batch = collate(
        [
            Sample([Medium(), Medium(), Text("a")], [frames(1, 2, 3), frames(4)], "first"),
            Sample([Medium(), Text("b")], [frames(5, 6)], "second"),
        ]
    )
    assert batch.features[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.frame_index.tolist() == [[[0, 1, 2], [3, -1, -1]], [[4, 5, -1], [-1, -1, -1]]]
    assert batch.names == ["first", "second"]
    assert len(batch) == 2


def test_a_medium_that_appears_twice_is_stored_once() -> None:
    shared = frames(7, 8)
    batch = collate([Sample([Medium(), Medium()], [shared, frames(9)]), Sample([Medium()], [shared])])
    assert batch.features[:, 0, 0].tolist() == [7, 8, 9]
    assert batch.frame_index.tolist() == [[[0, 1], [2, -1]], [[0, 1], [-1, -1]]]


def test_a_medium_played_backwards_is_stored_in_its_own_order() -> None:
    batch = collate([Sample([Medium()], [frames(1, 2, 3)[::-1]])])
    assert batch.features[:, 0, 0].tolist() == [3, 2, 1]


def test_a_sample_without_media_stands_beside_one_with() -> None:
    batch = collate([Sample([Text("a")], []), Sample([Medium()], [frames(1)])])
    assert batch.frame_index.tolist() == [[[-1]], [[0]]]


def test_a_batch_without_media_has_no_frames() -> None:
    batch = collate([Sample([Text("a")], []), Sample([Text("b")], [])])
    assert batch.frame_index.shape == (2, 0, 0)
    assert len(batch.features) == 0


@pytest.mark.parametrize("count", [0, 2])
def test_a_prompt_must_have_a_place_for_each_medium(count: int) -> None:
    with pytest.raises(ValueError, match=f"Sample 'x': the prompt has places for 1 media, but {count} given"):
        Sample([Medium(), Text("a")], [frames(1)] * count, "x")
