"""The model that comes with the package really looks: it names what moves in videos that nobody has seen before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.world import questions, sample_scene, write_video
from videoflamingo import Clip, VideoFlamingo, load, load_clip

FIRST_SEED = 4_000_000  # neither trained on, nor shown by the demo
NUM_VIDEOS = 24


@pytest.fixture(scope="module")
def tiny() -> VideoFlamingo:
    return load("tiny")


def right_names(tiny: VideoFlamingo, folder: Path, blank: bool) -> int:
    """How often the moving drawing is picked out of four."""
    right = 0
    for seed in range(FIRST_SEED, FIRST_SEED + NUM_VIDEOS):
        scene = sample_scene(seed, "move")
        clip: Clip = load_clip(write_video(scene, folder / f"{seed}.mp4"), num_frames=8)
        if blank:
            clip = replace(clip, frames=np.full_like(clip.frames, 128))
        (asked,) = [one for one in questions(scene, np.random.default_rng(seed)) if one.skill == "object"]
        right += tiny.rank(clip, asked.question, asked.choices)[0].text == asked.answer
    return right


def test_it_names_what_moves_out_of_four(tiny: VideoFlamingo, tmp_path: Path) -> None:
    """15 of 24 at least; guessing is that good once in 10,000 times."""
    assert right_names(tiny, tmp_path, blank=False) >= 15


def test_without_frames_it_can_only_guess(tiny: VideoFlamingo, tmp_path: Path) -> None:
    """12 of 24 at most; guessing is better than that three times in 1,000, and these seeds are fixed."""
    assert right_names(tiny, tmp_path, blank=True) <= 12
