"""Scenes -> files -> clips, really encoded and really decoded. Imports no torch, for worker processes."""

import tempfile
from pathlib import Path

import numpy as np

from datamodules.world.render import write_picture, write_video
from datamodules.world.sampling import sample_scene
from datamodules.world.scene import Scene
from videoflamingo.clip import Clip
from videoflamingo.video import load_clip

NUM_FRAMES = 8


def make_clip(scene: Scene, num_frames: int = NUM_FRAMES) -> Clip:
    """The scene written to a temporary file and read back: H.264 for videos, PNG for pictures."""
    with tempfile.TemporaryDirectory() as folder:
        if scene.kind == "picture":
            return load_clip(write_picture(scene, Path(folder) / "scene.png"), num_frames=1)
        return load_clip(write_video(scene, Path(folder) / "scene.mp4"), num_frames=num_frames)


def frames_of(job: tuple[int, str, str]) -> np.ndarray:
    """Decoded frames `[T, 3, height, width]` of the scene with this seed, kind and split."""
    return make_clip(sample_scene(*job)).frames
