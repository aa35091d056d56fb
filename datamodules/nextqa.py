"""NExT-QA: why and how, before and after, what is there; five options, or answers in words.

Official files: `train.csv`, `val.csv`, `test.csv` and `map_vid_vidorID.json`; of the answers in words (NExT-OE) also
`add_reference_answer_test.json`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.annotation_files import Entry, field_error, read_json, table_entries
from datamodules.record_examples import BenchmarkOptions, benchmark_of
from datamodules.record_texts import RecordTexts
from datamodules.records import Record, Records, VideoFolder, with_videos
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.training import texts

LAYOUTS = ("", "NExTVideo")
MAP = "map_vid_vidorID.json"
SECOND_ANSWERS = "add_reference_answer_test.json"
OPTIONS = ("a0", "a1", "a2", "a3", "a4")
GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
TYPES = ("CW", "CH", "TN", "TC", "TP", "DB", "DC", "DL", "DO")  # DB (yes or no) only in answers in words
GROUP_OF = {kind: GROUPS[kind[0]] for kind in TYPES}

Split = Literal["train", "val", "test"]


class NextQaTexts(RecordTexts):
    """NExT-QA's questions. Of multiple choice, the right option is the answer to learn.

    Args:
        annotations: folder of the CSV files.
        videos: folder `NExTVideo`, or one above it.
        open_ended: answers in words (NExT-OE) instead of five options.
        question_mark: put one after questions; the files have none.
        options: see `RecordTexts`; `options_in_question` shows the five options.
    """

    def __init__(
        self, annotations: str, videos: str, open_ended: bool, question_mark: bool = True, **options: Any
    ) -> None:
        super().__init__(question_mark=question_mark, **options)
        self.annotations, self.videos, self.open_ended = annotations, videos, open_ended

    def read(self, split: texts.Split) -> Records:
        """Raises UsageError as `read_nextqa`."""
        name: Split = "val" if split == "validate" else split
        read = read_nextqa_open_ended if self.open_ended else read_nextqa
        return read(self.annotations, self.videos, split=name, strict=self.strict)


def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Multiple choice: shots from the training split, questions of the test split, accuracy, also by group.

    Raises:
        UsageError: as `read_nextqa`.
    """
    annotations, videos = options.annotations("nextqa"), options.videos_folder("nextqa")
    support = read_nextqa(annotations, videos, split="train", strict=options.strict)
    query = read_nextqa(annotations, videos, split=_asked(options), strict=options.strict)
    return benchmark_of(
        "nextqa", support, query, options, "choices", "choice_accuracy", question_mark=True, groups=GROUP_OF
    )


def benchmark_open_ended(options: BenchmarkOptions) -> Benchmark:
    """Answers in words: shots from the training split, questions of the test split, WUPS (Flamingo v1 table 2).

    Raises:
        UsageError: as `read_nextqa`.
    """
    annotations, videos = options.annotations("nextqa-oe"), options.videos_folder("nextqa-oe")
    support = read_nextqa_open_ended(annotations, videos, split="train", strict=options.strict)
    query = read_nextqa_open_ended(annotations, videos, split=_asked(options), strict=options.strict)
    return benchmark_of("nextqa-oe", support, query, options, "open", "wups", question_mark=True, groups=GROUP_OF)


def _asked(options: BenchmarkOptions) -> Split:
    return "val" if options.split == "validate" else "test"


def read_nextqa(
    annotations: str | os.PathLike[str], videos: str | os.PathLike[str], *, split: Split, strict: bool = False
) -> Records:
    """Multiple choice: one record for each question, with five options. `kind` is its type, such as `CW`.

    Questions are as in the file, in small letters and without a question mark. Options of one question may be equal.

    Args:
        annotations: folder of the CSV files, and of `map_vid_vidorID.json` if videos lie in folders by its names.
        videos: folder `NExTVideo`, or one above it, with `1164/4010069381.mp4` (as released) or `4010069381.mp4`.
        split: `train`, `val` or `test`.
        strict: whether a missing video is an error.

    Raises:
        UsageError: if a file is missing or an entry is wrong; see `with_videos` for missing videos.
    """
    file = _csv(annotations, split)
    return with_videos(_multiple_choice(file, split), _finder(file, videos), where=videos, strict=strict)


