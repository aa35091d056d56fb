"""Whether an answer in words is right."""

from collections.abc import Sequence


def normalise_answer(text: str) -> str:
    """Small letters, no space around, one space between words.

    MSRVTT-QA and MSVD-QA are scored by exact match with a word in small letters (Flamingo, arXiv:2204.14198v2 appendix
    B.1, gives nothing more): punctuation, articles and word forms are not forgiven.

    >>> normalise_answer("  Playing   Guitar ")
    'playing guitar'
    """
    return " ".join(text.lower().split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of the accepted answers after `normalise_answer`, else 0.0; empty is never right."""
    normalised = normalise_answer(prediction)
    return float(bool(normalised) and any(normalised == normalise_answer(answer) for answer in answers))


def by_kind(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, float]:
    """Mean of scores in [0, 1], times 100: of all under `all`, and of every kind that has a name, in order of name.

    >>> by_kind([1.0, 0.0, 1.0], ["how", "how", ""])
    {'all': 66.66666666666667, 'how': 50.0}
    """
    means = {"all": 100 * sum(scores) / len(scores)}
    for kind in sorted(set(kinds) - {""}):
        own = [score for score, its_kind in zip(scores, kinds, strict=True) if its_kind == kind]
        means[kind] = 100 * sum(own) / len(own)
    return means
