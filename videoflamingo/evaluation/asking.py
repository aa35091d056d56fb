"""Asking: the questions of one process with their examples, in batches; what cannot be read is left out and told."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Example
from videoflamingo.evaluation.media import MediumKey
from videoflamingo.evaluation.plan import Plan, Question, needs_texts
from videoflamingo.evaluation.results import Answered, ChoiceScore, Key
from videoflamingo.evaluation.scoring import best_option
from videoflamingo.fewshot.choosing import confident_rounds, unit_vectors
from videoflamingo.fewshot.engine import FewShotEngine
from videoflamingo.fewshot.ensembling import ensembled, orders
from videoflamingo.fewshot.media_store import MediaStore
from videoflamingo.fewshot.question_features import question_features
from videoflamingo.pipeline import Answer, VideoFlamingo
from videoflamingo.prompt import Medium, Segment, Text

QUERIES_TOGETHER = 16  # whose questions are asked before the next queries' videos are read


@dataclass(frozen=True)
class Share:
    """Which of several processes this is: it asks every `count`-th query, from number `index` on.

    Raises:
        UsageError: if there is no such process.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(f"share {self.index} of {self.count}; processes count from 0 to {self.count - 1}")

    @property
    def name(self) -> str:
        """For the file of its results."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"


@dataclass
class Facts:
    """What a process measured, for the report."""

    num_asked: int = 0
    seconds: float = 0.0
    media: dict[str, int] = field(default_factory=dict)
    unreadable_support: dict[str, str] = field(default_factory=dict)


class Asking:
    """The questions of one process, in batches."""

    def __init__(
        self,
        model: VideoFlamingo,
        plan: Plan,
        unreadable: dict[int, str],
        media: MediaStore,
        done: set[Key],
        share: Share,
        facts: Facts,
    ) -> None:
        self.model, self.plan, self.media, self.done, self.facts = model, plan, media, done, facts
        self.engine = FewShotEngine(model, media)
        self.queries = plan.queries[share.index :: share.count]
        self.todo = sum(question.key not in done for example in self.queries for question in plan.of(example))
        self.unreadable: dict[int, str] = {}  # of the support
        for index, error in unreadable.items():
            self._leave_out(index, error)

    def answers(self) -> Iterator[tuple[list[Answered], int]]:
        """Answers as they come, and how many there will be."""
        for start in range(0, len(self.queries), QUERIES_TOGETHER):
            together = self.queries[start : start + QUERIES_TOGETHER]
            questions = [one for example in together for one in self.plan.of(example) if one.key not in self.done]
            if not questions:
                continue
            failures = self.media.prepare(self._media_of(together, questions))
            failed = [one for one in questions if MediumKey(one.example.medium) in failures]
            if failed:
                yield [_unread(one, failures[MediumKey(one.example.medium)]) for one in failed], self.todo
            about = About(self, [one for one in together if MediumKey(one.medium) not in failures])
            questions = [one for one in questions if MediumKey(one.example.medium) not in failures]
            questions.sort(key=lambda one: (one.num_shots, one.trial))  # stable: queries keep their order
            for _, same in itertools.groupby(questions, key=lambda one: (one.num_shots, one.trial)):
                yield self._answer(list(same), about), self.todo

    def _media_of(self, examples: Sequence[Example], questions: Sequence[Question]) -> Iterator[MediumKey]:
        """What is shown of these queries; a video and its shuffled frames side by side, so that it is read once."""
        wanted: dict[str, dict[MediumKey, None]] = {one.id: {MediumKey(one.medium): None} for one in examples}
        for question in questions:
            medium = self.plan.shown(question)
            if medium is not None:
                wanted[question.example.id][medium] = None
        for media in wanted.values():
            yield from media

    def example_prompt(self) -> dict[str, str]:
        """The whole text of the first question's prompt, without shots and with the first number of them."""
        found = {}
        for num_shots in self.plan.protocol.num_shots[:2]:
            question = Question("real", num_shots, self.plan.protocol.trial_seeds[0], self.plan.queries[0])
            excluded = self.plan.excluded(question.example, None, ())
            equal = np.zeros(len(self.plan.support))  # here it does not matter which are the most similar
            shots = self.plan.shots(question, excluded, equal)[0]
            asked = self.plan.asked(question, shots)
            segments: list[Segment] = []
            for shown in asked.shots:
                segments += self.model.template.ask(shown.question, shown.answer, has_medium=shown.medium is not None)
            segments += self.model.template.ask(asked.question, has_medium=asked.medium is not None)
            found[f"{num_shots} shots"] = "".join(self._as_text(segment) for segment in segments)
        return found

    def _as_text(self, segment: Segment) -> str:
        if isinstance(segment, Text):
            return segment.text
        return (self.model.model.config.media_tag or "<video>") if isinstance(segment, Medium) else "<EOC>"

    def _answer(self, questions: list[Question], about: "About") -> list[Answered]:
        """Questions with one number of shots."""
        offered = [self._shots(question, about) for question in questions]
        if self.plan.protocol.choosing != "videoicl" or not questions[0].num_shots:
            return self._ask(questions, [bundles[0] for bundles in offered])
        rounds = confident_rounds([len(bundles) for bundles in offered], self.plan.protocol.videoicl_threshold)
        found: dict[tuple[int, int], Answered] = {}
        asked = next(rounds)
        while True:
            answered = self._ask([questions[row] for row, _ in asked], [offered[row][b] for row, b in asked])
            found.update(zip(asked, answered, strict=True))
            try:
                asked = rounds.send([_confidence(one) for one in answered])
            except StopIteration as stop:
                return [found[row, bundle] for row, bundle in enumerate(stop.value)]

    def _shots(self, question: Question, about: "About") -> list[list[int]]:
        """The shots, or bundles of them, whose videos can be read and are not the query's under another name."""
        excluded = set(about.excluded(question.example)) | set(self.unreadable)
        similarities = about.similarities(question.example)
        while True:
            offered = self.plan.shots(question, excluded, similarities)
            if not question.num_shots:
                return offered  # words only
            chosen = [index for bundle in offered for index in bundle]
            wrong = self._unshowable(chosen, about.feature(question.example))
            if not wrong:
                return offered
            excluded |= wrong

    def _unshowable(self, chosen: Sequence[int], feature: np.ndarray) -> set[int]:
        keys = {index: MediumKey(self.plan.support[index].medium) for index in chosen}
        failures = self.media.prepare(keys.values())
        for index, key in keys.items():
            if key in failures:
                self._leave_out(index, failures[key])
        if failures:
            return {index for index, key in keys.items() if key in failures}
        cosines = unit_vectors(self.media.pooled(list(keys.values())).numpy()) @ unit_vectors(feature)  # [chosen]
        least = self.plan.protocol.duplicate_similarity
        return {index for index, cosine in zip(keys, cosines, strict=True) if cosine >= least}

    def _leave_out(self, index: int, error: str) -> None:
        self.unreadable[index] = error
        self.facts.unreadable_support[self.plan.support[index].id] = error

    def _ask(self, questions: list[Question], shots: list[list[int]]) -> list[Answered]:
        if self.plan.benchmark.answer_kind == "choices":
            return self._choose(questions, shots)
        protocol = self.plan.protocol
        asked = [self.plan.asked(question, own) for question, own in zip(questions, shots, strict=True)]
        answers = self.engine.answer(
            asked,
            num_beams=protocol.num_beams,
            length_penalty=protocol.length_penalty,
            max_new_tokens=protocol.max_new_tokens or self.plan.benchmark.max_new_tokens,
        )
        return [
            self._answered(question, own, answer)
            for question, own, answer in zip(questions, shots, answers, strict=True)
        ]

    def _choose(self, questions: list[Question], shots: list[list[int]]) -> list[Answered]:
        """Every option scored, by the mean of its log-likelihoods over the permutations of the shots."""
        count = self.plan.protocol.ensemble
        permutations = [orders(own, count, seed=question.trial) for question, own in zip(questions, shots, strict=True)]
        rows = [row for row, own in enumerate(permutations) for _ in own]
        asked = [
            self.plan.asked(question, order)
            for question, own in zip(questions, permutations, strict=True)
            for order in own
        ]
        scored = iter(self.engine.score(asked, [questions[row].example.options for row in rows]))
        answered = []
        for question, own, orders_of_shots in zip(questions, shots, permutations, strict=True):
            by_option = [ensembled(one) for one in zip(*(next(scored) for _ in orders_of_shots), strict=True)]
            choices = tuple(ChoiceScore(one.sum, one.num_tokens, len(one.text.strip())) for one in by_option)
            best = best_option(choices, self.plan.protocol.rank_by)
            chosen = by_option[best] if best is not None else Answer("", math.nan, 0, math.nan)
            answered.append(self._answered(question, own, chosen, best, choices))
        return answered

    def _answered(
        self,
        question: Question,
        shots: Sequence[int],
        answer: Answer,
        option: int | None = None,
        choices: tuple[ChoiceScore, ...] | None = None,
    ) -> Answered:
        medium = self.plan.shown(question)
        times, reader = ((), "") if medium is None else self.media.clip_facts(medium)
        return Answered(
            question.condition,
            question.num_shots,
            question.trial,
            question.example.id,
            answer=answer.text,
            option=option,
            choices=choices,
            score=None if math.isnan(answer.score) else answer.score,
            lowest=None if math.isnan(answer.lowest) else answer.lowest,
            num_tokens=answer.num_tokens,
            shots=tuple(self.plan.support[index].id for index in shots),
            frame_times=tuple(times),
            reader=reader,
        )


