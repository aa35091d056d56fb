"""Records as examples of a benchmark: what the declarations beside the datasets share."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from datamodules.records import Record, Records, counted
from datamodules.text_options import MediaOptions
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark, Example, MetricName
from videoflamingo.training.texts import Split
from videoflamingo.video.health import HealthIndex, read_index, skip_unreadable


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the user says of a benchmark: where it is, and how its media are shown.

    Args:
        data: folder of the annotation files; of your own questions, the list or folder.
        videos: folder of the videos, if not `data`.
        split: which one is asked, `validate` or `test`; None for the one the literature reports. Shots come from
            training data.
        media: frames and reading, the same for shots and questions.
        health: index that `videoflamingo scan` wrote; videos it cannot read are left out and counted.
        strict: whether a video that is not on disk is an error; otherwise it is left out and counted.
        seed: of what the declaration draws.
        answers: of your own questions, how they are answered; None to see it from them.
        num_support_videos, num_query_videos: of a benchmark whose videos are made on this machine; None for its own
            numbers.

    Raises:
        UsageError: if the split is neither.
    """

    data: str | None = None
    videos: str | None = None
    split: Split | None = None
    media: MediaOptions = field(default_factory=MediaOptions)
    health: str | None = None
    strict: bool = False
    seed: int = 0
    answers: AnswerKind | None = None
    num_support_videos: int | None = None
    num_query_videos: int | None = None

    def __post_init__(self) -> None:
        if self.split not in (None, "validate", "test"):
            raise UsageError(
                f"split={self.split!r}: give 'validate' or 'test', which are asked; shots come from the training data"
            )

    def annotations(self, name: str) -> str:
        """The folder of the annotation files.

        Raises:
            UsageError: if it was not given.
        """
        if self.data is None:
            raise UsageError(f"benchmark {name}: its files are not part of this package; name their folder with --data")
        return self.data

    def videos_folder(self, name: str) -> str:
        """The folder of the videos, by default that of the annotation files."""
        return self.videos or self.annotations(name)


def benchmark_of(
    name: str,
    support: Records,
    query: Records,
    options: BenchmarkOptions,
    answer_kind: AnswerKind,
    metric: MetricName,
    *,
    question_mark: bool = False,
    groups: Mapping[str, str] | None = None,
    description: Iterable[str] = (),
) -> Benchmark:
    """The benchmark that these records are: every question, or every video to caption, is an example.

    Args:
        support: what shots are chosen from.
        query: what is asked.
        question_mark: put one after questions that end without.
        groups, description: as in `Benchmark`; what was read and left out is added to the description.

    Raises:
        UsageError: if nothing is left to ask, or the examples do not fit the kind of answer.
    """
    index = None if options.health is None else read_index(options.health)
    told = list(description)
    parts = []
    for part, records in (("shots", support), ("questions", query)):
        found, left_out = _examples(records, options.media, answer_kind, index, question_mark)
        told.append("; ".join([f"{part}: {len(found):,} of {records}", *left_out]))
        parts.append(found)
    return Benchmark(name, parts[0], parts[1], answer_kind, metric, dict(groups or {}), tuple(told))


def _examples(
    records: Records, media: MediaOptions, answer_kind: AnswerKind, index: HealthIndex | None, question_mark: bool
) -> tuple[tuple[Example, ...], list[str]]:
    """The examples, and in words what was left out."""
    left_out = []
    if index is not None:
        kept, unreadable = skip_unreadable(records.videos, index)
        records = records.of_videos(set(kept))
        if unreadable:
            left_out.append(f"{counted(len(unreadable), 'unreadable video')} left out ({unreadable[0][1]})")
    fitting = [record for record in records if _fits(record, answer_kind)]
    if len(fitting) < len(records):
        words = {"open": "a question", "choices": "options", "caption": "a caption"}[answer_kind]
        left_out.append(f"{counted(len(records) - len(fitting), 'record')} without {words} left out")
    given: Counter[str] = Counter()
    examples = []
    for record in fitting:
        given[record.id] += 1
        again = f"#{given[record.id]}" if given[record.id] > 1 else ""  # official files may have an id twice
        examples.append(_example(record, f"{record.id}{again}", media, answer_kind, question_mark))
    return tuple(examples), left_out


def _fits(record: Record, answer_kind: AnswerKind) -> bool:
    if answer_kind == "caption":
        return bool(record.captions)
    return record.question is not None and (answer_kind == "open" or bool(record.options))


def _example(record: Record, name: str, media: MediaOptions, answer_kind: AnswerKind, question_mark: bool) -> Example:
    request = media.request(record.video, None, record.start_seconds, record.end_seconds)
    if answer_kind == "caption":
        return Example(name, request, None, record.captions, kind=record.kind, place=record.place)
    question = (record.question or "").strip()
    if question_mark and not question.endswith("?"):
        question = f"{question}?"
    chosen = (record.options, record.answer_index) if answer_kind == "choices" else ((), None)
    return Example(name, request, question, record.answers, *chosen, kind=record.kind, place=record.place)
