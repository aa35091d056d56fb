"""MSR-VTT: 10,000 clips with 20 captions each.

Official files: `train_val_videodatainfo.json` and `test_videodatainfo.json`. Widely used with them, for the split of
9,000 and 1,000 clips called 1k-A: `MSRVTT_data.json` (both in one), `MSRVTT_train.9k.csv`, `MSRVTT_JSFUSION_test.csv`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.annotation_files import Entry, json_entries, read_json, read_text, table_entries
from datamodules.record_examples import BenchmarkOptions, benchmark_of
from datamodules.record_texts import RecordTexts
from datamodules.records import Record, Records, VideoFolder, with_videos
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.training.texts import Split

LAYOUTS = ("", "TrainValVideo", "TestVideo", "videos/all", "MSRVTT/videos/all", "MSRVTT_Videos")
OFFICIAL = ("train_val_videodatainfo.json", "test_videodatainfo.json")
IN_ONE = "MSRVTT_data.json"
TRAIN_9K = "MSRVTT_train.9k.csv"
TEST_1K = "MSRVTT_JSFUSION_test.csv"

Partition = Literal["full", "1k-A"]


class MsrvttCaptions(RecordTexts):
    """MSR-VTT's clips with their captions, one of which each training draw chooses.

    Args:
        annotations: folder of the annotation files.
        videos: folder of the clips, or one above it.
        partition: `full`, or `1k-A`, which has no validation split.
        options: see `RecordTexts`.
    """

    def __init__(self, annotations: str, videos: str, partition: Partition = "full", **options: Any) -> None:
        super().__init__(**options)
        self.annotations, self.videos, self.partition = annotations, videos, partition

    def read(self, split: Split) -> Records:
        """Raises UsageError as `read_msrvtt`."""
        if self.partition == "1k-A" and split == "validate":
            return Records([])
        return read_msrvtt(self.annotations, self.videos, split=split, partition=self.partition, strict=self.strict)


def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Shots from the training split, captions of the test split (2,990 clips with 20 references each), CIDEr-D.

    Raises:
        UsageError: as `read_msrvtt`.
    """
    annotations, videos = options.annotations("msrvtt-captions"), options.videos_folder("msrvtt-captions")
    support = read_msrvtt(annotations, videos, split="train", strict=options.strict)
    query = read_msrvtt(annotations, videos, split=options.split or "test", strict=options.strict)
    return benchmark_of("msrvtt-captions", support, query, options, "caption", "captions")


def read_msrvtt(
    annotations: str | os.PathLike[str],
    videos: str | os.PathLike[str],
    *,
    split: Split,
    partition: Partition = "full",
    strict: bool = False,
) -> Records:
    """One record for each clip, with all its captions. In the test split of 1k-A, with the one sentence of its list.

    The files' `start time` and `end time` count in the video the clip was cut from, not in the clip `video0.mp4`, so
    records are of whole clips.

    The two official files, the shape of `MSRVTT_data.json` and of the list of 9,000 are unverified against the files
    themselves: they follow the dataset's own description and programs that read them.

    Args:
        annotations: folder of the annotation files.
        videos: folder of `video0.mp4` (or `.webm` ...), or one above it; see `LAYOUTS`.
        split: `train` (6,513 clips), `validate` (497) or `test` (2,990); of 1k-A, `train` (9,000) or `test` (1,000).
        partition: `full` or `1k-A`.
        strict: whether a missing video is an error.

    Raises:
        UsageError: if a file is missing or an entry is wrong; see `with_videos` for missing videos.
    """
    folder = Path(annotations)
    if partition not in ("full", "1k-A"):
        raise UsageError(f"partition={partition!r}: must be 'full' or '1k-A'")
    splits = ("train", "validate", "test") if partition == "full" else ("train", "test")
    if split not in splits:
        raise UsageError(f"split={split!r}: MSR-VTT's partition {partition!r} has {', '.join(map(repr, splits))}")
    if partition == "full":
        records = _full(folder, split)
    elif split == "train":
        records = _train_9k(folder)
    else:
        records = _test_1k(folder)
    return with_videos(records, VideoFolder(videos, LAYOUTS).find, where=videos, strict=strict)


def _full(folder: Path, split: str) -> Iterator[Record]:
    for file in _caption_files(folder, split):
        for entry, captions in _clips(file):
            if entry.text("split") == split:
                yield _record(entry.place, entry.text("video_id"), captions, split)


def _train_9k(folder: Path) -> Iterator[Record]:
    captions: dict[str, tuple[str, ...]] = {}
    for file in _caption_files(folder):
        captions.update({entry.text("video_id"): said for entry, said in _clips(file)})
    for entry in _listed(folder / TRAIN_9K, ["video_id"]):
        name = entry.text("video_id")
        if name not in captions:
            raise UsageError(f"{entry.place}: field 'video_id' is {name!r}, which has no captions in {folder}")
        yield _record(entry.place, name, captions[name], "train")


def _test_1k(folder: Path) -> Iterator[Record]:
    for entry in _listed(folder / TEST_1K, ["video_id", "sentence"]):
        yield _record(entry.place, entry.text("video_id"), (entry.text("sentence"),), "test")


def _listed(file: Path, columns: list[str]) -> Iterator[Entry]:
    """Rows of one of the lists; copies of them separated by `;` are in use."""
    header = read_text(file).partition("\n")[0]
    return table_entries(file, ";" if ";" in header and "," not in header else ",", columns)


def _caption_files(folder: Path, split: str | None = None) -> list[Path]:
    """The files with the captions of a split, or of all: the official ones where they are."""
    official = [folder / name for name in OFFICIAL]
    wanted = official if split is None else [official[split == "test"]]
    if all(file.is_file() for file in wanted):
        return wanted
    if (folder / IN_ONE).is_file():
        return [folder / IN_ONE]
    names = " and ".join(file.name for file in wanted)
    raise UsageError(f"{folder}: has neither {names} nor {IN_ONE}; name the folder that holds MSR-VTT's annotations")


def _clips(file: Path) -> list[tuple[Entry, tuple[str, ...]]]:
    """The clips of a file in its order, each with its captions in order of the sentences."""
    content = read_json(file)
    for name in ("videos", "sentences"):
        if not isinstance(content, dict) or name not in content:
            raise UsageError(f"{file}: has no list {name!r}; a file without sentences holds no captions")
    captions: dict[str, list[str]] = {}
    for sentence in json_entries(content["sentences"], file, "sentence"):
        captions.setdefault(sentence.text("video_id"), []).append(sentence.text("caption"))
    clips = list(json_entries(content["videos"], file, "video"))
    return [(clip, tuple(captions.get(clip.text("video_id"), ()))) for clip in clips]


def _record(place: str, name: str, captions: tuple[str, ...], split: str) -> Record:
    if not captions:
        raise UsageError(f"{place}: {name} has no sentence in this file; copy the file again")
    return Record(name, place, captions=captions, id=name, split=split)
