"""What a run leaves for people: its files, its page, and how two runs compare."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest

from tests.evaluation.runs import (
    choice,
    choice_benchmark,
    chose,
    elements,
    example,
    frames,
    open_benchmark,
    said,
    whole_run,
)
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.evaluation.report import compare_runs, comparison_text, write_report
from videoflamingo.evaluation.report_cases import SHOWN_CASES, best_and_worst, shares
from videoflamingo.evaluation.results import Answered
from videoflamingo.evaluation.scoring import score
from videoflamingo.line_log import LogWriter

NASTY = "</td></style><script>alert('x')</script>&\"q\" $step ${x}"
PROTOCOL = {
    "model": "tiny",
    "settings": {"num_shots": (0, 4), "ensemble": None, "allow_parts": False, "rank_by": "sum"},
    "prompt": "<image>Question: which? Answer: red<EOC>\n<image>Question: which? Answer:",
}


def test_the_files_are_written_and_agree(tmp_path: Path) -> None:
    benchmark, answered = whole_run()
    summary = write_report(tmp_path / "run", benchmark, PROTOCOL, answered, frames)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        *("answers.csv", "report.html", "scores.csv", "summary.json")
    ]
    read = json.loads((tmp_path / "run/summary.json").read_text())
    assert read["scores"] == json.loads(json.dumps(summary["scores"])) and read["protocol"]["model"] == "tiny"
    with (tmp_path / "run/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for entry in summary["scores"]:
        (row,) = [
            row
            for row in rows
            if (row["condition"], row["num_shots"], row["trial"], row["type"])
            == (entry["condition"], str(entry["num_shots"]), "all", "")
        ]
        assert float(row["score"]) == entry["mean"]
    with (tmp_path / "run/answers.csv").open(newline="") as file:
        scores = [
            float(row["score"]) for row in csv.DictReader(file) if (row["condition"], row["num_shots"]) == ("real", "4")
        ]
    assert sum(scores) / len(scores) == pytest.approx(summary["scores"][1]["mean"])


def test_the_page_needs_nothing_beside_it_and_runs_nothing(tmp_path: Path) -> None:
    benchmark, answered = whole_run()
    write_report(tmp_path, benchmark, PROTOCOL, answered, frames)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"@import|url\(|<link|<script|https?:|\son\w+=", page)
    assert set(re.findall(r'src="([^,"]*)', page)) == {"data:image/jpeg;base64"}


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    pages = []
    for number, text in enumerate(("object", NASTY)):
        benchmark, answered = whole_run(text)
        protocol = {**PROTOCOL, text: {text: text}, "list": [text]}
        folder = tmp_path / str(number)
        write_report(folder, benchmark, protocol, answered, frames)
        pages.append((folder / "report.html").read_text())
    harmless, nasty = ([name for name in elements(page)] for page in pages)
    assert harmless == nasty and "script" not in nasty
    assert NASTY not in pages[1]


def test_the_page_says_what_the_protocol_says(tmp_path: Path) -> None:
    benchmark, answered = whole_run()
    write_report(tmp_path, benchmark, PROTOCOL, answered, frames)
    page = (tmp_path / "report.html").read_text()
    assert "<th>num shots</th><td>0, 4</td>" in page
    assert "<pre>&lt;image&gt;Question: which? Answer: red&lt;EOC&gt;\n" in page
    assert '<th>ensemble</th><td><span class="grey">none</span></td>' in page
    assert "<th>allow parts</th><td>no</td>" in page
    assert benchmark.digest in page


def test_every_control_and_the_majority_stand_beside_the_score(tmp_path: Path) -> None:
    benchmark, answered = whole_run()
    write_report(tmp_path, benchmark, PROTOCOL, answered, frames)
    page = (tmp_path / "report.html").read_text()
    table = page[page.index("Score and controls") : page.index("By type of question")]
    titles = re.findall(r"<th>([^<]*)</th>", table)[:7]
    assert titles == [
        *("shots", "real", "no video", "shots&#x27; answers swapped"),
        *("most frequent answer", "most frequent of its type", "chance"),
    ]


def test_a_control_that_was_asked_fewer_questions_says_so(tmp_path: Path) -> None:
    benchmark, answered = whole_run(num_trials=1)
    some = [one for one in answered if one.condition == "real" or one.id in ("test-0", "test-1", "test-2")]
    write_report(tmp_path, benchmark, PROTOCOL, some, frames)
    assert "3 of 48 answers" in (tmp_path / "report.html").read_text()


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    benchmark, answered = whole_run(num_trials=1)
    some = [one for one in answered if one.id in ("test-0", "test-1")]
    write_report(tmp_path, benchmark, PROTOCOL, some, frames)
    assert "2 of the benchmark&#x27;s 48 questions were asked" in (tmp_path / "report.html").read_text()


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    write_report(tmp_path, whole_run()[0], PROTOCOL, [], frames)
    assert "Nothing has been asked yet." in (tmp_path / "report.html").read_text()


def test_captions_and_answers_in_words_have_a_page_as_well(tmp_path: Path) -> None:
    captions = open_benchmark(
        *(example(name, "a dog runs", "a dog", question=None) for name in "ab"),
        answer_kind="caption",
        metric="captions",
    )
    write_report(tmp_path, captions, PROTOCOL, [said("a", "a dog runs"), said("b", "")], frames)
    page = (tmp_path / "report.html").read_text()
    assert "BLEU-4" in page and "CIDEr-D" in page and "1 unparsed" in page
    words = open_benchmark(example("a", "dog"), example("b", "cat"))
    write_report(tmp_path, words, PROTOCOL, [said("a", "dog"), said("b", "dog")], frames)
    assert "<b>50.0</b>" in (tmp_path / "report.html").read_text()


def test_cases_are_of_different_types_and_videos_and_the_surest_come_first() -> None:
    benchmark, answered = whole_run()
    best, worst = best_and_worst(score(benchmark, answered), frames)
    assert [len(cases) for cases in (best, worst)] == [SHOWN_CASES] * 2
    for cases, right in ((best, 100.0), (worst, 0.0)):
        assert {case.sample.score for case in cases} == {right}
        assert len({case.sample.example.video for case in cases}) == SHOWN_CASES
        assert len({case.sample.example.kind for case in cases}) == 3
        assert all(case.sample.answered.num_shots == 4 and not case.sample.answered.error for case in cases)
    surest = [max(shares(case.sample)) for case in best if case.sample.example.kind == best[0].sample.example.kind]
    assert surest == sorted(surest, reverse=True)


def test_a_case_shows_its_frames_with_times_all_answers_and_its_shots() -> None:
    benchmark, answered = whole_run()
    (case, *_), _ = best_and_worst(score(benchmark, answered), frames)
    assert (len(case.frames), case.times_seconds, case.note) == (2, (0.5, 1.5), "")
    assert [(one.condition, one.num_shots) for one in case.said] == [
        *(("real", 4), ("real", 0), ("no_video", 4), ("swapped_answers", 4))
    ]
    assert tuple(shot.id for shot in case.shots) == case.sample.answered.shots


def test_a_case_whose_frames_cannot_be_read_any_more_says_so(tmp_path: Path) -> None:
    def gone(_: object) -> list[object]:
        raise VideoError("a.mp4: no such file")

    benchmark, answered = whole_run()
    write_report(tmp_path, benchmark, PROTOCOL, answered, gone)
    assert "the frames cannot be read any more: a.mp4: no such file" in (tmp_path / "report.html").read_text()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the report cannot be written"):
        write_report(tmp_path / "file", whole_run()[0], PROTOCOL, [], frames)


def run_folder(folder: Path, answered: list[Answered]) -> Path:
    folder.mkdir()
    with LogWriter(folder / "results.jsonl") as log:
        for one in answered:
            log.add(one.to_row())
    return folder


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path, Benchmark]:
    benchmark = choice_benchmark(*(choice(name, "red blue", 0) for name in "abcdefgh"))
    first = [chose(name, *((-1, -2) if name in "ab" else (-2, -1))) for name in "abcdefgh"]
    second = [chose(name, *((-2, -1) if name == "a" else (-1, -2))) for name in "abcdefg"]
    return run_folder(tmp_path / "first", first), run_folder(tmp_path / "second", second), benchmark


def test_two_runs_are_compared_on_what_both_asked(two_runs: tuple[Path, Path, Benchmark]) -> None:
    comparison = compare_runs(*two_runs)
    (one,) = comparison["differences"]
    assert comparison["num_unpaired"] == 1
    assert (one["first"], one["second"]) == pytest.approx((200 / 7, 600 / 7))
    assert one["mean"] == pytest.approx(400 / 7)
    assert (one["num_better"], one["num_worse"], one["num_equal"]) == (5, 1, 1)
    assert one["p_value"] == 14 / 64  # of 6 signs: all alike, or one of them other: 2 * (1 + 6) of 2^6


def test_a_comparison_reads_as_a_table(two_runs: tuple[Path, Path, Benchmark]) -> None:
    comparison = compare_runs(*two_runs)
    text = comparison["text"]
    assert text == comparison_text(comparison)
    assert re.search(r"real +0 +28\.6 +85\.7 +\+57\.1 +\[[+-]\d+\.\d, [+-]\d+\.\d\] +0\.2188 +5/1/1", text)
    assert "1 answer is of one run only, and left out" in text


def test_runs_that_cannot_be_compared_are_refused(two_runs: tuple[Path, Path, Benchmark], tmp_path: Path) -> None:
    first, _, benchmark = two_runs
    with pytest.raises(UsageError, match="has no results; name the folder of a run"):
        compare_runs(first, tmp_path, benchmark)
    other = run_folder(tmp_path / "other", [dataclasses.replace(chose("a", -1, -2), num_shots=4)])
    with pytest.raises(UsageError, match="no question in common"):
        compare_runs(first, other, benchmark)
    foreign = run_folder(tmp_path / "foreign", [chose("z", -1, -2)])
    with pytest.raises(UsageError, match="foreign: there is an answer to 'z'"):
        compare_runs(first, foreign, benchmark)
