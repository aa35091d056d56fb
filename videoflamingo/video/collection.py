"""Which videos a folder or a list names."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from videoflamingo.errors import UsageError
from videoflamingo.video.health import read_video_column
from videoflamingo.video.source import SourceFile

# What lies beside videos and is none. Everything else is looked into, because many collections drop the extension.
_SIDECARS = {
    *(".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xml", ".yaml", ".yml", ".md", ".html"),
    *(".srt", ".vtt", ".ass", ".ssa", ".lrc", ".log", ".nfo", ".description", ".pdf", ".py", ".pyc", ".sh", ".ipynb"),
    *(".wav", ".mp3", ".flac", ".aac", ".m4a", ".opus", ".npy", ".npz", ".pt", ".pth", ".pkl", ".h5", ".hdf5"),
    *(".safetensors", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".md5", ".sha256", ".lock", ".ytdl"),
}
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_NUMBERED = re.compile(r"\d+$")


def find_in_folder(folder: Path, images_per_second: float | None = None) -> tuple[list[str], Counter[str]]:
    """Files below a folder that may be video, and how many of which extension were passed over.

    Hidden files and folders are left out without a count. Links to folders are followed, each folder once. A folder
    that cannot be listed is among the files, where it will be found unreadable.

    Args:
        images_per_second: if given, a folder that holds only numbered pictures is one video.
    """
    names: list[str] = []
    passed_over: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    unlisted: list[OSError] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unlisted.append):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        sidecars = [name for name in shown if os.path.splitext(name)[1].lower() in _SIDECARS]
        passed_over.update(os.path.splitext(name)[1].lower() for name in sidecars)
        videos = [name for name in shown if os.path.splitext(name)[1].lower() not in _SIDECARS]
        if images_per_second is not None and videos and all(map(_is_numbered_picture, videos)):
            names.append(parent)
        else:
            names += [os.path.join(parent, name) for name in videos]
    return names + [os.fsdecode(error.filename) for error in unlisted], passed_over


def read_manifest(path: Path) -> list[str]:
    """The videos a file lists: one path a line, or the field `video` of JSON Lines, CSV, TSV or Parquet.

    Paths count from the manifest's folder. A video that is named again is left out.

    Raises:
        UsageError: if it cannot be read, or a line names no video; with file and line.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        entries: Iterable[tuple[int, object]] = enumerate(read_video_column(path), start=1)
    else:
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: is neither a folder nor a list of videos (text with one path a line, .jsonl, .csv, .tsv or "
                f".parquet); to look into one video: videoflamingo inspect {path}"
            ) from error
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        if kind in (".jsonl", ".ndjson"):
            entries = _json_lines(path, text)
        elif kind in (".csv", ".tsv"):
            entries = _table_lines(path, text, "," if kind == ".csv" else "\t")
        else:
            entries = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    names = []
    for number, value in entries:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{path}:{number}: video is {json.dumps(value, default=str)}, but must be a path")
        name = value.strip()
        names.append(name if SourceFile.of(name).is_remote else os.path.normpath(path.parent / name))
    return list(dict.fromkeys(names))


def _is_numbered_picture(name: str) -> bool:
    stem, extension = os.path.splitext(name)
    return extension.lower() in _PICTURES and _NUMBERED.search(stem) is not None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{number}: is not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(fields, dict) or "video" not in fields:
            raise UsageError(f'{path}:{number}: has no field \'video\'; write lines such as {{"video": "cat.mp4"}}')
        yield number, fields["video"]


def _table_lines(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, object]]:
    table = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    if "video" not in (table.fieldnames or ()):
        found = ", ".join(table.fieldnames or ()) or "none"
        raise UsageError(f"{path}: has no column 'video', only {found}; name the column of paths 'video'")
    for fields in table:
        yield table.line_num, fields["video"]
