"""Scene -> file -> clip, really encoded and really decoded, for measurements. Imports no torch, for processes."""

import tempfile
from pathlib import Path

from datamodules.world.render import write_picture, write_video
from datamodules.world.scene import SAMPLED_FRAMES, Scene
from videoflamingo.clip import Clip
from videoflamingo.video import load_clip


def make_clip(scene: Scene, num_frames: int = SAMPLED_FRAMES) -> Clip:
    """The scene written to a temporary file and read back: H.264 for videos, PNG for pictures."""
    with tempfile.TemporaryDirectory() as folder:
        if scene.kind == "picture":
            return load_clip(write_picture(scene, Path(folder) / "scene.png"), num_frames=1)
        return load_clip(write_video(scene, Path(folder) / "scene.mp4"), num_frames=num_frames)
