"""Files of JSON lines that only grow: what was written before a crash is still there after it."""

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from videoflamingo.errors import UsageError


def read_log(path: Path) -> list[Any]:
    """The entries of a log, none if there is no such file; a last line that was never finished is passed over.

    Raises:
        UsageError: if the file cannot be read, or a line is damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    entries = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: is damaged ({error}); remove this line, and what it stood for is made again"
            ) from error
    return entries


class LogWriter(AbstractContextManager["LogWriter"]):
    """Adds entries to a log, which it makes if need be. Only one may write at a time.

    Raises:
        UsageError: if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "ab")  # noqa: SIM115  (closed by the with block)
            self._file.truncate(path.read_bytes().rfind(b"\n") + 1)  # a line that its writer did not finish
        except OSError as error:
            raise _not_written(path, error) from error

    def add(self, entry: object, durable: bool = False) -> None:
        """Write an entry; it is kept when this process dies, and with `durable` also when the machine does.

        Raises:
            UsageError: if the disk is full, or the like.
        """
        try:
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _not_written(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _not_written(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be written ({error.strerror}); make room, or name another folder")
