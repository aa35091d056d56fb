"""What is asked, and with which examples: a function of benchmark, protocol and seeds, in whatever order."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark, Example
from videoflamingo.evaluation.controls import number_of, swapped_answers, swapped_videos
from videoflamingo.evaluation.media import MediumKey
from videoflamingo.evaluation.protocol import Protocol
from videoflamingo.evaluation.results import Condition, Key
from videoflamingo.fewshot.choosing import (
    Rices,
    balanced_order,
    bundles,
    choose,
    draw_subset,
    random_order,
    similar_order,
)
from videoflamingo.fewshot.engine import Asked, Shown
from videoflamingo.fewshot.leakage import LeakageGuard
from videoflamingo.video.medium import MediumRequest


@dataclass(frozen=True)
class Question:
    """One question under one condition.

    Args:
        condition: `real`, or a control.
        num_shots: as asked for.
        trial: its seed.
        example: that is asked.
    """

    condition: Condition
    num_shots: int
    trial: int
    example: Example

    @property
    def key(self) -> Key:
        return Key(self.condition, self.num_shots, self.trial, self.example.id)


@dataclass(frozen=True)
class Features:
    """What shots are chosen by, where the protocol needs it.

    Args:
        videos: `[S, D]` of the support; None if they are not known.
        texts: `[S, E]` of its questions; None if they do not count.
    """

    videos: np.ndarray | None = None
    texts: np.ndarray | None = None


class Plan:
    """All questions of a run, and the examples of each.

    Args:
        benchmark, protocol: which must suit each other.
        features: of the support, as `needs_videos` and `needs_texts` say; None if questions are only to be listed.

    Raises:
        UsageError: if they do not.
    """

    def __init__(self, benchmark: Benchmark, protocol: Protocol, features: Features | None = None) -> None:
        self.benchmark, self.protocol = benchmark, protocol.for_benchmark(benchmark)
        self.support = support_of(benchmark, protocol)
        asked = draw_subset(len(benchmark.query), protocol.query_size, protocol.query_seed, "query")
        self.queries = [benchmark.query[index] for index in asked]
        controlled = draw_subset(len(self.queries), protocol.control_size, protocol.query_seed, "query")
        self._controlled = {self.queries[index].id for index in controlled}
        self.features = features or Features()
        threshold = protocol.duplicate_similarity
        self._guard = LeakageGuard(
            [example.medium for example in self.support],
            other_parts=protocol.allow_parts,
            features=self.features.videos,
            duplicate_similarity=threshold if threshold <= 1 else None,
        )
        self._rices = (
            Rices(
                self.features.videos if needs_videos(protocol) else None,
                self.features.texts if needs_texts(protocol) else None,
                protocol.text_weight,
            )
            if features is not None and protocol.choosing in ("rices", "videoicl")
            else None
        )
        self._orders: dict[tuple[object, ...], np.ndarray] = {}

    def of(self, example: Example) -> Iterator[Question]:
        """Every question about one query."""
        for num_shots in self.protocol.num_shots:
            for trial in self.protocol.trial_seeds:
                for condition in self.protocol.conditions(num_shots):
                    if condition == "real" or example.id in self._controlled:
                        yield Question(condition, num_shots, trial, example)

    def __iter__(self) -> Iterator[Question]:
        for example in self.queries:
            yield from self.of(example)

    def excluded(self, example: Example, feature: np.ndarray | None, unreadable: Collection[int]) -> frozenset[int]:
        """What must not be shown with a query: its own video, duplicates of it, and what cannot be read.

        Args:
            feature: `[D]`, of its video.
            unreadable: indices of the support.
        """
        return self._guard.leaks(example.medium, feature).all | frozenset(unreadable)

    def similarities(self, videos: np.ndarray | None, texts: np.ndarray | None) -> np.ndarray | None:
        """Of Q queries to the support, `[Q, S]`; None if shots are not chosen by similarity."""
        if self._rices is None:
            return None
        return self._rices.similarities(
            videos if needs_videos(self.protocol) else None, texts if needs_texts(self.protocol) else None
        )

    def shots(self, question: Question, excluded: Collection[int], similarities: np.ndarray | None) -> list[list[int]]:
        """Indices of the support in the prompt's order; one list, or VideoICL's bundles, the first to be shown first.

        Args:
            excluded: from `excluded`.
            similarities: `[S]` of the query, where shots are chosen by them.

        Raises:
            UsageError: if there are too few.
        """
        protocol, num_shots, about = self.protocol, question.num_shots, f"query {question.example.id!r}"
        if num_shots == 0:
            count = protocol.num_text_only(self.benchmark.answer_kind)
            return [choose(self._random(question.trial), count, excluded, about=about)]
        if protocol.choosing in ("rices", "videoicl"):
            assert similarities is not None
            order = similar_order(similarities)
            if protocol.choosing == "videoicl":
                return bundles(order, num_shots, protocol.videoicl_rounds, excluded, about=about)
            return [choose(order, num_shots, excluded, best_last=True, about=about)]
        if protocol.choosing == "random-each":
            order = random_order(len(self.support), question.trial, 1 + number_of(question.example.id))
        elif protocol.choosing == "balanced":
            order = self._balanced(question.trial, frozenset(excluded))
        else:
            order = self._random(question.trial)
        return [choose(order, num_shots, excluded, about=about)]

    def asked(self, question: Question, shots: Sequence[int]) -> Asked:
        """The prompt, with what its condition changes.

        Args:
            shots: indices of the support, in the prompt's order.
        """
        examples = [self.support[index] for index in shots]
        media: Sequence[MediumRequest] = [example.medium for example in examples]
        answers = [example.answers[0] for example in examples]
        if question.condition == "swapped_videos":
            media = swapped_videos(examples)
        elif question.condition == "swapped_answers":
            answers = swapped_answers(examples, question.trial)
        words_only = question.num_shots == 0 or question.condition == "no_video"
        shown = tuple(
            Shown(None if words_only else MediumKey(medium), example.question, answer)
            for example, medium, answer in zip(examples, media, answers, strict=True)
        )
        return Asked(shown, self.shown(question), question.example.question)

    def shown(self, question: Question) -> MediumKey | None:
        """The question's own video, as its condition shows it."""
        if question.condition == "no_video":
            return None
        shuffled_by = number_of(question.example.id) if question.condition == "shuffled_frames" else None
        return MediumKey(question.example.medium, shuffled_by)

    def _random(self, trial: int) -> np.ndarray:
        return self._kept(("random", trial), lambda: random_order(len(self.support), trial))

    def _balanced(self, trial: int, excluded: frozenset[int]) -> np.ndarray:
        labels = balance_labels(self.support)
        return self._kept(("balanced", trial, excluded), lambda: balanced_order(labels, trial, 0, excluded))

    def _kept(self, key: tuple[object, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._orders:
            self._orders[key] = make()
        return self._orders[key]


def support_of(benchmark: Benchmark, protocol: Protocol) -> list[Example]:
    """The examples a run may show."""
    drawn = draw_subset(len(benchmark.support), protocol.support_size, protocol.query_seed, "support")
    return [benchmark.support[index] for index in drawn]


def needs_videos(protocol: Protocol) -> bool:
    """Whether shots are chosen by features of all videos of the support."""
    return protocol.choosing in ("rices", "videoicl") and protocol.similarity != "text"


def needs_texts(protocol: Protocol) -> bool:
    """Whether shots are chosen by features of all questions."""
    return protocol.choosing in ("rices", "videoicl") and protocol.similarity != "video"


def balance_labels(support: Sequence[Example]) -> list[str]:
    """What shots are balanced by: the type of question; of a benchmark without types, the answer.

    Raises:
        UsageError: if only some examples have a type.
    """
    kinds = [example.kind for example in support]
    if all(kinds) and len(set(kinds)) > 1:
        return kinds
    if any(kinds) and not all(kinds):
        untyped = support[kinds.index("")]
        raise UsageError(
            f"{untyped.place or untyped.id}: has no type, but others have; balanced shots need one for each, or none"
        )
    return [example.answers[0] for example in support]
