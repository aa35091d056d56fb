"""Your own data as a benchmark: which entries are shown, which asked, and how they are answered."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from datamodules.annotation_files import field_error
from datamodules.own import SPLIT_NAMES, read_own
from datamodules.record_examples import BenchmarkOptions, benchmark_of
from datamodules.records import Record, Records, counted
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark, MetricName
from videoflamingo.training.texts import Split
from videoflamingo.video.source import SourceFile

SPLITS: dict[Split, tuple[str, ...]] = {  # of the field `split`, in small letters
    "train": (*SPLIT_NAMES["train"], "support"),
    "validate": SPLIT_NAMES["validate"],
    "test": (*SPLIT_NAMES["test"], "query"),
}
METRICS: dict[AnswerKind, MetricName] = {"open": "exact_match", "choices": "choice_accuracy", "caption": "captions"}


def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Your own questions as a benchmark, scored by exact match, by the right option, or as captions by CIDEr-D.

    Entries whose `split` is `train` or `support` may be shown, those of `test` or `query` are asked (of `validate` with
    `split="validate"`, or where there are none of `test`). Without any split, half of the videos, drawn by the seed,
    are shown and the others asked about.

    Questions with options are answered by choosing, others in words; without any question, videos are captioned. Where
    some have options and some have not, `answers` must say what is meant.

    Raises:
        UsageError: as `read_own`; if a split is unknown; if there is nothing to ask; if it is not clear how to answer.
    """
    assert options.data is not None  # the list's path
    if options.videos is not None:
        raise UsageError(f"{options.data}: says itself where its videos are; leave out videos={options.videos!r}")
    records = read_own(options.data, strict=options.strict)
    support, query, how = _parts(records, options)
    answer_kind = options.answers or _answer_kind(records, options.data)
    name = os.path.basename(os.path.normpath(options.data))
    return benchmark_of(name, support, query, options, answer_kind, METRICS[answer_kind], description=[how])


def _parts(records: Records, options: BenchmarkOptions) -> tuple[Records, Records, str]:
    """What may be shown, what is asked, and in words how it was told apart."""
    if not any(record.split for record in records):
        return _halves(records, options)
    of_split: dict[Split, list[Record]] = {"train": [], "validate": [], "test": []}
    for record in records:
        of_split[_split_of(record)].append(record)
    asked = options.split or ("test" if of_split["test"] else "validate")
    if not of_split[asked]:
        rule = f"no entry is of split {asked!r}" if options.split else "no entry is of split 'test' or 'validate'"
        raise UsageError(f"{options.data}: {rule}, so there is nothing to ask; name the split of those to ask")
    how = f"shots of split 'train', questions of split {asked!r}, as the entries say"
    return replace(records, records=of_split["train"]), replace(records, records=of_split[asked]), how


def _split_of(record: Record) -> Split:
    for split, names in SPLITS.items():
        if record.split.lower() in names:
            return split
    rule = "must be train, validate or test (or support, or query), because other entries have a split"
    raise field_error(record.place, "split", record.split, rule, "correct it")


def _halves(records: Records, options: BenchmarkOptions) -> tuple[Records, Records, str]:
    """Half of the videos and the others. Which half a video is in depends on its name and the seed, and hardly on which
    other videos there are.
    """
    if options.split is not None:
        raise UsageError(f"{options.data}: entries have no split, so none is {options.split!r}; leave the split out")
    if len(records.videos) < 2:
        raise UsageError(
            f"{options.data}: is about {counted(len(records.videos), 'video')}, but one half of the videos is shown "
            "and the other asked about; add videos, or give entries a split: 'train' to show, 'test' to ask"
        )
    folder = Path(options.data or "")
    folder = folder if folder.is_dir() else folder.parent

    def drawn(video: str) -> bytes:
        name = video if SourceFile.of(video).is_remote else os.path.relpath(video, folder)
        return hashlib.blake2b(f"{options.seed} {name}".encode(), digest_size=8).digest()

    shown = set(sorted(records.videos, key=drawn)[: len(records.videos) // 2])
    asked = set(records.videos) - shown
    how = f"entries have no split: {counted(len(shown), 'video')} of {len(records.videos):,}, drawn with seed "
    how += f"{options.seed}, {'is' if len(shown) == 1 else 'are'} for shots, and the others are asked about"
    return records.of_videos(shown), records.of_videos(asked), how


def _answer_kind(records: Records, path: str) -> AnswerKind:
    asking = [record for record in records if record.question is not None]
    if not asking:
        return "caption"
    with_options = sum(bool(record.options) for record in asking)
    if 0 < with_options < len(asking):
        raise UsageError(
            f"{path}: {with_options:,} of {counted(len(asking), 'question')} have options; give answers='choices' to "
            "ask these only, or answers='open' to have all answered in words"
        )
    return "choices" if with_options else "open"
