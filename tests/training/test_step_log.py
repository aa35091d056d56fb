"""Rows about steps, in a file that a resumed run goes on with."""

import json
from pathlib import Path

import pytest

from videoflamingo.errors import UsageError
from videoflamingo.training.step_log import StepLog, replace_file


def log_in(folder: Path, *rows: tuple[int, str]) -> StepLog:
    log = StepLog(folder / "own" / "log.jsonl", key=("step", "name"))
    log.begin(resumed_step=0)
    log.add({"step": step, "name": name, "value": 1} for step, name in rows)
    return log


def in_file(log: StepLog) -> list[tuple[int, str, int]]:
    rows = map(json.loads, log.path.read_text("utf-8").splitlines())
    return [(row["step"], row["name"], row["value"]) for row in rows]


def test_rows_are_in_the_file_as_soon_as_they_are_added(tmp_path: Path) -> None:
    log = log_in(tmp_path, (10, "a"), (10, "ü"))
    assert in_file(log) == [(10, "a", 1), (10, "ü", 1)]
    log.add([{"step": 20, "name": "a", "value": 2}])
    assert in_file(log) == [(10, "a", 1), (10, "ü", 1), (20, "a", 2)]


def test_a_resumed_run_keeps_rows_up_to_its_step(tmp_path: Path) -> None:
    path = log_in(tmp_path, (10, "a"), (20, "a"), (30, "a")).path
    resumed = StepLog(path, key=("step", "name"))
    resumed.begin(resumed_step=20)
    assert in_file(resumed) == [(10, "a", 1), (20, "a", 1)]
    assert [row["step"] for row in resumed.rows] == [10, 20]


def test_a_row_made_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    log = log_in(tmp_path, (10, "a"), (20, "a"))
    log.add([{"step": 20, "name": "a", "value": 5}, {"step": 20, "name": "b", "value": 6}])
    assert in_file(log) == [(10, "a", 1), (20, "a", 5), (20, "b", 6)]


def test_a_new_run_begins_an_empty_file(tmp_path: Path) -> None:
    log_in(tmp_path, (0, "a"), (10, "a"))
    assert in_file(log_in(tmp_path)) == []


def test_a_line_that_was_never_finished_is_left_out(tmp_path: Path) -> None:
    path = log_in(tmp_path, (10, "a")).path
    with path.open("a") as file:
        file.write('{"step": 15, "na')
    resumed = StepLog(path, key=("step", "name"))
    resumed.begin(resumed_step=20)
    resumed.add([{"step": 30, "name": "a", "value": 3}])
    assert in_file(resumed) == [(10, "a", 1), (30, "a", 3)]


def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path) -> None:
    path = log_in(tmp_path, (10, "a")).path
    with path.open("a") as file:
        file.write('{"video": "cat.mp4"}\n')
    with pytest.raises(UsageError, match=r"log.jsonl:2: has no step, name; delete the file"):
        StepLog(path, key=("step", "name")).begin(resumed_step=20)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("a file")
    with pytest.raises(UsageError, match=r"log.jsonl: cannot be written .*; name another folder"):
        log_in(tmp_path)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"a long page")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
