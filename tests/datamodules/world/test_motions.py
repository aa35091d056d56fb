"""Motions: what is held out, what a reversed one is, and that stages and videos show what they say."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from datamodules.world.motion_clips import write_motion
from datamodules.world.motions import (
    DIRECTIONS,
    FAMILIES,
    LEAST_APART,
    Family,
    Motion,
    motions,
    order_frames,
    sample_motions,
)
from datamodules.world.sampling import drawings_of
from datamodules.world.scene import SAMPLED_FRAMES
from videoflamingo.video import load_clip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pattern_and_its_reverse_are_on_the_same_side(family: Family) -> None:
    for held_out in (False, True):
        for motion in motions(family, held_out):
            assert motion.reversed_in_time().is_held_out == held_out
            assert motion.reversed_in_time().reversed_in_time() == motion


@pytest.mark.parametrize("family", FAMILIES)
def test_some_of_each_family_are_held_out_and_most_are_not(family: Family) -> None:
    trained, held_out = motions(family, False), motions(family, True)
    assert not set(trained) & set(held_out)
    assert len(held_out) >= 15
    assert len(held_out) < len(trained)


def test_what_scenes_show_anyway_is_not_held_out() -> None:
    steady = [Motion("path", (step,) * 7) for step in DIRECTIONS]
    steady += [Motion("turn", (1,) * 7), Motion("turn", (-1,) * 7), Motion("size", (0, 1, 2, 3, 4, 4, 4, 4))]
    assert not any(motion.is_held_out for motion in steady)


def test_an_order_is_held_out_whichever_drawings_it_is_of() -> None:
    sides = {
        Motion("order", (one, two, one, three)).is_held_out for one, two, three in ((0, 1, 2), (3, 0, 1), (2, 1, 0))
    }
    assert len(sides) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_motions_of_an_episode_differ_enough_and_pairs_are_often_reversed(family: Family) -> None:
    num_reversed = 0
    for seed in range(60):
        one, two = sample_motions(2, family, np.random.default_rng(seed))
        assert one.apart(two) >= LEAST_APART
        num_reversed += one.reversed_in_time() == two
    assert num_reversed >= 15
    assert len(set(sample_motions(5, family, np.random.default_rng(0), held_out=True))) == 5


def test_too_many_motions_are_refused() -> None:
    with pytest.raises(ValueError, match="not 500 motions of family turn"):
        sample_motions(500, "turn", np.random.default_rng(0))


def test_states_are_where_steps_lead() -> None:
    path = Motion("path", ((1, 0), (1, 0), (0, -1), (0, -1), (0, -1), (0, 0), (0, 0)))
    assert path.states().tolist() == [[0, 0], [1, 0], [2, 0], [2, -1], [2, -2], [2, -3], [2, -3], [2, -3]]
    assert Motion("order", (2, 0)).states().tolist() == [2, 2, 2, 2, 0, 0, 0, 0]


def test_every_drawing_of_an_order_has_a_frame_and_shares_vary() -> None:
    rng = np.random.default_rng(0)
    order = Motion("order", (0, 1, 0, 2))
    drawn = [tuple(order_frames(order, rng)) for _ in range(50)]
    assert len(set(drawn)) > 3
    for frames in drawn:
        assert [frames[at] for at in range(8) if at == 0 or frames[at] != frames[at - 1]] == [0, 1, 0, 2]


def centre(frame: np.ndarray, background: np.ndarray) -> tuple[float, float] | None:
    """Where something differs from the background, as an angle on the torus along each axis."""
    differs = np.abs(frame.astype(int) - background.astype(int)).sum(0) > 90  # [height, width]
    if differs.sum() < 20:
        return None
    size = len(differs)
    turns = np.exp(2j * np.pi * (np.arange(size) + 0.5) / size)
    x, y = (np.angle((differs.sum(axis) * turns).sum()) / (2 * np.pi) % 1.0 for axis in (0, 1))
    return float(x), float(y)


def test_a_videos_sampled_frames_show_the_states(tmp_path: Path) -> None:
    drawing = drawings_of("held_out")[3]
    path = Motion("path", ((1, 0), (1, 0), (1, 0), (0, 1), (0, 1), (-1, 0), (-1, 0)))
    frames = load_clip(write_motion(path, [drawing], 5, tmp_path / "path.mp4", size=96), num_frames=8).frames
    background = np.median(frames, axis=0)
    places = [centre(frame, background) for frame in frames]
    assert all(place is not None for place in places)
    steps = [
        [(after - before + 0.5) % 1.0 - 0.5 for before, after in zip(one, two, strict=True)]
        for one, two in pairwise(places)  # type: ignore[arg-type]
    ]
    for found, wanted in zip(steps, path.steps, strict=True):
        assert np.allclose(found, 0.14 * np.array(wanted), atol=0.035)

    rhythm = Motion("rhythm", (1, 0, 0, 1, 1, 0, 1, 0))
    frames = load_clip(write_motion(rhythm, [drawing], 5, tmp_path / "rhythm.mp4", size=96), num_frames=8).frames
    shown = [centre(frame, frames[1]) is not None for frame in frames]
    assert shown == [bool(step) for step in rhythm.steps]


def test_the_same_motion_looks_different_with_another_seed(tmp_path: Path) -> None:
    motion = Motion("order", (0, 1, 2))
    one, two, again = (
        load_clip(write_motion(motion, drawings_of("held_out")[:3], seed, tmp_path / "a.mp4", size=64), num_frames=8)
        for seed in (1, 2, 1)
    )
    assert len(one.frames) == SAMPLED_FRAMES
    assert np.array_equal(one.frames, again.frames)
    assert not np.array_equal(one.frames, two.frames)
    with pytest.raises(ValueError, match="more than 2 drawings"):
        write_motion(motion, drawings_of("held_out")[:2], 1, tmp_path / "a.mp4")
