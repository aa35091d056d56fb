"""CIDEr-D, BLEU-1 to 4 and ROUGE-L of captions, as COCO's scorers compute them; all as papers report them, times 100.

What papers call CIDEr is CIDEr-D of coco-caption (Vedantam et al., arXiv:1411.5726v2 section 5, and its code): counts
of 1- to 4-grams weighted by how few of the videos have them in their references, clipped to the reference's, and a
penalty on a difference of lengths. Because the weights come from the references that are scored, numbers of different
subsets cannot be compared: score a whole split at once, or give the frequencies of one.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from videoflamingo.errors import UsageError
from videoflamingo.metrics.ptb_tokenizer import tokenize as ptb_tokenize

Ngram = tuple[str, ...]
Tokenizer = Callable[[str], list[str]]

NGRAM_LENGTHS = (1, 2, 3, 4)
CIDER_SIGMA = 6.0  # of the penalty on lengths
CIDER_SCALE = 10.0  # of CIDEr-D to CIDEr's range
ROUGE_BETA = 1.2
PERCENT = 100.0
# coco-caption's, so that an order without matches gives almost nothing instead of an undefined logarithm
BLEU_MATCHES_AT_LEAST = 1e-15
BLEU_TRIED_AT_LEAST = 1e-9


@dataclass(frozen=True)
class CorpusScore:
    """One number for all captions, and one for each, in the given order; times 100."""

    value: float
    per_item: list[float]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many videos' references an n-gram occurs; what makes CIDEr-D of a part of a split comparable.

    Args:
        num_items: how many videos were counted.
        counts: of n-grams of 1 to 4 words, joined by spaces.
    """

    num_items: int
    counts: dict[str, int]

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.write_text(json.dumps({"num_items": self.num_items, "counts": self.counts}), "utf-8")

    @classmethod
    def load(cls, path: Path) -> "DocumentFrequencies":
        """Read what `save` wrote.

        Raises:
            UsageError: if the file cannot be read as such.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(int(found["num_items"]), {str(ngram): int(count) for ngram, count in found["counts"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path}: holds no document frequencies ({error!r}); give a file that DocumentFrequencies.save wrote"
            ) from error

    @cached_property
    def log_num_items(self) -> float:
        """Weight of an n-gram that no reference has."""
        return math.log(self.num_items)

    def weight(self, ngram: Ngram) -> float:
        """Inverse document frequency: log(videos / videos with it)."""
        return self.log_num_items - math.log(max(1, self.counts.get(" ".join(ngram), 0)))


def document_frequencies(
    references: Sequence[Sequence[str]], *, tokenize: Tokenizer = ptb_tokenize
) -> DocumentFrequencies:
    """Count, over all videos, in how many an n-gram occurs in any reference."""
    counts: Counter[str] = Counter()
    for captions in references:
        counts.update({" ".join(ngram) for caption in captions for ngram in _ngram_counts(_words(caption, tokenize))})
    return DocumentFrequencies(len(references), dict(counts))


def cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
    tokenize: Tokenizer = ptb_tokenize,
) -> CorpusScore:
    """CIDEr-D, times 100 as in papers: a caption scored against nothing but itself can reach 1000.

    One video alone scores 0, because every n-gram of its references then occurs in all videos and weighs nothing; the
    original divides zero by zero there. Captions of less than four words lose what they have no n-grams for.

    Args:
        predictions: one caption a video; an empty one scores 0.
        references: of each video, at least one.
        document_frequencies: of a whole split, when only a part of it is scored. Default: of these references.
        tokenize: caption to words. For tests; numbers of papers need the default.

    Raises:
        UsageError: if there are no captions, of different numbers, or a video without reference.

    >>> cider_d(["a dog runs fast", "two cats sleep here"], [["a dog runs fast"], ["two cats sleep here"]]).value
    1000.0
    """
    _check(predictions, references)
    frequencies = document_frequencies or _count_documents(references, tokenize=tokenize)
    per_item = []
    for prediction, captions in zip(predictions, references, strict=True):
        candidate = _Weighted.of(_words(prediction, tokenize), frequencies)
        scores = [candidate.similarity(_Weighted.of(_words(caption, tokenize), frequencies)) for caption in captions]
        per_item.append(PERCENT * CIDER_SCALE * math.fsum(scores) / len(scores))
    return _mean(per_item)


_count_documents = document_frequencies  # by a name that no argument hides


def bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: Tokenizer = ptb_tokenize
) -> tuple[CorpusScore, CorpusScore, CorpusScore, CorpusScore]:
    """BLEU-1 to BLEU-4 of the corpus (Papineni et al. 2002), as coco-caption has them, times 100.

    `value` is of summed counts, not a mean of `per_item`. The reference of closest length counts for the brevity
    penalty, the shorter of two equally close ones.

    Args and errors as for `cider_d`.
    """
    _check(predictions, references)
    counted = [
        _bleu_counts(_words(prediction, tokenize), [_words(caption, tokenize) for caption in captions])
        for prediction, captions in zip(predictions, references, strict=True)
    ]
    of_items = [_bleu_scores(one) for one in counted]
    of_corpus = _bleu_scores(
        _BleuCounts(
            sum(one.length for one in counted),
            sum(one.reference_length for one in counted),
            [sum(numbers) for numbers in zip(*(one.matches for one in counted), strict=True)],
            [sum(numbers) for numbers in zip(*(one.tried for one in counted), strict=True)],
        )
    )
    one, two, three, four = (
        CorpusScore(PERCENT * value, [PERCENT * item[k] for item in of_items]) for k, value in enumerate(of_corpus)
    )
    return one, two, three, four


def rouge_l(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: Tokenizer = ptb_tokenize
) -> CorpusScore:
    """ROUGE-L (Lin 2004) as coco-caption has it, times 100; not the `rouge-score` package's.

    Precision and recall of the longest common subsequence are each the best over the references, possibly of different
    ones, and are then joined with beta = 1.2.

    Args and errors as for `cider_d`.
    """
    _check(predictions, references)
    per_item = []
    for prediction, captions in zip(predictions, references, strict=True):
        candidate, texts = tokenize(prediction), [tokenize(caption) for caption in captions]
        common = [_longest_common_subsequence(candidate, text) for text in texts]
        precision = max(length / max(1, len(candidate)) for length in common)
        recall = max(length / max(1, len(text)) for length, text in zip(common, texts, strict=True))
        squared = ROUGE_BETA**2
        score = (1 + squared) * precision * recall / (recall + squared * precision) if precision and recall else 0.0
        per_item.append(PERCENT * score)
    return _mean(per_item)


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not predictions or len(predictions) != len(references):
        raise UsageError(
            f"{len(predictions)} captions to score and references of {len(references)} videos; give one caption for "
            "every video, and at least one"
        )
    if isinstance(references[0], str):
        raise UsageError("references are strings; give a list of captions for every video, even if it has only one")
    for number, captions in enumerate(references):
        if not captions:
            raise UsageError(f"the video at position {number} has no reference caption; leave it out or give one")


def _mean(per_item: list[float]) -> CorpusScore:
    return CorpusScore(math.fsum(per_item) / len(per_item), per_item)


def _words(caption: str, tokenize: Tokenizer) -> list[str]:
    """Tokens as the n-gram scorers see them: they split again, at no-break spaces too; ROUGE-L does not."""
    return " ".join(tokenize(caption)).split()


def _ngram_counts(words: list[str]) -> Counter[Ngram]:
    return Counter(tuple(words[i : i + n]) for n in NGRAM_LENGTHS for i in range(len(words) - n + 1))


@dataclass(frozen=True)
class _Weighted:
    """A caption's n-grams, counted and weighted."""

    weights: tuple[dict[Ngram, float], ...]  # one for every length of n-grams
    norms: tuple[float, ...]
    num_bigrams: int  # what CIDEr-D's code takes for the length

    @classmethod
    def of(cls, words: list[str], frequencies: DocumentFrequencies) -> "_Weighted":
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in NGRAM_LENGTHS)
        for ngram, count in _ngram_counts(words).items():
            weights[len(ngram) - 1][ngram] = count * frequencies.weight(ngram)
        norms = tuple(math.sqrt(math.fsum(value**2 for value in one.values())) for one in weights)
        return cls(weights, norms, max(0, len(words) - 1))

    def similarity(self, reference: "_Weighted") -> float:
        """Clipped cosines, averaged over the lengths of n-grams, less the penalty on lengths; in [0, 1]."""
        cosines = []
        for own, other, own_norm, other_norm in zip(
            self.weights, reference.weights, self.norms, reference.norms, strict=True
        ):
            shared = math.fsum(
                min(value, other[ngram]) * other[ngram] for ngram, value in own.items() if ngram in other
            )
            cosines.append(shared / (own_norm * other_norm) if own_norm and other_norm else 0.0)
        difference = self.num_bigrams - reference.num_bigrams
        return math.exp(-(difference**2) / (2 * CIDER_SIGMA**2)) * math.fsum(cosines) / len(NGRAM_LENGTHS)


