"""Your own data: a list of videos with texts, or a folder of videos with texts beside them. See docs/data.md."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.annotation_files import (
    Entry,
    field_error,
    json_entries,
    json_lines,
    parquet_entries,
    read_json,
    read_text,
    table_entries,
)
from datamodules.record_texts import RecordTexts
from datamodules.records import Record, Records, VideoFolder, refuse_missing, with_videos
from videoflamingo.errors import UsageError
from videoflamingo.training.texts import Split
from videoflamingo.video.collection import find_in_folder
from videoflamingo.video.source import SourceFile

_VIDEO = ("video", "start", "end")
_SAID = ("question", "answer", "answers", "caption", "captions", "options")
FIELDS = (*_VIDEO, *_SAID, "id", "split", "type")
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {  # of the field `split`, in small letters
    "train": ("train", "training"),
    "validate": ("validate", "validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_EXAMPLE = '{"video": "cat.mp4", "caption": "a cat sleeps"}'


class OwnTexts(RecordTexts):
    """Your own data to train on: one list or folder, or one for each split.

    Where entries have the field `split`, it says which split they are of (`SPLIT_NAMES`); a list without it is of one
    split as a whole.

    Args:
        path: the list or folder to train on.
        validate, test: lists or folders of these splits; None for what `path` has of them.
        options: see `RecordTexts`.
    """

    def __init__(self, path: str, validate: str | None = None, test: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.paths: dict[Split, str | None] = {"train": path, "validate": validate, "test": test}
        self._read: dict[str, Records] = {}

    def read(self, split: Split) -> Records:
        """Raises UsageError as `read_own`, and if `split` of an entry is not known."""
        own = self.paths[split]
        path = own or str(self.paths["train"])
        if path not in self._read:
            self._read[path] = read_own(path, strict=self.strict)
        records = self._read[path]
        if not any(record.split for record in records):
            return records if own is not None else Records([])
        return replace(records, records=[record for record in records if _split_of(record) == split])


def _split_of(record: Record) -> Split:
    for split, names in SPLIT_NAMES.items():
        if record.split.lower() in names:
            return split
    rule = "must be train, validate or test, because other entries have a split"
    raise field_error(record.place, "split", record.split, rule, "correct it")


def read_own(path: str | os.PathLike[str], *, split: str | None = None, strict: bool = False) -> Records:
    """Records of a list (.jsonl, .csv, .tsv, .parquet), or of a folder of videos with texts beside them.

    A list has the fields of `FIELDS`; `video` is a path that counts from the list's folder, or a URL. Other fields are
    passed over, unless they look like a slip of the pen. In a folder, `cat.txt` beside `cat.mp4` has one caption a
    line, and `cat.json` an object, or a list of them, with the same fields.

    Args:
        path: the list or folder.
        split: only the records of this split; None for all.
        strict: whether a video that is not on disk is an error; otherwise it is among `Records.missing`.

    Raises:
        UsageError: at the first entry that is wrong, with file, line, field and value; if nothing is there to read.

    Example:
        >>> _ = Path("mine.jsonl").write_text('{"video": "bikes.mp4", "caption": "people ride bicycles"}')
        >>> records = read_own("mine.jsonl")
        >>> print(records)
        1 record of 1 video
        >>> records[0].video, records[0].captions
        ('bikes.mp4', ('people ride bicycles',))
    """
    path = Path(path)
    records = _read_folder(path, strict) if path.is_dir() else _read_list(path, strict)
    return records if split is None else records.of_split(split)


def _read_list(path: Path, strict: bool) -> Records:
    entries, in_table = _entries_of(path)
    folder = VideoFolder(path.parent, extensions=())  # exactly the file that is named
    return with_videos(_records_of(path, entries, in_table), folder.find, where=path, strict=strict)


def _entries_of(path: Path) -> tuple[Iterator[Entry], bool]:
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        return json_lines(path), False
    if kind in (".csv", ".tsv"):
        return table_entries(path, "," if kind == ".csv" else "\t", ["video"]), True
    if kind == ".parquet":
        return parquet_entries(path), False
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; check the path")
    raise UsageError(f"{path}: is no list; give a .jsonl, .csv, .tsv or .parquet file, or a folder of videos")


def _records_of(path: Path, entries: Iterator[Entry], in_table: bool) -> Iterator[Record]:
    places: dict[str, str] = {}
    for entry in entries:
        record = _record(_known(entry), in_table, default_id=path.name + entry.place.removeprefix(str(path)))
        if record.id in places:
            rule = f"{places[record.id]} has it, too"
            raise field_error(record.place, "id", record.id, rule, "give each entry an id of its own, or none")
        places[record.id] = record.place
        yield record


def _known(entry: Entry) -> Entry:
    """The entry without empty values and fields of others.

    Raises:
        UsageError: if a field looks like one of ours.
    """
    for name in entry.fields:
        meant = [known for known in FIELDS if name not in FIELDS and _is_slip(name, known)]
        if meant:
            raise UsageError(f"{entry.place}: field {name!r} is unknown; did you mean {meant[0]!r}? Rename it")
    kept = {name: value for name, value in entry.fields.items() if name in FIELDS and value is not None and value != ""}
    if "video" not in kept:
        found = ", ".join(map(repr, list(entry.fields)[:12])) or "none"
        raise UsageError(f"{entry.place}: has no 'video', only {found}; write entries such as {_EXAMPLE}")
    return Entry(entry.place, kept)


def _record(entry: Entry, in_table: bool, default_id: str) -> Record:
    options = _texts(entry, "options", in_table)
    answers, answer_index = _answers(entry, options, in_table)
    return Record(
        video=_video(entry),
        place=entry.place,
        start_seconds=entry.seconds("start") if "start" in entry.fields else None,
        end_seconds=entry.seconds("end") if "end" in entry.fields else None,
        question=entry.text("question") if "question" in entry.fields else None,
        answers=answers,
        captions=_one_or_many(entry, "caption", "captions", in_table),
        options=options,
        answer_index=answer_index,
        id=entry.identifier("id") if "id" in entry.fields else default_id,
        split=entry.text("split") if "split" in entry.fields else "",
        kind=entry.identifier("type") if "type" in entry.fields else "",
    )


def _video(entry: Entry) -> str:
    source = SourceFile.of(entry.text("video"))  # `file://` is taken off
    return source.name if source.is_remote else os.path.normpath(source.name)


def _answers(entry: Entry, options: tuple[str, ...], in_table: bool) -> tuple[tuple[str, ...], int | None]:
    """The answers, and of a multiple-choice question the index; the text of an option comes before its number."""
    if not options:
        return _one_or_many(entry, "answer", "answers", in_table), None
    if "answers" in entry.fields:
        rule = "a question with options has one answer"
        raise field_error(entry.place, "answers", entry.fields["answers"], rule, "call it 'answer'")
    if "answer" not in entry.fields:
        raise field_error(entry.place, "answer", None, "options need one", "add the text of the right option")
    answer = entry.fields["answer"]
    if isinstance(answer, str) and answer.strip() in options:
        return (), options.index(answer.strip())
    if (isinstance(answer, int) and not isinstance(answer, bool)) or (in_table and answer.strip().isdecimal()):
        return (), int(answer)
    rule = f"must be one of the options ({', '.join(map(repr, options))})"
    raise field_error(entry.place, "answer", answer, rule, "write its text, or its number counted from 0")


def _one_or_many(entry: Entry, one: str, many: str, in_table: bool) -> tuple[str, ...]:
    if one in entry.fields and many in entry.fields:
        raise field_error(entry.place, many, entry.fields[many], f"{one!r} is given, too", "give one of the two")
    if one in entry.fields:
        if isinstance(entry.fields[one], list):
            raise field_error(entry.place, one, entry.fields[one], "must be one text", f"call a list {many!r}")
        return (entry.text(one),)
    return _texts(entry, many, in_table)


def _texts(entry: Entry, name: str, in_table: bool) -> tuple[str, ...]:
    """A list of texts; in a table `a|b`, or a JSON list where a text holds `|`."""
    if name not in entry.fields:
        return ()
    value = entry.fields[name]
    remedy = 'write ["one", "two"]'
    if in_table:
        remedy = 'write one|two, or ["one", "two"] where a text holds |'
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise field_error(entry.place, name, value, f"is no JSON list ({error.msg})", remedy) from error
        else:
            value = value.split("|")
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise field_error(entry.place, name, value, "must be a list of texts, none of them empty", remedy)
    return tuple(text.strip() for text in value)


def _read_folder(folder: Path, strict: bool) -> Records:
    videos, _ = find_in_folder(folder)
    by_stem: dict[str, str] = {}
    for video in map(os.path.normpath, videos):
        other = by_stem.setdefault(os.path.splitext(video)[0], video)
        if other != video:
            raise UsageError(
                f"{video}: has the same name as {other}, so that texts beside them could be of either; rename one, or "
                "write a list"
            )
    records: list[Record] = []
    missing: list[tuple[str, str]] = []
    told: set[str] = set()
    for file in _texts_below(folder):
        stem = os.path.splitext(file)[0]
        if stem in by_stem:
            records += _records_beside(Path(file), by_stem[stem], Path(file).relative_to(folder).as_posix())
            told.add(stem)
        else:
            missing.append((stem, file))
    if not records:
        raise UsageError(
            f"{folder}: no text lies beside a video in it; put captions of cat.mp4 into cat.txt, one a line, or write "
            f"a list such as train.jsonl with lines such as {_EXAMPLE}"
        )
    if strict:
        refuse_missing(missing, num_videos=len(told) + len(missing), where=folder)
    return Records(records, missing, [video for stem, video in by_stem.items() if stem not in told])


def _texts_below(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        found += [
            os.path.normpath(os.path.join(parent, name)) for name in shown if name.lower().endswith((".txt", ".json"))
        ]
    return found


def _records_beside(file: Path, video: str, name: str) -> list[Record]:
    if file.suffix.lower() == ".txt":
        lines = enumerate(read_text(file).split("\n"), start=1)
        captions = [(number, line.strip()) for number, line in lines if line.strip()]
        if not captions:
            raise UsageError(f"{file}: is empty; write one caption a line, or remove the file")
        texts = tuple(caption for _, caption in captions)
        return [Record(video, f"{file}:{captions[0][0]}", captions=texts, id=name)]
    values = read_json(file)
    entries = json_entries(values if isinstance(values, list) else [values], file)
    records = []
    for number, entry in enumerate(entries, start=1):
        if "video" in entry.fields:
            raise field_error(
                entry.place, "video", entry.fields["video"], "the file's name says which it is", "remove the field"
            )
        named = _known(Entry(entry.place, {**entry.fields, "video": video}))
        records.append(_record(named, False, default_id=f"{name}:{number}"))
    return records


def _is_slip(written: str, meant: str) -> bool:
    """Whether a name is another one with one letter more, less, other or swapped, or with capitals or spaces."""
    written = written.strip().lower()
    if written == meant:
        return True
    if len(meant) < 3:
        return False
    same = next((place for place, (one, other) in enumerate(zip(written, meant, strict=False)) if one != other), None)
    same = min(len(written), len(meant)) if same is None else same
    left, right = written[same:], meant[same:]
    swapped = left[:2] == right[1::-1] and left[2:] == right[2:]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or swapped
