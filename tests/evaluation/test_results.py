"""One line for each question: written, read back, merged from several files, and refused where it is wrong."""

import dataclasses
from pathlib import Path

import pytest

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.results import Answered, ChoiceScore, Key, read_results
from videoflamingo.line_log import LogWriter

OPEN = Answered("real", 4, 0, "q1", "ein Hund", score=-0.1, lowest=-0.25, num_tokens=3, shots=("s2", "s1"))
CLOSED = Answered("no_video", 0, 1, "q2", "red", 1, (ChoiceScore(-2.5, 1, 4), ChoiceScore(-0.5, 2, 3)), -0.25, -0.4, 2)
FAILED = Answered("real", 4, 0, "q3", error="b.mp4: cannot be read")


def write(file: Path, *answered: Answered) -> None:
    with LogWriter(file) as log:
        for one in answered:
            log.add(one.to_row())


@pytest.mark.parametrize("one", [OPEN, CLOSED, FAILED], ids=["open", "closed", "failed"])
def test_what_was_written_is_read_back(one: Answered, tmp_path: Path) -> None:
    write(tmp_path / "results.jsonl", one)
    assert read_results(tmp_path) == [one]


def test_files_of_several_processes_are_one_run(tmp_path: Path) -> None:
    write(tmp_path / "results-0.jsonl", OPEN)
    write(tmp_path / "results-1.jsonl", CLOSED, FAILED)
    assert read_results(tmp_path) == [OPEN, CLOSED, FAILED]


def test_a_folder_without_results_has_none(tmp_path: Path) -> None:
    assert read_results(tmp_path) == []


def test_the_same_line_twice_is_one_answer(tmp_path: Path) -> None:
    write(tmp_path / "results-0.jsonl", OPEN)
    write(tmp_path / "results-1.jsonl", OPEN, CLOSED)
    assert read_results(tmp_path) == [OPEN, CLOSED]


def test_two_answers_to_one_question_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "results-0.jsonl", OPEN)
    write(tmp_path / "results-1.jsonl", dataclasses.replace(OPEN, answer="eine Katze"))
    with pytest.raises(UsageError, match=r"results-1\.jsonl:1: 'q1' \(real, 4 shots, trial 0\) has another answer"):
        read_results(tmp_path)


def test_a_line_that_its_writer_did_not_finish_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "results.jsonl", OPEN)
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"condition":"real","num_sh')
    assert read_results(tmp_path) == [OPEN]


def test_trials_shots_and_controls_tell_questions_apart() -> None:
    others = [
        dataclasses.replace(OPEN, **change) for change in ({"trial": 1}, {"num_shots": 8}, {"condition": "no_video"})
    ]
    assert len({one.key for one in [OPEN, *others]}) == 4
    assert OPEN.key == Key("real", 4, 0, "q1")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("3", "is not an object"),
        ('{"condition": "real", "num_shots": 0, "trial": 0}', "has no id"),
        ('{"condition": "real", "num_shots": 0, "trial": 0, "id": "q", "colour": 1}', "unknown fields colour"),
        ('{"condition": "blind", "num_shots": 0, "trial": 0, "id": "q"}', "condition is 'blind'; choose among real"),
        ('{"condition": "real", "num_shots": -1, "trial": 0, "id": "q"}', "num_shots is -1"),
        ('{"condition": "real", "num_shots": "a", "trial": 0, "id": "q"}', "another kind"),
        ('{"condition": "real", "num_shots": 0, "trial": 0, "id": "q", "choices": [[1, 2]]}', "another kind"),
        ('{"condition": "real", "num_shots": 0, "trial": 0, "id": "q", "choices": [[1, 2, 3]], "option": 1}', "of 1"),
    ],
)
def test_a_wrong_line_is_named(line: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=rf"results\.jsonl:1: .*{problem}.*; remove this line"):
        read_results(tmp_path)
