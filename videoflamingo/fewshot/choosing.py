"""Which examples to show with a question: random, balanced or the most similar ones. Arithmetic on arrays.

Each rule gives an order of the whole support, first choice first. What must not be shown (`excluded`: the asked video,
its duplicates, videos that cannot be read) is passed over, so the next in the order takes its place:

    order = random_order(len(support), seed=0, trial=2)
    shots = choose(order, 4, excluded={17})                         # [203, 8, 91, 45]
    order = similar_order(rices.similarities(videos=features)[0])
    shots = choose(order, 4, excluded={17}, best_last=True)         # RICES shows the most similar one last

Indices count in the support; everything is a function of its arguments, so a run that is gone on with chooses the same.
"""

import itertools
import math
from collections.abc import Collection, Generator, Sequence
from typing import Literal

import numpy as np

from videoflamingo.errors import UsageError

# Keep draws apart from others made of the same seed.
SUBSET_DRAWS = {"support": 0x73757070, "query": 0x71756572}
ORDER_DRAW = 0x6F726472
DECIMALS = 6  # to which similarities are compared: closer ones are a tie, whatever the machine's rounding

Round = list[tuple[int, int]]  # which questions are asked now, and with which of their bundles


def draw_subset(number: int, size: int | None, seed: int, part: Literal["support", "query"]) -> list[int]:
    """Which `size` of `number` examples take part, in their own order; all, where there are no more.

    The paper draws 2,048 examples to choose shots from (v1 4.1.2). A larger draw of the same seed has all of a smaller
    one, and the two parts are drawn apart.

    Args:
        size: None for all.

    Raises:
        UsageError: if size is below 1.

    Example:
        >>> draw_subset(1000, 4, seed=0, part="support")
        [499, 511, 652, 869]
        >>> draw_subset(3, None, seed=0, part="query")
        [0, 1, 2]
    """
    if size is not None and size < 1:
        raise UsageError(f"{part} size is {size}; give 1 or more, or leave it out for all")
    drawn = np.random.default_rng([SUBSET_DRAWS[part], seed]).permutation(number)[:size]
    return sorted(drawn.tolist())


def random_order(number: int, seed: int, trial: int = 0) -> np.ndarray:
    """The support shuffled, int64 `[S]`: the same for all questions of a trial, so that they share their shots.

    Fewer shots are the first of more.
    """
    return np.random.default_rng([ORDER_DRAW, seed, trial]).permutation(number)


def balanced_order(labels: Sequence[str], seed: int, trial: int = 0, excluded: Collection[int] = ()) -> np.ndarray:
    """One example of each label in turn, int64 `[S - excluded]`; which label comes first, and which of its examples, is
    drawn.

    Of k shots each label has k / labels, rounded up or down, as long as it has as many. An excluded example is replaced
    by another of its label; the places of the other labels stay.

    Args:
        labels: of each example of the support, such as its answer.
    """
    rank = np.empty(len(labels), np.int64)
    rank[random_order(len(labels), seed, trial)] = np.arange(len(labels))
    drawn = sorted(range(len(labels)), key=lambda index: int(rank[index]))
    of_label: dict[str, list[int]] = {labels[index]: [] for index in drawn}  # in the order in which labels are drawn
    for index in drawn:
        if index not in excluded:
            of_label[labels[index]].append(index)
    turns = itertools.zip_longest(*of_label.values())
    return np.array([index for turn in turns for index in turn if index is not None], np.int64)


class Rices:
    """Similarity of questions to the support's examples: cosines of their videos' features, of their texts', or both.

    RICES ranks by similarity of frozen visual features (Flamingo v2 A.2). Which features of a video, the paper does not
    say: here the mean over frames and patches. Both together are a weighted sum of the two cosines, as in
    VideoICL (arXiv 2412.02186).

    Text features are centred on the support's mean, because a language model's hidden states all point much the same
    way. Videos' are as they are where they rank alone, as in the paper; beside texts they are centred, too, so that
    both cosines are 0 for what is neither like nor unlike.

    Args:
        videos: `[S, D]`, pooled features of the support's videos; None to rank by texts.
        texts: `[S, E]`, features of its questions (`question_features`); None to rank by videos.
        text_weight: of the text's cosine, in [0, 1], where both are given; the video's has the rest.

    Raises:
        UsageError: if neither is given, the weight is out of range, or a feature is no number.
    """

    def __init__(
        self, videos: np.ndarray | None = None, texts: np.ndarray | None = None, text_weight: float = 0.5
    ) -> None:
        if videos is None and texts is None:
            raise UsageError("RICES ranks by similarity of videos, texts or both; give the features of one of them")
        if not 0 <= text_weight <= 1:
            raise UsageError(f"text_weight is {text_weight}; give a number from 0 (videos only) to 1 (texts only)")
        both = videos is not None and texts is not None
        self._videos = None if videos is None else _Side("videos", videos, centred=both)
        self._texts = None if texts is None else _Side("texts", texts, centred=True)
        self._text_weight = text_weight

    def similarities(self, videos: np.ndarray | None = None, texts: np.ndarray | None = None) -> np.ndarray:
        """Of Q questions to each example, float64 `[Q, S]`, in [-1, 1].

        Args:
            videos: `[Q, D]`, where the support was given with videos.
            texts: `[Q, E]`, where it was given with texts.

        Raises:
            UsageError: if a feature is no number.
        """
        assert (videos is None, texts is None) == (self._videos is None, self._texts is None), "as for the support"
        cosines = [
            side.cosines(features)
            for side, features in ((self._videos, videos), (self._texts, texts))
            if side is not None and features is not None
        ]
        if len(cosines) == 1:
            return cosines[0]
        return (1 - self._text_weight) * cosines[0] + self._text_weight * cosines[1]


