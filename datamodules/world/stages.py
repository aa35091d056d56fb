"""Stages: files of stills, out of which clips are put together by choosing frames.

A stage shows a drawing on one background at every place of a grid, at eight angles and in five sizes, or a cast of
four drawings at three places, or at eight angles, each. Any path, rhythm, turn or order is then a choice of eight of
its frames, so that from one entry of a feature cache thousands of clips can be shown, at no cost for the tower. A film
is full of drawings that a camera passes, as real film is full of things; its parts are clips. The file is an H.264
video of the stills at 8 a second.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from datamodules.world.drawings import Drawing
from datamodules.world.motions import SIZE_LEVELS, Motion, order_frames
from datamodules.world.render import frame_at, write_frames
from datamodules.world.sampling import drawings_of, sample_background, sample_slots
from datamodules.world.scene import FRAMES_PER_SECOND, SAMPLED_FRAMES, Actor, Background, Scene
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

STAGES_VERSION = 1  # raised whenever the same stages would show other pixels
GRID = 7  # cells of a side; the frame is a torus
ANGLES = 8
SIZES = (0.56, 0.75, 1.0, 1.33, 1.78)  # of the size at rest
CAST = 4
PLACEMENTS = 3
FOLDER_FILES = 500
STAGE_DRAW, CAST_DRAW, FILM_DRAW = 0x73746167, 0x63617374, 0x66696C6D

TURNED_SIZES = (0.26, 0.42)
FILM_FRAMES = 24
IN_FILM = (5, 12)  # how many drawings a film has, at least and at most
FILM_SIZES = (0.2, 0.8)
CAMERA_STEP, OWN_STEP = 0.03, 0.05  # frame sizes from frame to frame, at most
OWN_STEP_SHARE = 0.4  # of a film's drawings that move by themselves

StageKind = Literal["mover", "cast", "film", "turned"]
EMPTY = 0
NUM_FRAMES: dict[StageKind, int] = {
    "mover": 1 + GRID * GRID + ANGLES + SIZE_LEVELS,
    "cast": 1 + CAST * PLACEMENTS,
    "film": 1 + FILM_FRAMES,
    "turned": 1 + CAST * ANGLES,
}


@dataclass(frozen=True)
class Stage:
    """One file of stills.

    Args:
        kind: `mover` for one drawing, `cast` for four, `turned` for the same four turned, `film` for many at once.
        split: which drawings.
        group: which of the drawings, or of the casts, of the split; of a film, its number.
        background: number of the background; the same drawings have several.
        size: pixels of the square frame's side.
    """

    kind: StageKind
    split: str
    group: int
    background: int
    size: int = 192

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        """Whom it shows: one, or a cast, or those of a film from the farthest to the nearest."""
        if self.kind == "mover":
            return (movers(self.split)[self.group],)
        if self.kind == "film":
            pool, rng = drawings_of(self.split), np.random.default_rng([FILM_DRAW, self.group])
            return tuple(
                pool[index] for index in rng.choice(len(pool), rng.integers(IN_FILM[0], IN_FILM[1] + 1), False)
            )
        return casts(self.split)[self.group]

    def path(self, folder: Path) -> Path:
        """Where it lies below a folder.

        >>> Stage("cast", "train", 7, 2).path(Path("world")).as_posix()
        'world/train-cast-192-v1/000/00007-2.mp4'
        """
        name = f"{self.split}-{self.kind}-{self.size}-v{STAGES_VERSION}"
        return folder / name / f"{self.group // FOLDER_FILES:03d}" / f"{self.group:05d}-{self.background}.mp4"

    def write(self, path: Path) -> None:
        """Make the file."""
        background, shown = self.stills()
        scenes = (Scene("picture", 0, self.split, background, actors, self.size) for actors in shown)
        write_frames((frame_at(scene, 0.0) for scene in scenes), path, FRAMES_PER_SECOND)

    def stills(self) -> tuple[Background, list[tuple[Actor, ...]]]:
        """The background, and who is on it in each frame."""
        split, kind = int(self.split == "held_out"), get_args(StageKind).index(self.kind)
        rng = np.random.default_rng([STAGE_DRAW, split, kind, self.group, self.background])
        background = sample_background(rng)
        shown = {"mover": self._mover, "cast": self._cast, "film": self._film, "turned": self._turned}[self.kind]
        return background, [(), *shown(rng)]

    def _mover(self, rng: np.random.Generator) -> list[tuple[Actor, ...]]:
        (drawing,) = self.drawings
        size = float(rng.uniform(0.26, 0.38))
        offset_x, offset_y = rng.random(2) / GRID
        x, y = rng.uniform(0.35, 0.65, 2)
        cells = [
            Actor(drawing, column / GRID + offset_x, row / GRID + offset_y, size, wraps=True)
            for row in range(GRID)
            for column in range(GRID)
        ]
        resting = Actor(drawing, float(x), float(y), size)
        turned = _at_all_angles(resting)
        sized = [replace(resting, size=size * factor) for factor in SIZES]
        return [(actor,) for actor in (*cells, *turned, *sized)]

    def _cast(self, rng: np.random.Generator) -> list[tuple[Actor, ...]]:
        shown: list[tuple[Actor, ...]] = []
        for drawing in self.drawings:
            for _ in range(PLACEMENTS):
                x, y = (float(place) for place in rng.uniform(0.3, 0.7, 2))
                shown.append((Actor(drawing, x, y, float(rng.uniform(0.35, 0.7))),))
        return shown

    def _turned(self, rng: np.random.Generator) -> list[tuple[Actor, ...]]:
        shown: list[tuple[Actor, ...]] = []
        for drawing in self.drawings:
            x, y = (float(place) for place in rng.uniform(0.35, 0.65, 2))
            size, angle = float(rng.uniform(*TURNED_SIZES)), float(rng.uniform(0.0, 360.0))
            shown += [(actor,) for actor in _at_all_angles(Actor(drawing, x, y, size, angle))]
        return shown

    def _film(self, rng: np.random.Generator) -> list[tuple[Actor, ...]]:
        """Of a torus, over which the camera moves evenly and some of the drawings as well."""
        num = len(self.drawings)
        places, sizes, angles = rng.random((num, 2)), rng.uniform(*FILM_SIZES, num), rng.uniform(-30.0, 30.0, num)
        steps = rng.uniform(-OWN_STEP, OWN_STEP, (num, 2)) * (rng.random((num, 1)) < OWN_STEP_SHARE)
        steps = steps + rng.uniform(-CAMERA_STEP, CAMERA_STEP, 2)  # [N, 2]
        order = np.argsort(-sizes)  # small ones before large ones, so that all are seen
        shown = []
        for at in range(FILM_FRAMES):
            x, y = ((places + at * steps) % 1.0).T
            shown.append(
                tuple(
                    Actor(self.drawings[one], float(x[one]), float(y[one]), float(sizes[one]), float(angles[one]), True)
                    for one in order
                )
            )
        return shown

    def request(self, folder: Path, order: tuple[int, ...] | None = None) -> MediumRequest:
        """Asks for all of its frames, or for a clip of these."""
        return MediumRequest(str(self.path(folder)), Sampling(num_frames=NUM_FRAMES[self.kind]), order=order)


@cache
def movers(split: str) -> tuple[Drawing, ...]:
    """The drawings of a split in a random order that is always the same."""
    pool = drawings_of(split)
    return tuple(pool[index] for index in np.random.default_rng(STAGE_DRAW).permutation(len(pool)))


@cache
def casts(split: str) -> tuple[tuple[Drawing, ...], ...]:
    """Every drawing in a cast of four, and then again with three others; what is left over is in none."""
    pool = drawings_of(split)
    found = []
    for which in range(2):
        order = np.random.default_rng([CAST_DRAW, which]).permutation(len(pool))
        for first in range(0, len(pool) - CAST + 1, CAST):
            found.append(tuple(pool[index] for index in order[first : first + CAST]))
    return tuple(found)


def _at_all_angles(actor: Actor) -> list[Actor]:
    """From its own on, clockwise."""
    return [replace(actor, angle=actor.angle + 360.0 * turn / ANGLES) for turn in range(ANGLES)]


def still_of_cast(which: int, placement: int) -> int:
    """The frame that shows one of the cast."""
    return 1 + which * PLACEMENTS + placement


def sequence_of_cast(stage: Stage, rng: np.random.Generator) -> tuple[Scene, tuple[int, ...]]:
    """Three or four of a `cast` stage one after the other, in an order drawn anew, as a scene and as 8 frames."""
    order = rng.permutation(CAST)[: rng.integers(3, CAST + 1)]
    stills = [still_of_cast(int(which), int(rng.integers(PLACEMENTS))) for which in order]
    background, shown = stage.stills()
    slots = sample_slots(len(stills), rng)
    actors = tuple(replace(shown[still][0], slot=slot) for still, slot in zip(stills, slots, strict=True))
    scene = Scene("sequence", int(rng.integers(2**31)), stage.split, background, actors, stage.size)
    at_times = [[actor.pose_at(time) is not None for actor in actors].index(True) for time in scene.sampled_times()]
    return scene, tuple(stills[at] for at in at_times)


def turned_still(which: int, turn: int) -> int:
    """The frame of a `turned` stage that shows one of the cast, so many eighths from its first angle on."""
    return 1 + which * ANGLES + turn % ANGLES


def frames_of_turn(motion: Motion, which: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The frames of a `turned` stage in which one of the cast turns, from an angle drawn anew."""
    first = int(rng.integers(ANGLES))
    return tuple(turned_still(which, first + int(state)) for state in motion.states())


