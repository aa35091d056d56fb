"""What a benchmark declares: examples to show, examples to ask about, what kind of answer, and how it is scored."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from videoflamingo.errors import UsageError
from videoflamingo.video.medium import MediumRequest

AnswerKind = Literal["open", "choices", "caption"]
MetricName = Literal["exact_match", "choice_accuracy", "wups", "captions"]
METRICS_OF: dict[AnswerKind, tuple[MetricName, ...]] = {
    "open": ("exact_match", "wups"),
    "choices": ("choice_accuracy",),
    "caption": ("captions",),
}


@dataclass(frozen=True)
class Example:
    """One question about a video, or a video to caption, with what is right. It may be shown or asked.

    Args:
        id: of this example within its benchmark.
        medium: which frames of which video or picture.
        question: as it is put; None for a caption.
        answers: the right ones (of a caption: all references). The first is what a shot shows.
        options: of a close-ended question.
        answer_index: the right option, from 0.
        kind: the type of the question, for tables; may be empty.
        place: `FILE:LINE`, for messages.

    Raises:
        UsageError: if it has no answer, or options without the right one.
    """

    id: str
    medium: MediumRequest
    question: str | None
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    kind: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        if not self.answers:
            raise UsageError(f"{self.place or self.id}: has no answer, so it can be neither shown nor scored; add one")
        if self.options and (self.answer_index is None or not 0 <= self.answer_index < len(self.options)):
            raise UsageError(
                f"{self.place or self.id}: the right option is {self.answer_index}, of {len(self.options)} counted "
                "from 0; correct it"
            )

    @property
    def video(self) -> str:
        """The file it is about: intervals are clustered by it, and it is never shown with a question about itself."""
        return self.medium.name


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, declared beside the dataset it is of.

    Args:
        name: as `--benchmark` has it.
        support: examples that may be shown.
        query: examples that are asked; none of them is ever shown.
        answer_kind: `open` (words, beam search), `choices` (every option scored), or `caption`.
        metric: the headline; must fit the kind of answer.
        groups: name of the group a kind is reported under, where kinds are more than a table should have.
        description: for the report, one sentence each: what was read, and what was left out.
        max_new_tokens: bound on a generated answer.

    Raises:
        UsageError: if a part is empty, ids are given twice, or metric and answers do not fit.
    """

    name: str
    support: tuple[Example, ...]
    query: tuple[Example, ...]
    answer_kind: AnswerKind
    metric: MetricName
    groups: Mapping[str, str] = field(default_factory=dict)
    description: tuple[str, ...] = ()
    max_new_tokens: int = 20

    def __post_init__(self) -> None:
        if self.answer_kind not in get_args(AnswerKind) or self.metric not in METRICS_OF[self.answer_kind]:
            raise UsageError(
                f"benchmark {self.name}: metric {self.metric!r} does not score answers of kind {self.answer_kind!r}; "
                f"choose among {dict(METRICS_OF)}"
            )
        if not self.query:
            raise UsageError(f"benchmark {self.name}: there is nothing to ask; check its data folder")
        for part, examples in (("support", self.support), ("query", self.query)):
            twice = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
            if twice:
                raise UsageError(f"benchmark {self.name}: {part} has id {twice[0]!r} twice; give each example its own")
            for example in examples:
                if self.answer_kind == "choices" and not example.options:
                    raise UsageError(
                        f"{example.place or example.id}: has no options, but benchmark {self.name} is close-ended"
                    )
                if (example.question is None) != (self.answer_kind == "caption"):
                    raise UsageError(
                        f"{example.place or example.id}: must have a question unless captions are asked for, and "
                        f"benchmark {self.name} has answers of kind {self.answer_kind!r}"
                    )

    def group(self, example: Example) -> str:
        """The group its kind is reported under."""
        return self.groups.get(example.kind, example.kind)

    @cached_property
    def digest(self) -> str:
        """Of all that the examples say (not of the videos' bytes): 16 hexadecimal digits, in every report.

        File names count without their folder, so that another machine's copy has the same.
        """
        whole = hashlib.blake2b(digest_size=8)
        for example in (*self.support, None, *self.query):
            whole.update(json.dumps(None if example is None else _said(example), ensure_ascii=False).encode() + b"\n")
        return whole.hexdigest()


def _said(example: Example) -> list[object]:
    sampling = example.medium.sampling
    return [
        example.id,
        example.video.rpartition("/")[2],
        sampling.start_seconds,
        sampling.end_seconds,
        example.question,
        example.answers,
        example.options,
        example.answer_index,
        example.kind,
    ]
