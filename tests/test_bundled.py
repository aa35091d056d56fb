"""The model that comes with the package knows what it was trained for: which way drawings move in new videos."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.world import questions, sample_scene, write_video
from videoflamingo import VideoFlamingo, load, load_clip

FIRST_SEED = 4_000_000  # neither trained on, nor shown by the demo
NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def tiny() -> VideoFlamingo:
    return load("tiny")


def test_it_tells_which_way_things_move(tiny: VideoFlamingo, tmp_path: Path) -> None:
    """9 of 12 at least; guessing one of the four directions is that good once in 2500 times."""
    told = []
    for seed in range(FIRST_SEED, FIRST_SEED + NUM_VIDEOS):
        scene = sample_scene(seed, "move")
        clip = load_clip(write_video(scene, tmp_path / f"{seed}.mp4"), num_frames=8)
        (asked,) = [one for one in questions(scene, np.random.default_rng(seed)) if one.skill == "direction"]
        told.append((tiny.ask(clip, asked.question), asked.answer))
    assert sum(said == answer for said, answer in told) >= 9, told
