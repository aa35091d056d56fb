"""Answers -> scores, in percent as papers report them, with what anyone gets who watches no video."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark, Example
from videoflamingo.evaluation.protocol import RankBy
from videoflamingo.evaluation.results import CONDITIONS, Answered, ChoiceScore, Condition
from videoflamingo.metrics.answers import exact_match, normalise_answer
from videoflamingo.metrics.captions import DocumentFrequencies, bleu, cider_d, document_frequencies, rouge_l
from videoflamingo.metrics.ptb_tokenizer import tokenize
from videoflamingo.metrics.wups import installed_tagger, wups

Baseline = Literal["majority", "majority_of_kind"]


@dataclass(frozen=True)
class Sample:
    """One answered question with its score.

    Args:
        example: what was asked.
        answered: as it was recorded.
        answer: what is scored; of a close-ended question the option chosen by the rule given to `score`.
        score: in percent; CIDEr-D may exceed 100.
        unparsed: nothing could be read from what the model said. That is wrong; nothing is guessed in its place.
    """

    example: Example
    answered: Answered
    answer: str
    score: float
    unparsed: bool = False


@dataclass(frozen=True)
class Cell:
    """All questions asked in one way: one condition, one number of shots, one trial.

    Args:
        samples: in the benchmark's order.
        corpus: of captions, metrics that are defined on the whole only: `bleu_1` to `bleu_4`; and `rouge_l`.
    """

    condition: Condition
    num_shots: int
    trial: int
    samples: tuple[Sample, ...]
    corpus: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return sum(sample.score for sample in self.samples) / len(self.samples)


@dataclass(frozen=True)
class Scored:
    """All scores of a run.

    Args:
        cells: by condition, shots, trial.
        bounds: lowest and highest score of a sample; None where there is no highest.
        baselines: by query, what the answers known without looking would score.
        chance: of close-ended questions, by query: what a guess scores on average.
    """

    benchmark: Benchmark
    rank_by: RankBy
    cells: tuple[Cell, ...]
    bounds: tuple[float, float] | None
    baselines: dict[Baseline, dict[str, float]]
    chance: dict[str, float] | None = None

    def trials(self, condition: Condition, num_shots: int) -> list[Cell]:
        """The trials of one condition at a number of shots; none if it was not asked."""
        return [cell for cell in self.cells if (cell.condition, cell.num_shots) == (condition, num_shots)]


def score(benchmark: Benchmark, answered: Sequence[Answered], rank_by: RankBy = "sum") -> Scored:
    """Score each answer by the benchmark's metric.

    A question whose video could not be read counts as wrong, and so does an answer from which nothing could be read;
    an option is never guessed. CIDEr-D weighs words by how many videos of the whole query split they are said of, asked
    or not, so that a caption's score does not depend on which others were asked. When all are, that is the official
    score.

    Args:
        benchmark: which was asked.
        answered: any part of a run.
        rank_by: how options are compared: summed log-probability, mean over tokens, or mean over characters. Of equal
            options the first counts.

    Raises:
        UsageError: if an answer is to a question that the benchmark does not have, or has another number of options.
    """
    queries = {example.id: example for example in benchmark.query}
    place = {name: number for number, name in enumerate(queries)}
    by_cell: dict[tuple[int, int, int], list[Answered]] = {}
    for one in answered:
        if one.id not in queries:
            raise UsageError(
                f"there is an answer to {one.id!r}, which benchmark {benchmark.name} does not ask; these are results "
                "of another benchmark, or its data changed"
            )
        by_cell.setdefault((CONDITIONS.index(one.condition), one.num_shots, one.trial), []).append(one)
    metric = _Metric(benchmark)
    cells = []
    for (condition, num_shots, trial), own in sorted(by_cell.items()):
        own.sort(key=lambda one: place[one.id])
        said = [said_answer(one, queries[one.id], rank_by) for one in own]
        scores, corpus = metric.scores([queries[one.id] for one in own], said)
        samples = (
            Sample(queries[one.id], one, answer or "", value, unparsed=answer is None and not one.error)
            for one, answer, value in zip(own, said, scores, strict=True)
        )
        cells.append(Cell(CONDITIONS[condition], num_shots, trial, tuple(samples), corpus))
    ids = {one.id for one in answered}
    asked = [example for example in benchmark.query if example.id in ids]
    chance = {example.id: 100 / len(example.options) for example in asked if example.options}
    return Scored(
        benchmark,
        rank_by,
        tuple(cells),
        None if benchmark.metric == "captions" else (0.0, 100.0),
        _baselines(benchmark, asked, metric),
        chance or None,
    )


def said_answer(answered: Answered, example: Example, rank_by: RankBy = "sum") -> str | None:
    """The answer that counts; None where there is none.

    Raises:
        UsageError: if a close-ended question was answered with another number of options than it has.
    """
    if answered.error:
        return None
    if not example.options:
        return answered.answer.strip() or None
    option = answered.option
    if answered.choices is not None:
        option = best_option(answered.choices, rank_by)
    if len(answered.choices or example.options) != len(example.options) or (option or 0) >= len(example.options):
        raise UsageError(
            f"{answered.id}: was answered with {len(answered.choices or ())} options, but has {len(example.options)}; "
            "these are results of another benchmark, or its data changed"
        )
    return None if option is None else example.options[option]


def best_option(choices: Sequence[ChoiceScore], rank_by: RankBy = "sum") -> int | None:
    """The most probable option, the first of equal ones; None if one of the numbers is none.

    >>> choices = [ChoiceScore(-3.0, 3, 10), ChoiceScore(-2.0, 1, 4), ChoiceScore(-2.0, 1, 9)]
    >>> [best_option(choices, rank_by) for rank_by in ("sum", "mean", "characters")]
    [1, 0, 2]
    """
    lengths = {
        "sum": [1 for _ in choices],
        "mean": [choice.tokens for choice in choices],
        "characters": [choice.characters for choice in choices],
    }[rank_by]
    values = [choice.sum / max(length, 1) for choice, length in zip(choices, lengths, strict=True)]
    if not values or any(value != value for value in values):
        return None
    return values.index(max(values))


class _Metric:
    """The metric of a benchmark on any of its examples."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.name = benchmark.metric
        self.query = benchmark.query
        self.tokenize = cache(tokenize)  # the references are those of every cell

    def scores(self, examples: Sequence[Example], said: Sequence[str | None]) -> tuple[list[float], dict[str, float]]:
        """The score of each answer in percent, and metrics of all together."""
        if self.name == "captions":
            return self._captions(examples, [caption or "" for caption in said])
        return [self._score(*pair) for pair in zip(examples, said, strict=True)], {}

    def _score(self, example: Example, answer: str | None) -> float:
        if answer is None:
            return 0.0
        if self.name == "choice_accuracy":
            return 100.0 * (example.options.index(answer) == example.answer_index)
        if self.name == "wups":
            return 100.0 * wups(answer, example.answers, example.kind, tag=installed_tagger())
        return 100.0 * exact_match(answer, example.answers)

    def _captions(self, examples: Sequence[Example], said: Sequence[str]) -> tuple[list[float], dict[str, float]]:
        references = [example.answers for example in examples]
        scores = bleu(said, references, tokenize=self.tokenize)
        corpus = {f"bleu_{order}": one.value for order, one in enumerate(scores, start=1)}
        corpus["rouge_l"] = rouge_l(said, references, tokenize=self.tokenize).value
        found = cider_d(said, references, document_frequencies=self.frequencies, tokenize=self.tokenize)
        return found.per_item, corpus

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        """Of words and phrases in the references of the whole query split."""
        return document_frequencies([example.answers for example in self.query], tokenize=self.tokenize)