class About:
    """What is known of a few queries whose videos were read: what may be shown with them, and what is similar."""

    def __init__(self, asking: Asking, examples: list[Example]) -> None:
        self.asking = asking
        self.rows = {example.id: row for row, example in enumerate(examples)}
        self.features = asking.media.pooled([MediumKey(example.medium) for example in examples]).numpy()  # [Q, D]
        texts = None
        if examples and needs_texts(asking.plan.protocol):
            texts = question_features(asking.model, [example.question or "" for example in examples])
        self._similarities = asking.plan.similarities(self.features, texts) if examples else None

    def feature(self, example: Example) -> np.ndarray:
        return self.features[self.rows[example.id]]

    def similarities(self, example: Example) -> np.ndarray | None:
        return None if self._similarities is None else self._similarities[self.rows[example.id]]

    def excluded(self, example: Example) -> frozenset[int]:
        feature = None if self.asking.plan.features.videos is None else self.feature(example)
        return self.asking.plan.excluded(example, feature, self.asking.unreadable)


def _confidence(one: Answered) -> float:
    """Log-probability of the least likely token; of a close-ended question, of the option among all options."""
    if one.choices is None:
        return -math.inf if one.lowest is None else one.lowest
    best = max(choice.sum for choice in one.choices)
    return -math.log(sum(math.exp(choice.sum - best) for choice in one.choices))


def _unread(question: Question, error: str) -> Answered:
    return Answered(question.condition, question.num_shots, question.trial, question.example.id, error=error)
