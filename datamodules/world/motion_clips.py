"""Motions as videos of their own: four seconds at 8 frames a second, everything between the sampled frames shown, too.

For measuring: places, speeds and sizes are of any value here, where stages have a grid of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.world.drawings import Drawing
from datamodules.world.motions import Motion, order_cuts
from datamodules.world.render import frame_at, write_frames
from datamodules.world.sampling import sample_background
from datamodules.world.scene import DURATION_SECONDS, FRAMES_PER_SECOND, GAP_SECONDS, SAMPLED_FRAMES, Actor, Scene

CELL = (0.12, 0.16)  # frame sizes that a path's step is long
SIZE_STEP = 1.33  # each level of size is so many times the one before
SMALLEST = 0.17  # frame sizes, at the lowest level
MOTION_DRAW = 0x6D6F7469


def write_motion(motion: Motion, drawings: Sequence[Drawing], seed: int, path: str | Path, *, size: int = 192) -> Path:
    """Encodes a drawing, or those of an order, doing this from a place and on a background that the seed draws.

    Sampled uniformly with 8 frames, each shows one of the motion's eight states.

    Raises:
        ValueError: if an order names more drawings than are given.
    """
    if motion.family == "order" and max(int(np.max(motion.steps)) + 1, 1) > len(drawings):
        raise ValueError(f"{motion} is of more than {len(drawings)} drawings")
    rng = np.random.default_rng([MOTION_DRAW, seed])
    background = sample_background(rng)
    shown = _Shown(motion, drawings, rng)
    times = np.arange(round(DURATION_SECONDS * FRAMES_PER_SECOND)) / FRAMES_PER_SECOND
    scenes = (Scene("picture", seed, "held_out", background, shown.actors(float(time)), size) for time in times)
    return write_frames((frame_at(scene, 0.0) for scene in scenes), path, FRAMES_PER_SECOND)


class _Shown:
    """What is drawn of a motion: everything that is left open about it."""

    def __init__(self, motion: Motion, drawings: Sequence[Drawing], rng: np.random.Generator) -> None:
        self.motion, self.drawings = motion, drawings
        self.states = motion.states()
        self.place = rng.random(2) if motion.family in ("path", "rhythm") else rng.uniform(0.35, 0.65, 2)
        self.cell = float(rng.uniform(*CELL))
        self.size = float(rng.uniform(0.26, 0.38))
        self.angle = float(rng.uniform(0, 360)) if motion.family == "turn" else 0.0
        if motion.family == "order":
            self.cuts = order_cuts(motion, rng) * GAP_SECONDS
            self.places = rng.uniform(0.3, 0.7, (len(drawings), 2))
            self.sizes = rng.uniform(0.35, 0.7, len(drawings))

    def actors(self, seconds: float) -> tuple[Actor, ...]:
        """Who is there at a time."""
        at = min(max(seconds / GAP_SECONDS - 0.5, 0.0), SAMPLED_FRAMES - 1.0)  # 0 at the first sampled frame
        x, y = (float(value) for value in self.place)
        match self.motion.family:
            case "order":
                which = int(self.motion.steps[int((seconds >= self.cuts).sum())])
                x, y = (float(value) for value in self.places[which])
                return (Actor(self.drawings[which], x, y, float(self.sizes[which])),)
            case "rhythm":
                shown = self.states[min(int(seconds / GAP_SECONDS), SAMPLED_FRAMES - 1)]
                return (Actor(self.drawings[0], x, y, self.size, wraps=True),) if shown else ()
            case "path":
                x += self.cell * self._between(self.states[:, 0], at)
                y += self.cell * self._between(self.states[:, 1], at)
                return (Actor(self.drawings[0], x % 1.0, y % 1.0, self.size, wraps=True),)
            case "turn":
                angle = (self.angle + 45.0 * self._between(self.states, at)) % 360.0
                return (Actor(self.drawings[0], x, y, self.size, angle=angle),)
        size = SMALLEST * SIZE_STEP ** self._between(self.states, at)
        return (Actor(self.drawings[0], x, y, size),)

    @staticmethod
    def _between(states: np.ndarray, at: float) -> float:
        return float(np.interp(at, np.arange(SAMPLED_FRAMES), states))