def read_nextqa_open_ended(
    annotations: str | os.PathLike[str], videos: str | os.PathLike[str], *, split: Split, strict: bool = False
) -> Records:
    """Answers in words: one record for each question. In the test split some have a second answer, equally right.

    `id` is `VIDEO_QID`, and three of the training file are there twice.

    Args:
        annotations: folder of the CSV files; for `test` also `add_reference_answer_test.json`, without which questions
            have one answer each.
        videos, split, strict: as in `read_nextqa`.

    Raises:
        UsageError: as `read_nextqa`.
    """
    file = _csv(annotations, split)
    return with_videos(_open_ended(file, split), _finder(file, videos), where=videos, strict=strict)


def group_of(kind: str) -> str:
    """The group results are reported by.

    Example:
        >>> group_of("CW")
        'causal'
    """
    return GROUPS[kind[0]]


def _csv(annotations: str | os.PathLike[str], split: str) -> Path:
    if split not in ("train", "val", "test"):
        raise UsageError(f"split={split!r}: NExT-QA has 'train', 'val' and 'test'")
    return Path(annotations) / f"{split}.csv"


def _multiple_choice(file: Path, split: str) -> Iterator[Record]:
    for entry in table_entries(file, columns=["video", "question", "answer", "qid", "type", *OPTIONS]):
        yield Record(
            video=entry.text("video"),
            place=entry.place,
            question=entry.text("question"),
            options=tuple(entry.text(name) for name in OPTIONS),
            answer_index=entry.whole("answer"),
            id=f"{entry.text('video')}_{entry.text('qid')}",
            split=split,
            kind=_type(entry),
        )


def _open_ended(file: Path, split: str) -> Iterator[Record]:
    second = _second_answers(file.with_name(SECOND_ANSWERS)) if split == "test" else {}
    for entry in table_entries(file, columns=["video", "question", "answer", "qid", "type"]):
        if "a0" in entry.fields:
            raise UsageError(f"{file}: has options; it is of multiple choice, which read_nextqa reads")
        name = f"{entry.text('video')}_{entry.text('qid')}"
        yield Record(
            video=entry.text("video"),
            place=entry.place,
            question=entry.text("question"),
            answers=(entry.text("answer"), *second.get(name, ())),
            id=name,
            split=split,
            kind=_type(entry),
        )


def _type(entry: Entry) -> str:
    kind = entry.text("type")
    if kind not in TYPES:
        raise field_error(entry.place, "type", kind, f"must be one of {', '.join(TYPES)}", "check the file")
    return kind


def _second_answers(file: Path) -> dict[str, tuple[str, ...]]:
    """`{video: {qid: answer}}` of the file, by id; nothing if it is not there."""
    if not file.is_file():
        return {}
    answers: dict[str, tuple[str, ...]] = {}
    content = read_json(file)
    for video, by_question in content.items() if isinstance(content, dict) else [(file.name, content)]:
        if not isinstance(by_question, dict):
            raise UsageError(f"{file}: entry {video!r}: must be an object of answers by question; check the file")
        entry = Entry(f"{file}: entry {video!r}", by_question)
        answers.update({f"{video}_{question}": (entry.text(question),) for question in by_question})
    return answers


def _finder(file: Path, videos: str | os.PathLike[str]) -> Callable[[str], str | None]:
    """Video -> path: in the folder the map names, or beside the others."""
    folder = VideoFolder(videos, LAYOUTS)
    placed = read_json(file.with_name(MAP)) if file.with_name(MAP).is_file() else {}
    if not isinstance(placed, dict):
        raise UsageError(f"{file.with_name(MAP)}: must be an object of video and FOLDER/VIDEO; check which file it is")

    def find(video: str) -> str | None:
        return (folder.find(str(placed[video])) if video in placed else None) or folder.find(video)

    return find