class _Side:
    """Unit vectors of the support, and what is taken from every feature before."""

    def __init__(self, name: str, features: np.ndarray, centred: bool) -> None:
        self.name = name
        self.centre = features.mean(0, dtype=np.float64) if centred else np.zeros(features.shape[1])
        self.units = self._units(features)  # [S, D]

    def cosines(self, features: np.ndarray) -> np.ndarray:
        return self._units(features) @ self.units.T  # [Q, S]

    def _units(self, features: np.ndarray) -> np.ndarray:
        if not np.isfinite(features).all():
            row = int(np.nonzero(~np.isfinite(features).all(1))[0][0])
            raise UsageError(f"RICES: the features of {self.name} {row} hold infinity or NaN; run the model in float32")
        return unit_vectors(features - self.centre)


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """Each row divided by its length, float64; a row of zeros stays, so that its cosines are 0."""
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def similar_order(similarities: np.ndarray) -> np.ndarray:
    """Most similar first, int64 `[S]`; of equally similar ones (to `DECIMALS`), the earlier in the support.

    Example:
        >>> similar_order(np.array([0.2, 0.9, 0.5, 0.9])).tolist()
        [1, 3, 2, 0]
    """
    return np.argsort(-np.round(similarities, DECIMALS), kind="stable")


def choose(
    order: Sequence[int] | np.ndarray,
    num_shots: int,
    excluded: Collection[int] = (),
    *,
    best_last: bool = False,
    about: str = "",
) -> list[int]:
    """The first of an order that are not excluded, in the order in which the prompt shows them.

    Args:
        best_last: the first choice is shown last, next to the question, as in RICES.
        about: the question, for the message.

    Raises:
        UsageError: if there are not as many.

    Example:
        >>> choose([3, 1, 2, 0], 2, excluded={1}), choose([3, 1, 2, 0], 2, excluded={1}, best_last=True)
        ([3, 2], [2, 3])
    """
    if num_shots == 0:
        return []
    chosen = list(itertools.islice((int(index) for index in order if index not in excluded), num_shots))
    if len(chosen) < num_shots:
        raise _too_few(len(chosen), num_shots, len(order), about)
    return chosen[::-1] if best_last else chosen


def _too_few(found: int, asked: int, in_order: int, about: str) -> UsageError:
    left_out = ""
    if in_order > found:
        left_out = f"; the other {in_order - found} are of the asked video, of its duplicates or unreadable"
    return UsageError(
        f"{about or 'a question'}: {asked} examples were asked for, but only {found} of the support may be shown with "
        f"it{left_out}. Give fewer shots or a larger support, or loosen the guards against leakage"
    )


def bundles(
    order: Sequence[int] | np.ndarray, size: int, most: int, excluded: Collection[int] = (), *, about: str = ""
) -> list[list[int]]:
    """VideoICL's bundles of `size` examples: the most similar ones, then the next, and so on, `most` of them at most.

    Each is in the prompt's order, its most similar example last. Only whole ones, so that all have as many shots.

    Raises:
        UsageError: if size or most is below 1, or there is not even one.

    Example:
        >>> bundles([5, 3, 1, 4, 2], size=2, most=4)
        [[3, 5], [4, 1]]
    """
    if size < 1 or most < 1:
        raise UsageError(f"{most} bundles of {size} examples; give 1 or more of each")
    allowed = [int(index) for index in order if index not in excluded]
    if len(allowed) < size:
        raise _too_few(len(allowed), size, len(order), about)
    starts = range(0, min(most * size, len(allowed) // size * size), size)
    return [allowed[start : start + size][::-1] for start in starts]


def confident_rounds(num_bundles: Sequence[int], threshold: float) -> Generator[Round, Sequence[float], list[int]]:
    """VideoICL's iteration (arXiv 2412.02186) over many questions at once.

    A question is asked with its most similar bundle. If the least probable token of the answer is no more probable than
    the threshold, it is asked again with the next one. The answer kept is the most confident one: that with the most
    probable least probable token; of equals, the earlier.

    Yields the round's questions, each with the bundle to show; takes the lowest log-probability of each answer, in that
    order; returns for each question the bundle whose answer is kept.

    Args:
        num_bundles: of each question, 1 or more.
        threshold: a probability in [0, 1]; 1 asks with every bundle, 0 with one.

    Raises:
        UsageError: if the threshold is no probability.

    Example:
        >>> rounds = confident_rounds([3, 3], threshold=0.5)
        >>> next(rounds)
        [(0, 0), (1, 0)]
        >>> rounds.send([math.log(0.9), math.log(0.2)])
        [(1, 1)]
        >>> rounds.send([math.log(0.3)])
        [(1, 2)]
        >>> try: rounds.send([math.log(0.1)])
        ... except StopIteration as stop: stop.value
        [0, 1]
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"confidence threshold is {threshold}; give a probability from 0 to 1")
    kept = [0] * len(num_bundles)
    best = [-math.inf] * len(num_bundles)
    asked: Round = [(question, 0) for question in range(len(num_bundles))]
    while asked:
        lowest = yield asked
        again: Round = []
        for (question, bundle), log_probability in zip(asked, lowest, strict=True):
            if log_probability > best[question]:
                kept[question], best[question] = bundle, log_probability
            unsure = threshold == 1 or (threshold > 0 and best[question] <= math.log(threshold))
            if unsure and bundle + 1 < num_bundles[question]:
                again.append((question, bundle + 1))
        asked = again
    return kept
