"""Annotation files -> entries, each with the place its messages name. JSON, JSON Lines, CSV, TSV and Parquet."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoflamingo.errors import UsageError
from videoflamingo.video.health import parquet_rows

_SHOWN = 60  # characters of a value in a message


def field_error(place: str, name: str, value: object, rule: str, remedy: str) -> UsageError:
    """The error of one value: `FILE:LINE: field 'end' is 3.0, but must ...; ...`."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return UsageError(f"{place}: field {name!r} is {shown}, but {rule}; {remedy}")


@dataclass(frozen=True)
class Entry:
    """One line, list entry or row of an annotation file.

    Args:
        place: `FILE:LINE`, `FILE: entry N` or `FILE: row N`.
        fields: as the file has them; in a table every value is text.

    Example:
        >>> Entry("val.csv:2", {"answer": "7"}).whole("answer")
        7
    """

    place: str
    fields: dict[str, Any]

    def get(self, name: str) -> Any:
        """The value, which must be there.

        Raises:
            UsageError: if the entry has no such field.
        """
        if name not in self.fields:
            found = ", ".join(map(repr, list(self.fields)[:12])) or "none"
            raise UsageError(
                f"{self.place}: has no field {name!r}, only {found}; check that it is the file this format needs"
            )
        return self.fields[name]

    def text(self, name: str) -> str:
        """Text that says something, without surrounding space.

        Raises:
            UsageError: if it is missing, empty or no text.
        """
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise field_error(self.place, name, value, "must be text that is not empty", "correct or remove the entry")
        return value.strip()

    def identifier(self, name: str) -> str:
        """A name or a whole number, as text.

        Raises:
            UsageError: if it is missing or neither.
        """
        value = self.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def whole(self, name: str) -> int:
        """A whole number of 0 or more; in a table, its digits.

        Raises:
            UsageError: if it is missing or none.
        """
        value = self.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise field_error(self.place, name, value, "must be a whole number of 0 or more", "correct the entry")
        return value

    def seconds(self, name: str) -> float:
        """A finite number of seconds, 0 or more.

        Raises:
            UsageError: if it is missing or none.
        """
        value = self.get(name)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise field_error(self.place, name, value, "must be seconds, 0 or more", "write a number such as 12.5")
        return number

    def entries(self, name: str) -> list[Any]:
        """A list.

        Raises:
            UsageError: if it is missing or none.
        """
        value = self.get(name)
        if not isinstance(value, list):
            raise field_error(self.place, name, value, "must be a list", "correct the entry")
        return value


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        UsageError: if it cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: is not text in UTF-8; save the file in that encoding") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises:
        UsageError: if it cannot be read or is not JSON, with the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{error.lineno}: is not JSON ({error.msg} at column {error.colno}); correct the file, or copy it "
            "again if it was cut off"
        ) from error


def json_entries(values: object, path: str | os.PathLike[str], what: str = "entry") -> Iterator[Entry]:
    """Entries of a list of JSON objects, with the places `FILE: entry 1`, `FILE: entry 2`, ...

    Raises:
        UsageError: if it is no list of objects.
    """
    if not isinstance(values, list):
        raise UsageError(f"{path}: must hold a list of objects, but holds {_kind(values)}; check which file it is")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {what} {number}: must be an object, but is {_kind(value)}; correct the entry")
        yield Entry(f"{path}: {what} {number}", value)


def json_lines(path: str | os.PathLike[str], text: str | None = None) -> Iterator[Entry]:
    """Entries of a JSON Lines file; empty lines are passed over.

    Args:
        path: the file, for the places.
        text: its content, if it was read already.

    Raises:
        UsageError: if it cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate((read_text(path) if text is None else text).split("\n"), start=1):
        if line.strip():
            yield json_line(f"{path}:{number}", line)


def json_line(place: str, line: str) -> Entry:
    """One line of a JSON Lines file.

    Raises:
        UsageError: if it is not a JSON object.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: is not JSON ({error.msg} at column {error.colno}); correct the line") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{place}: must be an object such as {{...}}, but is {_kind(fields)}; correct the line")
    return Entry(place, fields)


def table_entries(path: str | os.PathLike[str], delimiter: str = ",", columns: Sequence[str] = ()) -> Iterator[Entry]:
    """Entries of a table with a header, as text; empty lines are passed over.

    Args:
        path: the file.
        delimiter: what stands between cells.
        columns: those the header must have.

    Raises:
        UsageError: if it cannot be read, a column is missing, or a row has another number of cells than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in reader:
            place = f"{path}:{line}"
            line = reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
                _check_header(path, header, delimiter, columns)
                continue
            if len(row) != len(header):
                raise UsageError(
                    f"{place}: has {len(row)} cells, but the header has {len(header)}; put cells that hold "
                    f"{delimiter!r} or line breaks in double quotes"
                )
            yield Entry(place, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise UsageError(
            f"{path}:{line}: is not a table that can be read ({error}); check the double quotes from this line on"
        ) from error
    if header is None:
        raise UsageError(f"{path}: is empty; its first line must name the columns")


def parquet_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Entries of a Parquet file, with the places `FILE: row 1`, ...; read a part at a time.

    Raises:
        UsageError: if it cannot be read, or pyarrow is not installed.
    """
    for number, fields in enumerate(parquet_rows(path), start=1):
        yield Entry(f"{path}: row {number}", fields)


def _check_header(path: object, header: list[str], delimiter: str, columns: Sequence[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UsageError(f"{path}:1: has the column {twice[0]!r} twice; rename one of them")
    missing = [name for name in columns if name not in header]
    if missing:
        others = [other for other in (",", ";", "\t") if other != delimiter and other in "".join(header)]
        remedy = f"its cells seem to be separated by {others[0]!r}" if others else "check that it is the right file"
        shown = ", ".join(map(repr, header[:12]))
        raise UsageError(f"{path}:1: has no column {missing[0]!r}, only {shown}; {remedy}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
