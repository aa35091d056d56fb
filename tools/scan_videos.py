"""`videoflamingo scan`: which files of a collection can be read, and what is in them, written to a Parquet index.

Every file is checked in a worker that is killed if it hangs or takes too much memory, so one bad file is one row. Rows
are kept beside the index as they come, and the same command continues a scan that was interrupted. See `docs/scan.md`.
"""

import argparse
import fcntl
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from videoflamingo.errors import UsageError
from videoflamingo.video.collection import find_in_folder, read_manifest
from videoflamingo.video.file_checks import Check, check_reader, decode_every_frame, health
from videoflamingo.video.health import (
    SCHEMA_VERSION,
    Depth,
    FileHealth,
    OtherVersionError,
    read_index,
    row_path,
    size_and_time,
    write_index,
)
from videoflamingo.video.options import READERS
from videoflamingo.video.pool import DecodePool

_INPUT_FAILED, _INTERRUPTED = 3, 130

_EVERY_FRAME = "every frame"
_DEADLINE_SECONDS = {"headers": 60.0, "frames": 60.0, "all": 3600.0}
_ERRORS_SHOWN, _FAILURES_NAMED = 10, 20
_LOG_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Found:
    """A file to scan.

    Args:
        path: what its row calls it.
        name: what opens it.
        num_bytes, mtime_ns: as in `FileHealth`.
    """

    path: str
    name: str
    num_bytes: int | None
    mtime_ns: int | None


@dataclass(frozen=True)
class Plan:
    """How files are checked, as the options say."""

    readers: tuple[str, ...]
    depth: Depth
    images_per_second: float | None = None


def scan(files: Sequence[Found], plan: Plan, pool: DecodePool, num_workers: int) -> Iterator[FileHealth]:
    """Check files in a pool; rows come as files are finished, and a file that is slow holds up no other."""
    waiting = iter(files)
    of_future: dict[Future[Check], tuple[_UnderWay, str]] = {}
    num_under_way = 0
    while True:
        for file in islice(waiting, 2 * num_workers - num_under_way):
            started = _UnderWay(file, plan)
            num_under_way += 1
            of_future.update({started.start(pool, step): (started, step) for step in started.first_steps()})
        if not of_future:
            return
        for future in wait(of_future, return_when=FIRST_COMPLETED).done:
            under_way, step = of_future.pop(future)
            for next_step in under_way.finish(step, future):
                of_future[under_way.start(pool, next_step)] = under_way, next_step
            if under_way.is_done():
                num_under_way -= 1
                yield under_way.row()


@dataclass
class _UnderWay:
    """The checks of one file, each its own task: what one reader does to its worker, the others do not feel."""

    file: Found
    plan: Plan
    checks: dict[str, Check] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def first_steps(self) -> list[str]:
        steps = [*dict.fromkeys(("pyav", *self.plan.readers))]  # PyAV always says what is in the file
        return [*steps, _EVERY_FRAME] if self.plan.depth == "all" else steps

    def start(self, pool: DecodePool, step: str) -> Future[Check]:
        self.missing.add(step)
        name, rate = self.file.name, self.plan.images_per_second
        if step == _EVERY_FRAME:
            return pool.run(name, decode_every_frame, name, rate)
        depth = self.plan.depth if step in self.plan.readers else "headers"
        return pool.run(name, check_reader, name, step, depth, rate)

    def finish(self, step: str, future: Future[Check]) -> list[str]:
        """Take a result; returns the steps that it calls for."""
        self.missing.remove(step)
        error = future.exception()
        check = future.result() if error is None else Check.failed(self.file.name, error)
        self.checks[step] = check
        # A damaged file: how far is it good?
        damaged = step == "pyav" and self.plan.depth == "frames" and check.info is not None and check.errors
        return [_EVERY_FRAME] if damaged else []

    def is_done(self) -> bool:
        return not self.missing

    def row(self) -> FileHealth:
        file, every_frame = self.file, self.checks.pop(_EVERY_FRAME, None)
        known = file.num_bytes, file.mtime_ns
        return health(file.path, file.name, known, self.plan.readers, self.plan.depth, self.checks, every_frame)