def _baselines(benchmark: Benchmark, asked: Sequence[Example], metric: _Metric) -> dict[Baseline, dict[str, float]]:
    """Scores of the majority answers; none without a support."""
    if not benchmark.support or not asked:
        return {}
    whole = Majority(benchmark.support)
    said: dict[Baseline, list[str]] = {"majority": [whole.answer(example) for example in asked]}
    if len({example.kind for example in benchmark.support}) > 1:
        kinds: dict[str, list[Example]] = {}
        for example in benchmark.support:
            kinds.setdefault(example.kind, []).append(example)
        by_kind = {kind: Majority(own) for kind, own in kinds.items()}
        said["majority_of_kind"] = [by_kind.get(example.kind, whole).answer(example) for example in asked]
    return {
        name: dict(zip([example.id for example in asked], metric.scores(asked, own)[0], strict=True))
        for name, own in said.items()
    }


class Majority:
    """The answer that examples have most often: what one knows of a question without its video.

    In words it is the most frequent first answer, but for case and space; of equally frequent ones the earliest. Of a
    close-ended question it is the option whose text was right most often; if none of them ever was, the option at the
    place that was right most often. Of captions, which seldom repeat, it is in effect the first one.

    Args:
        examples: at least one.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._texts: Counter[str] = Counter()
        self._places: Counter[int] = Counter()
        self._first: dict[str, str] = {}  # as it was written
        for example in examples:
            text = normalise_answer(example.answers[0])
            self._texts[text] += 1
            self._first.setdefault(text, example.answers[0])
            if example.answer_index is not None:
                self._places[example.answer_index] += 1

    def answer(self, example: Example) -> str:
        """What the majority would answer to a question."""
        if not example.options:
            return self._first[max(self._texts, key=self._texts.__getitem__)]
        counts = [self._texts[normalise_answer(option)] for option in example.options]
        if not any(counts):
            counts = [self._places[place] for place in range(len(example.options))]
        return example.options[counts.index(max(counts))]