def frames_of_motion(motion: Motion, rng: np.random.Generator) -> tuple[int, ...]:
    """The frames of a stage that show a motion, from a place, or with placements, drawn anew.

    Of a `mover` stage, but of a `cast` stage for an order.
    """
    if motion.family == "order":
        placements = rng.integers(PLACEMENTS, size=CAST)
        return tuple(still_of_cast(int(which), int(placements[which])) for which in order_frames(motion, rng))
    states = motion.states()
    if motion.family == "path":
        cells = (rng.integers(GRID, size=2) + states) % GRID  # [8, 2]
        return tuple(int(1 + row * GRID + column) for column, row in cells)
    first_turned = 1 + GRID * GRID
    if motion.family == "turn":
        return tuple(int(first_turned + angle) for angle in (rng.integers(ANGLES) + states) % ANGLES)
    if motion.family == "size":
        return tuple(int(first_turned + ANGLES + level) for level in states)
    cell = int(1 + rng.integers(GRID * GRID))
    return tuple(cell if shown else EMPTY for shown in states)


def frames_of_film(rng: np.random.Generator) -> tuple[int, ...]:
    """Eight frames of a `film` stage that follow one another, or every other one, from a time drawn anew."""
    stride = int(rng.integers(1, 3))
    first = int(1 + rng.integers(FILM_FRAMES - stride * (SAMPLED_FRAMES - 1)))
    return tuple(range(first, first + stride * SAMPLED_FRAMES, stride))


