"""What a drawing does over eight frames, as a class to be recognised: paths, rhythms, turns, changes of size, orders.

Each is a pattern of time alone: where it begins, on what background and with which drawing is left open, so that the
same motion looks different each time and one frame tells nothing of it. A fixed fifth of each family is held out: by
a hash of the pattern, the same for a pattern and its reverse in time, and never shown in training.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise, product
from typing import Any, Literal

import numpy as np

from datamodules.world.scene import SAMPLED_FRAMES

Family = Literal["path", "rhythm", "turn", "size", "order"]
FAMILIES: tuple[Family, ...] = ("path", "rhythm", "turn", "size", "order")
HELD_OUT_ONE_IN = 5
GAPS = SAMPLED_FRAMES - 1
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))
CUTS = {1: ((7,),), 2: ((2, 5), (3, 4), (4, 3), (5, 2)), 3: ((2, 2, 3), (2, 3, 2), (3, 2, 2))}
SIZE_LEVELS = 5
CUT_JITTER = 1.2  # frames that a cut of an order may be from its even place
LEAST_APART = 3  # of seven steps or eight frames, any two motions of an episode differ in so many


@dataclass(frozen=True)
class Motion:
    """One pattern.

    Args:
        family: which kind.
        steps: of a path 7 steps `(x, y)` of a cell, y down; of a turn 7 steps of an eighth, clockwise positive; of a
            size 8 levels from 0 to 4; of a rhythm 8 times 1 = shown, 0 = not; of an order the drawings by number, one
            after the other.
    """

    family: Family
    steps: tuple[Any, ...]

    def reversed_in_time(self) -> "Motion":
        """Whoever does at the end what this one does at the beginning."""
        back = tuple(reversed(self.steps))
        if self.family == "path":
            return Motion("path", tuple((-x, -y) for x, y in back))
        if self.family == "turn":
            return Motion("turn", tuple(-step for step in back))
        return Motion(self.family, back)

    @property
    def is_held_out(self) -> bool:
        """Whether it is kept from training; what scenes of the world do anyway, never is."""
        if self.family != "rhythm" and self.family != "order" and _is_steady(self):
            return False
        texts = sorted(repr(_named_by_appearance(one)) for one in (self, self.reversed_in_time()))
        digest = hashlib.sha256(f"{self.family} {texts[0]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0

    def states(self) -> np.ndarray:
        """What there is at each of the 8 frames, relative to the beginning: `[8, 2]` cells of a path, else `[8]`.

        Of an order, equal shares of the frames to each; see `order_frames` for other shares.
        """
        if self.family in ("path", "turn"):
            steps = np.array(self.steps)
            return np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])
        if self.family == "order":
            places = np.arange(SAMPLED_FRAMES) * len(self.steps) // SAMPLED_FRAMES
            return np.array(self.steps)[places]
        return np.array(self.steps)

    def apart(self, other: "Motion") -> int:
        """In how many steps, or frames, they differ."""
        if self.family != other.family:
            return SAMPLED_FRAMES
        if self.family == "order":
            return int((self.states() != other.states()).sum())
        return int(sum(one != two for one, two in zip(self.steps, other.steps, strict=True)))


def _is_steady(motion: Motion) -> bool:
    """All in one direction: as movers, spins, what grows and what shrinks."""
    if motion.family == "size":
        steps = np.diff(np.array(motion.steps))
        return bool((steps >= 0).all() or (steps <= 0).all())
    return len(set(motion.steps)) == 1


def _named_by_appearance(motion: Motion) -> tuple[Any, ...]:
    """Steps; of an order, the pattern whichever drawings they are: B A B is A B A."""
    if motion.family != "order":
        return motion.steps
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(step, len(numbers)) for step in motion.steps)


@cache
def motions(family: Family, held_out: bool) -> tuple[Motion, ...]:
    """All patterns of a family that are, or are not, held out."""
    found = [Motion(family, steps) for steps in _PATTERNS[family]()]
    return tuple(motion for motion in dict.fromkeys(found) if motion.is_held_out == held_out)


def sample_motions(count: int, family: Family, rng: np.random.Generator, held_out: bool = False) -> list[Motion]:
    """Motions of one family, any two of them at least `LEAST_APART` apart; half of the time with a reversed pair.

    Raises:
        ValueError: if there are not as many.
    """
    pool = motions(family, held_out)
    chosen: list[Motion] = []
    for _ in range(1000 * count):
        if len(chosen) == count:
            return chosen
        again = len(chosen) == 1 and rng.random() < 0.5
        motion = chosen[0].reversed_in_time() if again else pool[rng.integers(len(pool))]
        if all(motion.apart(other) >= LEAST_APART for other in chosen):
            chosen.append(motion)
    raise ValueError(f"there are not {count} motions of family {family} that differ enough")


def order_cuts(motion: Motion, rng: np.random.Generator) -> np.ndarray:
    """When an order's drawings follow one another, drawn anew, in frames from 0 to 8: each has one frame's length."""
    even = np.arange(1, len(motion.steps)) * SAMPLED_FRAMES / len(motion.steps)
    while True:
        cuts = even + rng.uniform(-CUT_JITTER, CUT_JITTER, len(even))
        if np.diff([0.0, *cuts, SAMPLED_FRAMES]).min() >= 1.0:
            return cuts


def order_frames(motion: Motion, rng: np.random.Generator) -> np.ndarray:
    """Which drawing each of the 8 frames shows: `[8]`, each of an order's at least one frame, shares drawn anew."""
    places = (np.arange(SAMPLED_FRAMES)[:, None] + 0.5 >= order_cuts(motion, rng)).sum(1)
    return np.array(motion.steps)[places]


def _segments(values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Seven steps in one to three pieces of at least two equal ones."""
    found = []
    for pieces, cuts in CUTS.items():
        for chosen in product(values, repeat=pieces):
            if all(len(list(group)) == 1 for _, group in groupby(chosen)):
                found += [
                    tuple(value for value, length in zip(chosen, cut, strict=True) for _ in range(length))
                    for cut in cuts
                ]
    return found


def _paths() -> list[tuple[Any, ...]]:
    return [steps for steps in _segments((*DIRECTIONS, (0, 0))) if any(step != (0, 0) for step in steps)]


def _turns() -> list[tuple[Any, ...]]:
    return [steps for steps in _segments((-1, 0, 1)) if any(steps)]


def _sizes() -> list[tuple[Any, ...]]:
    found = []
    for steps in product(range(-1, 2), repeat=GAPS):
        if sum(one != two for one, two in pairwise(steps)) > 2 or not any(steps):
            continue
        for first in range(SIZE_LEVELS):
            levels = first + np.concatenate([[0], np.cumsum(steps)])
            if levels.min() >= 0 and levels.max() < SIZE_LEVELS and np.ptp(levels) >= 2:
                found.append(tuple(int(level) for level in levels))
    return found


def _rhythms() -> list[tuple[Any, ...]]:
    return [shown for shown in product((0, 1), repeat=SAMPLED_FRAMES) if 2 <= sum(shown) <= SAMPLED_FRAMES - 2]


def _orders() -> list[tuple[Any, ...]]:
    return [
        order
        for length in (3, 4)
        for order in product(range(4), repeat=length)
        if len(set(order)) >= 2 and all(one != two for one, two in pairwise(order))
    ]


_PATTERNS = {"path": _paths, "rhythm": _rhythms, "turn": _turns, "size": _sizes, "order": _orders}
