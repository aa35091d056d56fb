"""Which files of a collection can be read, known before training: an index with one row for each file.

The index is a Parquet file; `docs/scan.md` explains its columns, and the program `videoflamingo scan` writes it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from videoflamingo.errors import UsageError, VideoFlamingoError
from videoflamingo.video.source import SourceFile

SCHEMA_VERSION = 1

Depth = Literal["headers", "frames", "all"]  # each does what the one before does, and more
Status = Literal["ok", "partly", "unreadable"]

_METADATA_KEY = b"videoflamingo_health"

# Column: its type in Arrow. Order and names are those of FileHealth.
_ARROW_TYPES = {
    "path": "string",
    "status": "string",
    "first_error": "string",
    "num_bytes": "int64",
    "mtime_ns": "int64",
    "duration_seconds": "float64",
    "duration_from": "string",
    "last_frame_seconds": "float64",
    "start_seconds": "float64",
    "frames_per_second": "float64",
    "variable_frame_rate": "bool",
    "edit_list": "bool",
    "width": "int32",
    "height": "int32",
    "rotation": "int32",
    "codec": "string",
    "pixel_format": "string",
    "readers_asked": "list<string>",
    "readers": "list<string>",
    "reader_errors": "map<string, string>",
    "salvage_end_seconds": "float64",
    "depth": "string",
    "seconds_taken": "float64",
}


@dataclass(frozen=True, slots=True)
class FileHealth:
    """One row of the index: what is in a file, and what of it can be read.

    What no reader could find out is None. Times count from the first shown frame.

    Args:
        path: from the folder of the scan, with `/`; a URL, or a file outside of it, in full.
        status: `"ok"`, `"partly"` (it opens, but a frame that was asked for cannot be read) or `"unreadable"`. If
            several readers were asked, that of the first.
        first_error: why it is not ok, a sentence without the file's name; None if it is ok.
        num_bytes: size; of a folder of pictures that of all its files. None if there is no such file, or for a URL.
        mtime_ns: when it was last changed, nanoseconds since 1970; None likewise.
        duration_seconds, duration_from, last_frame_seconds, start_seconds, frames_per_second, variable_frame_rate,
            edit_list, width, height, rotation, codec, pixel_format: as in `VideoInfo`.
        readers_asked: in this order; the first decides the status.
        readers: those of them that read all they were asked for.
        reader_errors: of each reader that failed, its first error.
        salvage_end_seconds: until here every frame can be decoded, in a file that is damaged later; None if unknown.
        depth: how far it was checked.
        seconds_taken: time its checks worked, without those that were killed.
    """

    path: str
    status: Status
    first_error: str | None
    num_bytes: int | None
    mtime_ns: int | None
    duration_seconds: float | None
    duration_from: str | None
    last_frame_seconds: float | None
    start_seconds: float | None
    frames_per_second: float | None
    variable_frame_rate: bool | None
    edit_list: bool | None
    width: int | None
    height: int | None
    rotation: int | None
    codec: str | None
    pixel_format: str | None
    readers_asked: tuple[str, ...]
    readers: tuple[str, ...]
    reader_errors: Mapping[str, str]
    salvage_end_seconds: float | None
    depth: Depth
    seconds_taken: float

    @classmethod
    def from_json(cls, line: str) -> "FileHealth":
        """The row that `to_json` wrote.

        Raises:
            ValueError: if it is not one.
        """
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != {field.name for field in fields(cls)}:
            raise ValueError("is not a row of a health index")
        return cls._from_values(values)

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "FileHealth":
        lists = {name: tuple(values[name]) for name in ("readers_asked", "readers")}
        return cls(**{**values, **lists, "reader_errors": dict(values["reader_errors"])})

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    def answers(self, num_bytes: int | None, mtime_ns: int | None, readers: Sequence[str], depth: Depth) -> bool:
        """Whether checking a file of this size and time, with these readers and to this depth, would repeat this."""
        deep_enough = get_args(Depth).index(self.depth) >= get_args(Depth).index(depth)
        asked_as_much = self.readers_asked[0] == readers[0] and set(self.readers_asked) >= set(readers)
        return (self.num_bytes, self.mtime_ns) == (num_bytes, mtime_ns) and deep_enough and asked_as_much


def size_and_time(name: str) -> tuple[int | None, int | None]:
    """`(num_bytes, mtime_ns)` of a file, or of all files in a folder; Nones for a URL or a missing file."""
    if SourceFile.of(name).is_remote:
        return None, None
    try:
        found = os.stat(name)
        if os.path.isdir(name):
            inside = [entry.stat() for entry in os.scandir(name) if entry.is_file()]
            return sum(stat.st_size for stat in inside), max(stat.st_mtime_ns for stat in (found, *inside))
    except OSError:
        return None, None
    return found.st_size, found.st_mtime_ns


def sentence(name: str, error: BaseException) -> str:
    """An error's message, on one line, without the name of the file it begins with."""
    message = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, VideoFlamingoError):
        message = f"{type(error).__name__}: {message}"
    return printable(message.removeprefix(f"{' '.join(name.split())}: "))


