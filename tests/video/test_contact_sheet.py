"""A contact sheet shows every frame of every clip."""

import numpy as np
import pytest

from videoflamingo.clip import Clip
from videoflamingo.video import contact_sheet


def plain_clip(num_frames: int, colour: tuple[int, int, int], source: str = "clip.mp4") -> Clip:
    frames = np.broadcast_to(np.array(colour, np.uint8)[None, :, None, None], (num_frames, 3, 40, 80)).copy()
    return Clip(frames, np.arange(num_frames, dtype=np.float64), source)


def area_of(colour: tuple[int, int, int], sheet: np.ndarray) -> int:
    return int((sheet == colour).all(axis=-1).sum())


def test_every_frame_is_drawn() -> None:
    red, green = (210, 10, 10), (10, 200, 10)
    few = np.asarray(contact_sheet([plain_clip(3, red), plain_clip(1, green)]))
    many = np.asarray(contact_sheet([plain_clip(11, red)]))  # more than a row
    one_frame = area_of(green, few)
    assert one_frame > 0.8 * 240 * 120  # all but the label
    assert area_of(red, few) == pytest.approx(3 * one_frame, rel=0.02)
    assert area_of(red, many) == pytest.approx(11 * one_frame, rel=0.02)


def test_times_are_legible() -> None:
    sheet = np.asarray(contact_sheet([plain_clip(1, (210, 10, 10))]).convert("L"))
    label = sheet[30:50, 6:70]
    assert label.max() - label.min() > 200


def test_a_long_title_is_shortened_to_fit() -> None:
    sheet = np.asarray(contact_sheet([plain_clip(1, (9, 9, 9), "folder/" * 60 + "clip.mp4")]))
    assert (sheet[:30, -5:] == sheet[0, 0]).all()


def test_captions_must_match_the_clips() -> None:
    clip = plain_clip(1, (9, 9, 9))
    titled, other = (np.asarray(contact_sheet([clip], [title])) for title in ("a cat", "a dog"))
    assert (titled != other).any()
    with pytest.raises(ValueError, match="1 clips need as many captions, got 2"):
        contact_sheet([clip], ["a", "b"])
    with pytest.raises(ValueError, match="at least one clip"):
        contact_sheet([])
