"""What the controls change in a prompt: shots given each other's videos or answers. Pure functions."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from videoflamingo.evaluation.benchmark import Example
from videoflamingo.video.medium import MediumRequest

WRONG_ANSWER = 0x77726F6E  # keeps this draw apart from others made of the same seed


def swapped_videos(shots: Sequence[Example]) -> list[MediumRequest]:
    """For each shot the medium of another one, different from its own wherever that is possible."""
    turn = _best_turn(shots, lambda shot: shot.medium)
    return [shots[(place + turn) % len(shots)].medium for place in range(len(shots))]


def swapped_answers(shots: Sequence[Example], seed: int) -> list[str]:
    """For each shot a wrong answer: of a close-ended question another of its options, else another shot's answer.

    Where all shots have one answer, it stays: there is nothing to swap.

    Args:
        seed: of the draw among options.
    """
    turn = _best_turn(shots, lambda shot: shot.answers[0])
    swapped = []
    for place, shot in enumerate(shots):
        wrong = [option for option in shot.options if option not in shot.answers]
        if wrong:
            rng = np.random.default_rng([WRONG_ANSWER, seed, number_of(shot.id)])
            swapped.append(wrong[rng.integers(len(wrong))])
        else:
            swapped.append(shots[(place + turn) % len(shots)].answers[0])
    return swapped


def number_of(name: str) -> int:
    """A number from 0 to 2^32 - 1 that stands for a name: for seeds."""
    return zlib.crc32(name.encode())


def _best_turn(shots: Sequence[Example], value: Callable[[Example], object]) -> int:
    """By how many places to turn the shots so that most of them get a different value; the smallest such number."""
    values = [value(shot) for shot in shots]

    def num_changed(turn: int) -> int:
        return sum(values[(place + turn) % len(values)] != own for place, own in enumerate(values))

    return max(range(1, len(shots)), key=num_changed, default=0)
