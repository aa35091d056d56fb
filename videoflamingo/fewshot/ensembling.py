"""One question asked with its shots in several orders, and what its choices then get together (Flamingo v1 3.3)."""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from videoflamingo.errors import UsageError
from videoflamingo.pipeline import Answer

T = TypeVar("T")
ALL_ORDERS_UP_TO = 6  # shots: 720 orders can be listed; of more, distinct ones are drawn


def orders(shots: Sequence[T], count: int, seed: int) -> list[tuple[T, ...]]:
    """That many different orders of the shots, the given one first; all there are, if there are fewer.

    The paper takes 6 and does not say which.

    Args:
        seed: of the draw; one seed always gives the same.

    Raises:
        UsageError: if `count` is less than 1.

    Example:
        >>> orders("ab", 6, seed=0)
        [('a', 'b'), ('b', 'a')]
    """
    if count < 1:
        raise UsageError(f"ensemble is {count}; give 1 or more orders of the shots (the paper's is 6)")
    given = tuple(range(len(shots)))
    generator = np.random.default_rng(seed)
    if len(shots) <= ALL_ORDERS_UP_TO:
        others = list(itertools.permutations(given))[1:]
        found = [given, *(others[place] for place in generator.permutation(len(others)))]
    else:
        drawn = {given: None}
        while len(drawn) < min(count, math.factorial(ALL_ORDERS_UP_TO)):
            drawn.setdefault(tuple(generator.permutation(len(shots)).tolist()))
        found = list(drawn)
    return [tuple(shots[place] for place in order) for order in found[:count]]


def ensembled(answers: Sequence[Answer]) -> Answer:
    """One choice, scored once with each order of the shots: the mean of its log-likelihoods.

    `lowest` is the lowest of them all.

    Raises:
        UsageError: if they are not scores of one text.

    Example:
        >>> ensembled([Answer("red", -1.0, 2, -1.5), Answer("red", -2.0, 2, -2.5)])
        Answer(text='red', score=-1.5, num_tokens=2, lowest=-2.5)
    """
    if len({(answer.text, answer.num_tokens) for answer in answers}) != 1:
        raise UsageError(
            f"answers {[answer.text for answer in answers]} are not scores of one choice; give one at a time"
        )
    mean = sum(answer.score for answer in answers) / len(answers)
    return Answer(answers[0].text, mean, answers[0].num_tokens, min(answer.lowest for answer in answers))
