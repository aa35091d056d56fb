"""MSRVTT-QA: questions about the clips of MSR-VTT, each with an answer of one word.

Official files: `train_qa.json`, `val_qa.json`, `test_qa.json`. Derived ones in wide use: `qa_train.json`,
`qa_val.json`, `qa_test.json`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.annotation_files import Entry, field_error, json_entries, read_json
from datamodules.msrvtt import LAYOUTS
from datamodules.record_examples import BenchmarkOptions, benchmark_of
from datamodules.record_texts import RecordTexts
from datamodules.records import Record, Records, VideoFolder, with_videos
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.training import texts

Split = Literal["train", "val", "test"]
_FIRST_WORDS = ("what", "who", "how", "when", "where")


class MsrvttQaTexts(RecordTexts):
    """MSRVTT-QA's questions with their answers.

    Args:
        annotations: folder of the annotation files.
        videos: folder of MSR-VTT's clips, or one above it.
        options: see `RecordTexts`.
    """

    def __init__(self, annotations: str, videos: str, **options: Any) -> None:
        super().__init__(**options)
        self.annotations, self.videos = annotations, videos

    def read(self, split: texts.Split) -> Records:
        """Raises UsageError as `read_msrvtt_qa`."""
        name: Split = "val" if split == "validate" else split
        return read_msrvtt_qa(self.annotations, self.videos, split=name, strict=self.strict)


def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Shots from the training split, questions of the test split, exact match (Flamingo v1 table 2).

    Raises:
        UsageError: as `read_msrvtt_qa`.
    """
    annotations, videos = options.annotations("msrvtt-qa"), options.videos_folder("msrvtt-qa")
    asked: Split = "val" if options.split == "validate" else "test"
    support = read_msrvtt_qa(annotations, videos, split="train", strict=options.strict)
    query = read_msrvtt_qa(annotations, videos, split=asked, strict=options.strict)
    return benchmark_of("msrvtt-qa", support, query, options, "open", "exact_match")


def read_msrvtt_qa(
    annotations: str | os.PathLike[str], videos: str | os.PathLike[str], *, split: Split, strict: bool = False
) -> Records:
    """One record for each question; `kind` is its first word, where that is what, who, how, when or where.

    An official entry is `{"question", "answer", "category_id", "video_id": 12, "id"}` and is of `video12`; a derived
    one `{"video": "video12.mp4", "question", "answer", "question_id"}`. Both are unverified against the files
    themselves: they follow programs that read them.

    Args:
        annotations: folder of the annotation files; the official one is taken where both are.
        videos: folder of MSR-VTT's clips, as for `read_msrvtt`.
        split: `train`, `val` or `test`.
        strict: whether a missing video is an error.

    Raises:
        UsageError: if the file is missing or an entry is wrong; see `with_videos` for missing videos.
    """
    if split not in ("train", "val", "test"):
        raise UsageError(f"split={split!r}: MSRVTT-QA has 'train', 'val' and 'test'")
    files = [Path(annotations) / f"{split}_qa.json", Path(annotations) / f"qa_{split}.json"]
    there = [file for file in files if file.is_file()]
    if not there:
        raise UsageError(f"{annotations}: has neither {files[0].name} nor {files[1].name}; name their folder")
    return with_videos(_records(there[0], split), VideoFolder(videos, LAYOUTS).find, where=videos, strict=strict)


def question_kind(question: str) -> str:
    """The first word of a question, where the dataset's authors count it as a type; else nothing.

    Example:
        >>> question_kind("who is singing?"), question_kind("is he singing?")
        ('who', '')
    """
    first = question.split(maxsplit=1)[0].lower()
    return first if first in _FIRST_WORDS else ""


def _records(file: Path, split: str) -> Iterator[Record]:
    for entry in json_entries(read_json(file), file):
        question = entry.text("question")
        derived = "video" in entry.fields
        yield Record(
            video=entry.text("video") if derived else f"video{entry.whole('video_id')}",
            place=entry.place,
            question=question,
            answers=(_answer(entry),),
            id=entry.identifier("question_id" if derived else "id"),
            split=split,
            kind=question_kind(question),
        )


def _answer(entry: Entry) -> str:
    if isinstance(entry.get("answer"), list):
        rule = "must be one text"
        raise field_error(entry.place, "answer", entry.fields["answer"], rule, "correct the entry")
    return entry.identifier("answer")