@dataclass(frozen=True)
class _BleuCounts:
    length: int
    reference_length: int  # of the reference whose length is closest
    matches: list[int]  # for every length of n-grams
    tried: list[int]


def _bleu_scores(counts: _BleuCounts) -> list[float]:
    """Geometric means of the precisions up to every length of n-grams, times the brevity penalty."""
    ratio = (counts.length + BLEU_MATCHES_AT_LEAST) / (counts.reference_length + BLEU_TRIED_AT_LEAST)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n, matched, tried in zip(NGRAM_LENGTHS, counts.matches, counts.tried, strict=True):
        product *= (matched + BLEU_MATCHES_AT_LEAST) / (tried + BLEU_TRIED_AT_LEAST)
        scores.append(product ** (1 / n) * brevity)
    return scores


def _bleu_counts(words: list[str], references: list[list[str]]) -> _BleuCounts:
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= _ngram_counts(reference)
    matches = [0] * len(NGRAM_LENGTHS)
    for ngram, count in _ngram_counts(words).items():
        matches[len(ngram) - 1] += min(count, most[ngram])
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)
    tried = [max(0, len(words) - n + 1) for n in NGRAM_LENGTHS]
    return _BleuCounts(len(words), closest[1], matches, tried)


def _longest_common_subsequence(left: Iterable[str], right: Sequence[str]) -> int:
    best = [0] * (len(right) + 1)  # of what was seen of left, with the first j words of right
    for word in left:
        diagonal = 0
        for j, other in enumerate(right, start=1):
            diagonal, best[j] = best[j], diagonal + 1 if word == other else max(best[j], best[j - 1])
    return best[-1]
