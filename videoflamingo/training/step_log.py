"""Rows about optimisation steps, a JSON Lines file beside a run, which a resumed run goes on with."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videoflamingo.errors import UsageError
from videoflamingo.line_log import read_log

Row = dict[str, Any]


class StepLog:
    """Rows with a `step`, kept in memory and appended to a file; a row of the same key replaces the earlier one.

    Args:
        path: the file. Nothing is read or written before `begin`.
        key: the fields that tell rows apart.

    Example:
        >>> log = StepLog(Path("losses.jsonl"), key=("step", "name"))
        >>> log.begin(resumed_step=0)
        >>> log.add([{"step": 50, "name": "captions", "loss": 2.5}, {"step": 100, "name": "captions", "loss": 2.0}])
        >>> log.begin(resumed_step=60)
        >>> log.rows
        [{'step': 50, 'name': 'captions', 'loss': 2.5}]
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path = path
        self.key = tuple(key)
        self._rows: dict[tuple[Any, ...], Row] = {}

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which they came."""
        return list(self._rows.values())

    def begin(self, resumed_step: int) -> None:
        """Keep what the file says of steps up to the one a run was resumed at; a new run (0) begins an empty file.

        Raises:
            UsageError: if the file holds something else, or the folder cannot be written.
        """
        kept = [row for row in self._read() if row["step"] <= resumed_step] if resumed_step else []
        self._rows = {self._key_of(row): row for row in kept}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error}); name another folder") from error

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Raises:
            OSError: if the file cannot be written; the rows are in memory all the same.
        """
        new = {self._key_of(row): row for row in rows}
        replaced = self._rows.keys() & new.keys()
        self._rows.update(new)
        if replaced:
            self._write()
        else:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(map(_line, new.values())))

    def _key_of(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)

    def _write(self) -> None:
        replace_file(self.path, "".join(map(_line, self._rows.values())).encode())

    def _read(self) -> list[Row]:
        rows = []
        for number, row in enumerate(read_log(self.path), start=1):
            if not isinstance(row, dict) or not {"step", *self.key} <= row.keys():
                raise UsageError(
                    f"{self.path}:{number}: has no {', '.join(self.key)}; delete the file, or name another folder"
                )
            rows.append(row)
        return rows


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole: whoever reads it meanwhile sees the old one or the new one, never a part.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