def words_of_film(stage: Stage) -> tuple[str, ...]:
    """What there is to say of each of the 8 frames: the names of its drawings, the largest first, again and again."""
    actors = stage.stills()[1][1]
    return tuple(f" here {actors[at % len(actors)].name}" for at in range(SAMPLED_FRAMES))


def words_of_motion(motion: Motion, drawings: tuple[Drawing, ...], frames: tuple[int, ...]) -> list[str]:
    """What there is to say of each of the 8 frames: what happens since the frame before, and whose name."""
    names = [drawings[(frame - 1) // PLACEMENTS].name for frame in frames] if motion.family == "order" else None
    if motion.family == "rhythm":
        doing = ["here" if shown else "gone" for shown in motion.steps]
    elif motion.family == "path":
        doing = [PATH_WORDS[step] for step in motion.steps]
    elif motion.family == "turn":
        doing = [("back", "still", "around")[step + 1] for step in motion.steps]
    elif motion.family == "size":
        doing = [("smaller", "still", "larger")[int(step) + 1] for step in np.sign(np.diff(np.array(motion.steps)))]
    else:
        doing = ["still"] * SAMPLED_FRAMES
    if len(doing) < SAMPLED_FRAMES:
        doing = [doing[0], *doing]
    return [f" {what} {drawings[0].name if names is None else names[at]}" for at, what in enumerate(doing)]


PATH_WORDS = {
    **{(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down", (0, 0): "still"},
    # One token each, which is all that counts.
    **{(1, -1): "north", (1, 1): "east", (-1, 1): "south", (-1, -1): "west"},
}
