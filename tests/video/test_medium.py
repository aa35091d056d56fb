"""Requests for media, and what is done to frames and features once they are read."""

import numpy as np
import pytest

from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video.medium import FilePart, MediumRequest, changed_colours

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6), np.uint8)
FEATURES = np.arange(2 * 9 * 2, dtype=np.float16).reshape(2, 9, 2)


def test_frames_are_mirrored_and_turned_back_to_front() -> None:
    changed = MediumRequest("a.mp4", mirrored=True, backwards=True).changed(FRAMES)
    assert np.array_equal(changed, FRAMES[::-1, :, :, ::-1])


def test_features_are_mirrored_by_their_grids_columns() -> None:
    changed = MediumRequest("a.mp4", mirrored=True).changed(FEATURES)
    grid = FEATURES.reshape(2, 3, 3, 2)
    assert np.array_equal(changed.reshape(2, 3, 3, 2)[:, :, 0], grid[:, :, 2])
    assert np.array_equal(changed.reshape(2, 3, 3, 2)[:, :, 1], grid[:, :, 1])


@pytest.mark.parametrize("frames", [FRAMES, FEATURES])
def test_an_order_chooses_frames_as_often_as_it_names_them(frames: np.ndarray) -> None:
    changed = MediumRequest("a.mp4", order=(1, 1, 0)).changed(frames)
    assert np.array_equal(changed, frames[[1, 1, 0]])
    request = MediumRequest("a.mp4", order=(1, 1, 0), backwards=True)
    assert np.array_equal(request.changed(frames), frames[[0, 1, 1]])
    assert request.times(np.array([0.5, 1.5])).tolist() == [0.5, 1.5, 1.5]


@pytest.mark.parametrize("order", [(), (2,), (0, -1)])
def test_an_order_of_frames_that_are_not_there_is_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"a\.mp4: order \[.*\] must name one frame or more, from 0 to 1"):
        MediumRequest("a.mp4", order=order).changed(FRAMES)


def test_nothing_asked_for_changes_nothing() -> None:
    assert MediumRequest("a.mp4").changed(FRAMES) is FRAMES


def test_what_a_cache_keeps_is_without_changes() -> None:
    request = MediumRequest("a.mp4", order=(1,), mirrored=True, backwards=True, colour_seed=3)
    assert request.unchanged() == MediumRequest("a.mp4")


def test_colours_change_alike_in_all_frames_by_their_seed() -> None:
    still = np.repeat(FRAMES[:1], 3, axis=0)
    changed = changed_colours(still, 5)
    assert (changed == changed[:1]).all()
    assert not np.array_equal(changed, still)
    assert np.array_equal(changed, changed_colours(still, 5))
    assert not np.array_equal(changed, changed_colours(still, 6))


def test_grey_stays_grey_whatever_the_colours() -> None:
    grey = np.repeat(FRAMES[:, :1], 3, axis=1)
    changed = changed_colours(grey, 1).astype(int)
    assert abs(changed - changed[:, :1]).max() <= 1  # rounding


def test_colours_of_features_cannot_be_changed() -> None:
    with pytest.raises(UsageError, match=r"a\.mp4: colours of cached features cannot be changed"):
        MediumRequest("a.mp4", colour_seed=1).changed(FEATURES)


def test_a_part_that_is_not_there_says_so() -> None:
    with pytest.raises(VideoError, match=r"nowhere.tar#0.mp4: cannot be read \(No such file"):
        FilePart("nowhere.tar", 0, 10, "0.mp4").read()