class PartialRows(AbstractContextManager["PartialRows"]):
    """Rows of a scan that is not finished, in a file beside the index, one line each; held by one scan at a time.

    Args:
        out: the index's file; this one is called `<out>.partial.jsonl`.

    Raises:
        UsageError: if the file cannot be written, another scan holds it, or it holds something else.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        try:
            self._file: TextIO = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  (closed by the with block)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}); name another --out") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(f"{out}: another scan is writing it; wait for that, or name another --out") from error
        try:
            self.rows = self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> dict[str, FileHealth]:
        self._file.seek(0)
        lines = self._file.readlines()
        if lines and not lines[-1].endswith("\n"):  # a scan was killed while it wrote this line
            lines.pop()
            self._file.truncate(sum(len(line.encode()) for line in lines))
        header = json.dumps({"schema_version": SCHEMA_VERSION})
        if not lines:
            self._write(header)
            return {}
        remedy = "delete it to begin anew, or name another --out"
        if lines[0].strip() != header:
            raise UsageError(f"{self.path}: holds no rows of this version of the program; {remedy}")
        rows = {}
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = FileHealth.from_json(line)
            except ValueError as error:
                raise UsageError(f"{self.path}:{number}: {error}; {remedy}") from error
            rows[row.path] = row
        return rows

    def add(self, row: FileHealth) -> None:
        """Write a row; it is kept whatever happens to this process."""
        self.rows[row.path] = row
        self._write(row.to_json())

    def remove(self) -> None:
        """Delete the file, once the index holds its rows."""
        self.path.unlink()

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Display(AbstractContextManager["Display"]):
    """How far the scan is, on stderr: a bar in a terminal, else a line now and then; and the first failures."""

    def __init__(self, total: int, bar: bool) -> None:
        self._total = total
        self._done = self._failed = 0
        self._began = self._logged = time.monotonic()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            *(BarColumn(24), TextColumn("{task.description}", markup=False)),
            console=self._console,
            disable=not (bar and self._console.is_terminal),
            transient=True,
            redirect_stdout=False,  # else it would print what --json prints on stderr
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(self._text(), total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, row: FileHealth) -> None:
        """One more file is done."""
        self._done += 1
        if row.status != "ok":
            self._failed += 1
            if self._failed <= _FAILURES_NAMED:
                self._say(f"videoflamingo scan: {row.path}: {row.first_error}")
            elif self._failed == _FAILURES_NAMED + 1:
                self._say(f"videoflamingo scan: {_FAILURES_NAMED} failures named; the index will hold them all")
        self._progress.update(self._task, completed=self._done, description=self._text())
        now = time.monotonic()
        if self._progress.disable and now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            self._say(f"videoflamingo scan: {self._text()}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def _text(self) -> str:
        text = f"{self._done:,} of {_files(self._total)}"
        seconds = time.monotonic() - self._began
        if self._done and seconds > 0:
            rate = self._done / seconds
            left = "" if self._done == self._total else f", {_duration((self._total - self._done) / rate)} left"
            text += f", {_number(rate)} a second{left}"
        return f"{text}, {self._failed:,} not ok"


def summary(rows: Sequence[FileHealth], num_scanned: int, seconds: float, out: Path) -> str:
    """What a person wants to know of an index."""
    counts = Counter[str](row.status for row in rows)
    kept = f", {len(rows) - num_scanned:,} known from before" if len(rows) > num_scanned else ""
    statuses = {"ok": "ok", "partly": "readable in part", "unreadable": "unreadable"}
    total_seconds = sum(row.duration_seconds or 0.0 for row in rows if row.status == "ok")
    width = len(f"{len(rows):,}")
    lines = [f"{_files(num_scanned)} scanned in {_duration(seconds)}{kept}"]
    lines += [f"  {counts[status]:>{width},}  {words}" for status, words in statuses.items()]
    lines.append(f"{_duration(total_seconds)} of video in the files that are ok")
    codecs = Counter(row.codec for row in rows if row.codec is not None)
    if codecs:
        lines.append(f"codecs: {', '.join(f'{codec} {count:,}' for codec, count in codecs.most_common())}")
    special = {
        "variable frame rate": sum(row.variable_frame_rate is True for row in rows),
        "rotated": sum(bool(row.rotation) for row in rows),
        "with an edit list": sum(row.edit_list is True for row in rows),
    }
    if any(special.values()):
        lines.append(", ".join(f"{name}: {count:,}" for name, count in special.items() if count))
    readers = Counter(reader for row in rows for reader in row.readers)
    asked = list(dict.fromkeys(reader for row in rows for reader in row.readers_asked))
    if len(asked) > 1:
        lines.append(f"read in full by: {', '.join(f'{reader} {readers[reader]:,}' for reader in asked)}")
    lines += _common_errors("errors", [(row.path, row.first_error) for row in rows if row.first_error is not None])
    others = [
        (row.path, error if error.startswith(reader) else f"{reader}: {error}")
        for row in rows
        for reader, error in row.reader_errors.items()
        if reader != row.readers_asked[0]
    ]
    lines += _common_errors("errors of the other readers", others)
    lines.append(f"index: {out}")
    return "\n".join(lines)


def _common_errors(title: str, errors: Sequence[tuple[str, str]]) -> list[str]:
    """The commonest of errors (path, sentence); alike but for numbers and quotations, they count as one."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, error in errors:
        alike = re.sub(r"'[^']*'|\d+(\.\d+)?", "#", error.replace(path, "#"))
        groups.setdefault(alike, []).append((path, error))
    if not groups:
        return []
    commonest = sorted(groups.values(), key=len, reverse=True)[:_ERRORS_SHOWN]
    more = f" (the {_ERRORS_SHOWN} commonest of {len(groups)})" if len(groups) > _ERRORS_SHOWN else ""
    lines = [f"{title}{more}:"]
    for group in commonest:
        path, error = group[0]
        lines += [f"  {len(group):>5,}  {error}", f"         {'in' if len(group) == 1 else 'such as'} {path}"]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo scan`.

    Returns:
        0; 3 if some file is not ok; 130 if interrupted, with what was done kept.

    Raises:
        UsageError: if there is nothing to scan, the index cannot be written, or an option is wrong.
    """
    arguments = _parser().parse_args(argv)
    plan = Plan(tuple(dict.fromkeys(arguments.readers)), arguments.depth, arguments.images_per_second)
    _check(arguments)
    with Console(stderr=True).status(f"looking for files in {escape(str(arguments.input))}"):  # terminals only
        root, files, passed_over = _find(arguments.input, plan)
    earlier = _earlier_rows(arguments, files)
    began = time.monotonic()
    with PartialRows(arguments.out) as partial:
        rows = {**earlier, **partial.rows}
        todo = [file for file in files if not _is_known(rows.get(file.path), file, plan)]
        _announce(len(files), len(todo), passed_over, partial)
        try:
            _scan_all(todo, plan, arguments, partial)
        except KeyboardInterrupt:
            num_done = len(files) - sum(file.path not in partial.rows for file in todo)
            print(
                f"videoflamingo scan: interrupted; {num_done:,} of {_files(len(files))} done and kept in "
                f"{partial.path}, the same command continues",
                file=sys.stderr,
            )
            return _INTERRUPTED
        rows.update(partial.rows)
        all_rows = [rows[file.path] for file in files]
        write_index(arguments.out, all_rows, root)
        partial.remove()
    gone = len(earlier.keys() - {file.path for file in files})
    if gone:
        print(f"videoflamingo scan: dropped the rows of {_files(gone)} that are gone", file=sys.stderr)
    text = summary(all_rows, len(todo), time.monotonic() - began, arguments.out)
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    return _INPUT_FAILED if any(row.status != "ok" for row in all_rows) else 0


def _scan_all(todo: Sequence[Found], plan: Plan, arguments: argparse.Namespace, partial: PartialRows) -> None:
    if not todo:
        return
    deadline_seconds = arguments.deadline or _DEADLINE_SECONDS[plan.depth]
    num_workers = min(arguments.workers or _num_cores(), len(todo) * (len(plan.readers) + 1))
    shares_terminal = arguments.json and sys.stdout.isatty()
    with (
        DecodePool(num_workers, deadline_seconds=deadline_seconds) as pool,
        Display(len(todo), bar=not shares_terminal) as display,
    ):
        for row in scan(todo, plan, pool, num_workers):
            partial.add(row)
            if arguments.json:
                print(row.to_json(), flush=True)
            display.add(row)


def _check(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: the index is a Parquet file; end its name in .parquet")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UsageError(f"--out {out}: the folder {out.parent} cannot be written; name another")
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers {arguments.workers}: give 1 or more")
    if arguments.deadline is not None and not arguments.deadline > 0:
        raise UsageError(f"--deadline {arguments.deadline:g}: give seconds above 0")
    if arguments.images_per_second is not None and not arguments.images_per_second > 0:
        raise UsageError(f"--images-per-second {arguments.images_per_second:g}: give a rate above 0")
    if find_spec("pyarrow") is None:
        raise UsageError("the index is a Parquet file, which needs pyarrow: pip install 'videoflamingo[scan]'")
    for reader in arguments.readers:
        if reader != "pyav" and find_spec(reader) is None:
            raise UsageError(f"--readers {reader} needs the package {reader}: pip install {reader}")


def _find(given: Path, plan: Plan) -> tuple[str, list[Found], Counter[str]]:
    """The folder that paths count from, the files, and what was passed over."""
    passed_over: Counter[str] = Counter()
    if given.is_dir():
        root, (names, passed_over) = os.path.abspath(given), find_in_folder(given, plan.images_per_second)
        if not names:
            rest = f" ({_counts(passed_over)} passed over)" if passed_over else ""
            raise UsageError(f"{given}: holds no file that may be a video{rest}; name another folder")
    elif given.exists():
        root, names = os.path.abspath(given.parent), read_manifest(given)
        if not names:
            raise UsageError(f"{given}: names no video; write one path a line")
    else:
        raise UsageError(f"{given}: no such file or folder; check the path")
    by_path = {row_path(name, root): name for name in names}
    return root, [Found(path, name, *size_and_time(name)) for path, name in by_path.items()], passed_over


def _earlier_rows(arguments: argparse.Namespace, files: Sequence[Found]) -> dict[str, FileHealth]:
    """Rows of an index that is there already, but for those that shall be made again."""
    if not arguments.out.exists():
        return {}
    try:
        index = read_index(arguments.out)
    except OtherVersionError:
        if arguments.again:
            return {}
        raise
    if index.rows and not any(file.path in index.rows for file in files):
        raise UsageError(
            f"--out {arguments.out}: is the index of other files ({next(iter(index.rows))} is the first, in "
            f"{index.root}); name another file, or delete it"
        )
    if arguments.again:
        return {}
    return {path: row for path, row in index.rows.items() if row.status == "ok" or not arguments.retry}


def _is_known(row: FileHealth | None, file: Found, plan: Plan) -> bool:
    if row is None or not row.answers(file.num_bytes, file.mtime_ns, plan.readers, plan.depth):
        return False
    return not os.path.isdir(file.name) or row.frames_per_second == plan.images_per_second


def _announce(num_files: int, num_todo: int, passed_over: Counter[str], partial: PartialRows) -> None:
    text = f"{num_todo:,} of {_files(num_files)} to scan"
    if partial.rows:
        text += f" (continuing, {len(partial.rows):,} rows were in {partial.path})"
    if passed_over:
        text += f"; passed over: {_counts(passed_over)}"
    print(f"videoflamingo scan: {text}", file=sys.stderr, flush=True)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo scan",
        description="Check which videos of a collection can be read, and write what was found to a Parquet index. "
        "Interrupted, the same command continues; repeated, it scans what is new or changed.",
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help="folder, searched with its subfolders; or a list: text with a path a line, or .jsonl, .csv, .tsv or "
        ".parquet with the field 'video', paths counting from the list's folder",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="INDEX.parquet", help="the index to write")
    parser.add_argument(
        "--depth",
        choices=get_args(Depth),
        default="frames",
        help="headers: only open each file; frames: also read its first, middle and last frame; all: also decode every "
        "frame (default: frames)",
    )
    parser.add_argument(
        "--readers",
        nargs="+",
        choices=[reader for reader in READERS if reader != "auto"],
        default=["pyav"],
        help="readers to ask, each in a process of its own (default: pyav); put INPUT before this",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read (default: one per core)")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="S",
        help="seconds after which a check of a file is stopped (default: 60; with --depth all 3600)",
    )
    parser.add_argument(
        "--images-per-second", type=float, metavar="R", help="take a folder of numbered pictures for a video, this fast"
    )
    parser.add_argument("--retry", action="store_true", help="scan also those again that were not ok")
    parser.add_argument("--again", action="store_true", help="scan everything again, whatever the index knows")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout as files are finished")
    return parser
