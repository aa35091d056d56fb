"""Logs keep every whole line, whatever happened to the last one."""

from pathlib import Path

import pytest

from videoflamingo.errors import UsageError
from videoflamingo.line_log import LogWriter, read_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as writer:
        writer.add(["a", 1])
        writer.add({"b": "é"}, durable=True)
    return path


def test_entries_are_read_as_they_were_written(log: Path) -> None:
    assert read_log(log) == [["a", 1], {"b": "é"}]


def test_no_file_is_no_entries(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []


def test_an_entry_is_in_the_file_as_soon_as_it_is_added(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log.jsonl") as writer:
        writer.add("a")
        assert read_log(writer.path) == ["a"]


def test_a_last_line_that_was_never_finished_is_passed_over_and_overwritten(log: Path) -> None:
    with log.open("a") as file:
        file.write('["cut')
    assert len(read_log(log)) == 2
    with LogWriter(log) as writer:
        writer.add("c")
    assert read_log(log) == [["a", 1], {"b": "é"}, "c"]


def test_a_damaged_line_is_named(log: Path) -> None:
    log.write_text(log.read_text().replace('"a"', '"a'))
    with pytest.raises(UsageError, match=r"log\.jsonl:1: is damaged .*; remove this line"):
        read_log(log)


def test_a_log_in_no_folder_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        LogWriter(tmp_path / "nowhere" / "log.jsonl")
