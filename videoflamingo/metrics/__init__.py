"""Scores of answers and captions that agree with the official scorers.

The functions are pure and need neither torch nor Java. The classes are the same as `torchmetrics.Metric`; they are
loaded when first used.

>>> from videoflamingo.metrics import exact_match
>>> exact_match("A Dog ", ["dog", "a dog"])
1.0
"""

from importlib import import_module
from typing import TYPE_CHECKING

from videoflamingo.metrics.answers import by_kind, exact_match, normalise_answer
from videoflamingo.metrics.captions import CorpusScore, DocumentFrequencies, bleu, cider_d, rouge_l
from videoflamingo.metrics.wordnet import WordNetMissing

if TYPE_CHECKING:
    from videoflamingo.metrics.accumulated import Bleu, ChoiceAccuracy, CiderD, ExactMatch, RougeL, Wups

__all__ = [
    "Bleu",
    "ChoiceAccuracy",
    "CiderD",
    "CorpusScore",
    "DocumentFrequencies",
    "ExactMatch",
    "RougeL",
    "WordNetMissing",
    "Wups",
    "bleu",
    "by_kind",
    "cider_d",
    "exact_match",
    "normalise_answer",
    "rouge_l",
]

# `wups` and `tokenize` are in the modules `wups` and `ptb_tokenizer`
_CLASSES = ("Bleu", "ChoiceAccuracy", "CiderD", "ExactMatch", "RougeL", "Wups")


def __getattr__(name: str) -> object:
    """Import a class on first use (PEP 562): torchmetrics takes seconds to import."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("videoflamingo.metrics.accumulated"), name)
    globals()[name] = value
    return value