def printable(name: str) -> str:
    r"""A file's name as text that can be printed and stored; bytes that are not UTF-8 become `\x..`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row_path(name: str | os.PathLike[str], root: str) -> str:
    """What `FileHealth.path` calls a file, in an index of the folder `root` (an absolute path)."""
    text = os.fspath(name)
    if SourceFile.of(text).is_remote:
        return printable(text)
    full = os.path.abspath(text)
    if os.path.commonpath([root, full]) == root:
        full = os.path.relpath(full, root)
    return printable(Path(full).as_posix())


class OtherVersionError(UsageError):
    """A health index that another version of this package wrote."""


@dataclass(frozen=True, eq=False, repr=False)
class HealthIndex:
    """A health index in memory; `read_index` makes it.

    Args:
        file: where it was read from.
        root: folder that the rows' paths count from.
        rows: by path.
    """

    file: str
    root: str
    rows: Mapping[str, FileHealth]

    def __repr__(self) -> str:
        return f"HealthIndex({self.file}: {len(self.rows):,} files of {self.root})"

    def row(self, path: str | os.PathLike[str]) -> FileHealth | None:
        """The row of a file, given by a path that opens it; None if it has none."""
        found = self.rows.get(row_path(path, self.root))
        if found is not None:
            return found
        # The same folder by another name: through a symbolic link, say.
        folder, name = os.path.split(os.path.abspath(path))
        return self.rows.get(row_path(os.path.join(os.path.realpath(folder), name), os.path.realpath(self.root)))

    def problem(self, path: str | os.PathLike[str]) -> str | None:
        """Why a file should not be used: a sentence that begins with its path; None if all of it can be read.

        A file that is readable in part has a problem too. `row` tells until where it is good, where that is known.

        Args:
            path: a path that opens the file, from the current folder or absolute; a URL.
        """
        name = os.fspath(path)
        row = self.row(path)
        if row is None:
            return f"{name}: is not in the health index {self.file}; scan again"
        num_bytes = size_and_time(name)[0]
        if num_bytes is None and row.num_bytes is not None:
            return f"{name}: no such file; check the path"
        if num_bytes != row.num_bytes:
            return f"{name}: changed since the scan, from {_bytes(row)} to {num_bytes:,} bytes; scan again"
        return None if row.status == "ok" else f"{name}: {row.first_error}"


def skip_unreadable(
    paths: Iterable[str | os.PathLike[str]], index: HealthIndex
) -> tuple[list[str], list[tuple[str, str]]]:
    """Part files into those that can be read and those that cannot.

    Returns:
        The paths kept, in order; and those skipped, each with the sentence of `HealthIndex.problem`. Tell the user how
        many were skipped, and why.

    Raises:
        UsageError: if no path is in the index, which is then that of other files.
    """
    kept: list[str] = []
    skipped: list[tuple[str, str]] = []
    num_known = 0
    for path in paths:
        num_known += index.row(path) is not None
        problem = index.problem(path)
        if problem is None:
            kept.append(os.fspath(path))
        else:
            skipped.append((os.fspath(path), problem))
    if skipped and not num_known:
        raise UsageError(
            f"{index.file}: none of {len(skipped):,} files is in it ({skipped[0][0]} is the first), because it is the "
            f"index of {index.root}; scan these files, or if they were moved, give read_index(..., root=...)"
        )
    return kept, skipped


def write_index(path: str | os.PathLike[str], rows: Iterable[FileHealth], root: str) -> None:
    """Write an index, whole or not at all: an index that was there stays until the new one is complete.

    Args:
        path: the Parquet file.
        rows: in any order; they are written by path.
        root: absolute path of the folder that the rows' paths count from.

    Raises:
        UsageError: if it cannot be written, or pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    ordered = sorted(rows, key=lambda row: row.path)
    metadata = {_METADATA_KEY: json.dumps({"schema_version": SCHEMA_VERSION, "root": printable(root)}).encode()}
    schema = arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in _ARROW_TYPES.items()], metadata)
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in ordered] for name in _ARROW_TYPES}
    columns["reader_errors"] = [list(errors.items()) for errors in columns["reader_errors"]]
    table = arrow.table(columns, schema=schema)
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        try:
            with open(unfinished, "wb") as file:
                parquet.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            if os.path.exists(unfinished):
                os.remove(unfinished)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def read_index(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> HealthIndex:
    """Read what `videoflamingo scan` wrote.

    Args:
        path: the Parquet file.
        root: the folder that was scanned, if it is at another place now; None for where it was.

    Raises:
        OtherVersionError: if it is an index of another version.
        UsageError: if the file cannot be read, is no health index, or pyarrow is missing.
    """
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; write it with: videoflamingo scan FOLDER --out {path}") from error
    except (OSError, arrow.ArrowException) as error:
        raise UsageError(f"{path}: is not a Parquet file that can be read ({error}); {_SCAN_REMEDY}") from error
    try:
        header = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        version = header["schema_version"]
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: is a Parquet file, but no health index (columns {_some(table.column_names)}); {_SCAN_REMEDY}"
        ) from error
    if version != SCHEMA_VERSION:
        raise OtherVersionError(
            f"{path}: is a health index of version {version}, and this program reads version {SCHEMA_VERSION}; "
            "scan again with --again"
        )
    rows = {}
    for values in table.to_pylist():
        row = FileHealth._from_values(values)
        rows[row.path] = row
    return HealthIndex(os.fspath(path), header["root"] if root is None else os.path.abspath(root), rows)


