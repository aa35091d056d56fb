"""Porter's stemmer (M. F. Porter, "An algorithm for suffix stripping", 1980) with the changes that NLTK makes to it.

WUPS stems a word whose base form WordNet does not have. NLTK's changes: a few irregular words, no change of words of
two letters, `ies` and `ied` of four-letter words become `ie`, a final `y` only changes after a consonant that is not
the first letter, and a few more endings in the second step.
"""

from functools import cache
from itertools import pairwise

_IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
}
_UNCHANGED = frozenset(["howe", "proceed", "exceed", "succeed", "news", "inning", "outing", "canning", "sky"])

_STEP_2 = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
]
_STEP_3 = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
]
# of several that fit, the first is tried: longer ones stand before what they end in
_STEP_4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"


@cache
def stem(word: str) -> str:
    """The stem of a word in small letters.

    >>> [stem(word) for word in ("towards", "caresses", "relational")]
    ['toward', 'caress', 'relat']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2 or word in _UNCHANGED:
        return word
    for step in (_plural, _past, _final_y, _double_suffixes, _single_suffixes, _bare_suffixes, _final_e):
        word = step(word)
    return word


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + ("ie" if len(word) == 4 else "i")
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-3] + ("ie" if len(word) == 4 else "i")
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    for ending in ("ed", "ing"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and _has_vowel(rest):
            return _mended(rest)
    return word


def _mended(rest: str) -> str:
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and _is_consonant(rest, len(rest) - 1):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _final_y(word: str) -> str:
    changes = word.endswith("y") and len(word) > 2 and _is_consonant(word, len(word) - 2)
    return word[:-1] + "i" if changes else word


def _double_suffixes(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]):
        return _double_suffixes(word[:-2])
    for ending, other in _STEP_2:
        if word.endswith(ending):
            return word[: -len(ending)] + other if _measure(word[: -len(ending)]) else word
    if word.endswith("logi") and _measure(word[:-3]):
        return word[:-1]
    return word


def _single_suffixes(word: str) -> str:
    for ending, other in _STEP_3:
        if word.endswith(ending):
            return word[: -len(ending)] + other if _measure(word[: -len(ending)]) else word
    return word


def _bare_suffixes(word: str) -> str:
    for ending in _STEP_4.split():
        if word.endswith(ending):
            rest = word[: -len(ending)]
            kept = _measure(rest) <= 1 or (ending == "ion" and not rest.endswith(("s", "t")))
            return word if kept else rest
    return word


def _final_e(word: str) -> str:
    if word.endswith("e"):
        rest = word[:-1]
        if _measure(rest) > 1 or (_measure(rest) == 1 and not _ends_short(rest)):
            word = rest
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _is_consonant(word: str, place: int) -> bool:
    """A `y` is one at the start and after a vowel."""
    if word[place] != "y":
        return word[place] not in "aeiou"
    return place == 0 or not _is_consonant(word, place - 1)


def _has_vowel(word: str) -> bool:
    return not all(_is_consonant(word, place) for place in range(len(word)))


def _measure(word: str) -> int:
    """How many times vowels are followed by consonants."""
    kinds = [_is_consonant(word, place) for place in range(len(word))]
    return sum(not before and after for before, after in pairwise(kinds))


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant that is not w, x or y; or just vowel and consonant."""
    kinds = [_is_consonant(word, place) for place in range(max(0, len(word) - 3), len(word))]
    if len(word) == 2:
        return kinds == [False, True]
    return kinds == [True, False, True] and word[-1] not in "wxy"
