"""Made-up names: pronounceable, in lower case, of one or two syllables. None is a word that a question uses."""

from collections.abc import Collection

import numpy as np

ONSETS = (
    *("b", "bl", "d", "dr", "f", "fl", "g", "gl", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "r", "s", "sk", "sn"),
    *("st", "t", "tr", "v", "w", "y", "z", "zw"),
)
VOWELS = ("a", "e", "i", "o", "u", "oo", "ee", "ai")
ENDINGS = ("b", "ck", "d", "ft", "g", "lk", "m", "mp", "n", "nt", "p", "rb", "sk", "t", "x", "zz")
ONE_SYLLABLE_SHARE = 0.5


def made_up_names(count: int, rng: np.random.Generator, avoid: Collection[str] = ()) -> list[str]:
    """Names that differ from one another, and from those to avoid, in their first two letters.

    Raises:
        ValueError: if there are not as many.

    Example:
        >>> made_up_names(4, np.random.default_rng(0))
        ['voog', 'blabo', 'yuro', 'puzo']
    """
    taken = {name[:2] for name in avoid}
    names: list[str] = []
    for _ in range(1000 * count):
        if len(names) == count:
            break
        name = _made_up(rng)
        if name[:2] not in taken:
            taken.add(name[:2])
            names.append(name)
    if len(names) < count:
        raise ValueError(f"there are not {count} names that differ in their first two letters")
    return names


def _made_up(rng: np.random.Generator) -> str:
    onset, vowel = (_one_of(parts, rng) for parts in (ONSETS, VOWELS))
    if rng.random() < ONE_SYLLABLE_SHARE:
        return onset + vowel + _one_of(ENDINGS, rng)
    return onset + vowel + _one_of(ONSETS, rng) + _one_of(("a", "e", "i", "o", "u"), rng)


def _one_of(parts: tuple[str, ...], rng: np.random.Generator) -> str:
    return parts[rng.integers(len(parts))]