def read_video_column(path: str | os.PathLike[str], column: str = "video") -> list[object]:
    """One column of a Parquet file.

    Raises:
        UsageError: if the file cannot be read or has no such column, or pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    try:
        names = parquet.read_schema(path).names
        if column in names:
            values: list[object] = parquet.read_table(path, columns=[column]).column(column).to_pylist()
            return values
    except (OSError, arrow.ArrowException) as error:
        raise UsageError(f"{path}: is not a Parquet file that can be read ({error}); check the file") from error
    raise UsageError(f"{path}: has no column {column!r}, only {_some(names)}; name the column of paths {column!r}")


def parquet_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file in order, read a part at a time.

    Raises:
        UsageError: if the file cannot be read, or pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for part in file.iter_batches(batch_size=1024):
                yield from part.to_pylist()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check the path") from error
    except (OSError, arrow.ArrowException) as error:
        raise UsageError(f"{path}: is not a Parquet file that can be read ({error}); check the file") from error


_SCAN_REMEDY = "name the file that `videoflamingo scan --out` wrote"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("Parquet files need pyarrow: pip install 'videoflamingo[scan]'") from error
    return pyarrow, pyarrow.parquet


def _arrow_type(arrow: Any, kind: str) -> Any:
    if kind == "list<string>":
        return arrow.list_(arrow.string())
    if kind == "map<string, string>":
        return arrow.map_(arrow.string(), arrow.string())
    return arrow.type_for_alias(kind)


def _bytes(row: FileHealth) -> str:
    return "nothing" if row.num_bytes is None else f"{row.num_bytes:,}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
