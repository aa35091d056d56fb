"""`videoflamingo fewshot`: what a user types, what stays after a kill, and what the messages say."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.test_nextqa import CHOICE_HEADER, WORDS_HEADER
from tests.training.videos import write_video
from videoflamingo.cli import main
from videoflamingo.metrics.wordnet import WordNetMissing, find_wordnet

# The command, in a process that kills itself once so many answers are written.
KILLED = """
import os, signal, sys
import videoflamingo.line_log
from videoflamingo.cli import main

left, add = int(sys.argv[1]), videoflamingo.line_log.LogWriter.add

def counted(self, entry, durable=False):
    global left
    add(self, entry, durable)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

videoflamingo.line_log.LogWriter.add = counted
sys.exit(main(sys.argv[2:]))
"""
NUM_TRAIN, NUM_TEST = 6, 12
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of one's own: a type, options, some to show and some to ask."""
    folder = tmp_path_factory.mktemp("own")
    lines = []
    for index in range(NUM_TRAIN + NUM_TEST):
        write_video(folder / f"{index}.mp4", 15 * index, 5)
        lines.append(
            {
                "video": f"{index}.mp4",
                "question": "Which colour?",
                "options": list(COLOURS),
                "answer": COLOURS[index % 3],
                "id": f"n{index}",
                "split": "train" if index < NUM_TRAIN else "test",
            }
        )
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def arguments(questions: Path, checkpoint: str, out: Path, *more: str) -> list[str]:
    common = ["--benchmark", str(questions), "--model", checkpoint, "--out", str(out), "--num-frames", "3"]
    return ["fewshot", *common, "--num-workers", "0", *more]


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("results*.jsonl")) for line in path.read_text().splitlines()]


def scores(out: Path) -> list[tuple[str, int, float, float, float]]:
    summary = json.loads((out / "summary.json").read_text())
    return [(one["condition"], one["num_shots"], one["mean"], one["low"], one["high"]) for one in summary["scores"]]


def test_a_run_prints_its_scores_and_leaves_page_tables_and_answers(
    questions: Path, random_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(questions, random_checkpoint, tmp_path, "--shots", "0", "2")) == 0
    printed = capsys.readouterr()
    table = printed.out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["shots", "0", "2"]
    assert "no video" in table[0] and "swapped answers" in table[0]
    assert str(tmp_path / "report.html") in printed.out
    assert len(results(tmp_path)) == NUM_TEST * (3 + 5)
    names = {"report.html", "summary.json", "scores.csv", "answers.csv", "results.jsonl", "protocol.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}


def test_json_is_the_summary_alone(
    questions: Path, random_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(questions, random_checkpoint, tmp_path, "--shots", "0", "--json", "--controls", "none")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [(one["condition"], one["num_shots"]) for one in summary["scores"]] == [("real", 0)]


def test_a_killed_run_asks_nothing_twice_and_ends_with_the_same_numbers(
    questions: Path, random_checkpoint: str, tmp_path: Path
) -> None:
    more = ("--shots", "0", "2", "--ensemble", "2")
    assert main(arguments(questions, random_checkpoint, tmp_path / "whole", *more)) == 0
    killed = tmp_path / "killed"
    program = [sys.executable, "-c", KILLED]
    command = arguments(questions, random_checkpoint, killed, *more)
    done = subprocess.run([*program, "17", *command], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(results(killed)) == 17
    assert not (killed / "summary.json").exists()
    assert main(command) == 0
    asked = Counter((one["condition"], one["num_shots"], one["trial"], one["id"]) for one in results(killed))
    assert len(asked) == NUM_TEST * (3 + 5) and set(asked.values()) == {1}
    assert scores(killed) == scores(tmp_path / "whole")


def test_processes_share_the_questions(questions: Path, random_checkpoint: str, tmp_path: Path) -> None:
    more = ("--shots", "2", "--controls", "no_video")
    assert main(arguments(questions, random_checkpoint, tmp_path / "one", *more)) == 0
    assert main(arguments(questions, random_checkpoint, tmp_path / "two", *more, "--num-processes", "2")) == 0
    assert {path.name for path in (tmp_path / "two").glob("results*")} == {
        "results.0-of-2.jsonl",
        "results.1-of-2.jsonl",
    }
    assert scores(tmp_path / "two") == scores(tmp_path / "one")


def test_an_unreadable_video_is_told_and_ends_with_3(questions: Path, random_checkpoint: str, tmp_path: Path) -> None:
    (questions.parent / "broken.mp4").write_bytes(b"no video")
    lines = questions.read_text().splitlines()
    broken = {**json.loads(lines[-1]), "video": "broken.mp4", "id": "broken"}
    damaged = questions.with_name("damaged.jsonl")
    damaged.write_text("\n".join([*lines, json.dumps(broken)]) + "\n")
    assert main(arguments(damaged, random_checkpoint, tmp_path, "--shots", "0", "--controls", "none")) == 3
    assert [one["id"] for one in results(tmp_path) if one["error"]] == ["broken"]
    assert "broken.mp4" in (tmp_path / "report.html").read_text()


def test_two_runs_are_compared_question_by_question(
    questions: Path, random_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rank_by in (("sums", "sum"), ("means", "mean")):
        more = ("--shots", "0", "--controls", "none", "--rank-by", rank_by)
        assert main(arguments(questions, random_checkpoint, tmp_path / name, *more)) == 0
    capsys.readouterr()
    compared = arguments(questions, random_checkpoint, tmp_path / "means", "--compare", str(tmp_path / "sums"))
    assert main([*compared, "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)["differences"]
    assert difference["num_better"] + difference["num_worse"] + difference["num_equal"] == NUM_TEST


def test_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fewshot", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("world", "msrvtt-qa", "nextqa", "nextqa-oe", "msrvtt-captions", "FILE"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--benchmark", "wurld", "--out", "x"], "wurld"),
        (["--benchmark", "world"], "--out is missing"),
        (["--out", "x"], "--benchmark is missing"),
        (["--num-trials", "2", "--trial-seeds", "1"], "--num-trials 2"),
        (["--rices", "--choose", "balanced"], "--rices"),
        (["--shots", "-1"], "num_shots"),
    ],
)
def test_a_wrong_request_ends_with_2_before_anything_is_loaded(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str], questions: Path, tmp_path: Path
) -> None:
    given = [] if "--out" in more or "--benchmark" in more else ["--benchmark", str(questions), "--out", str(tmp_path)]
    assert main(["fewshot", *given, *more]) == 2
    assert said in capsys.readouterr().err


def test_more_shots_than_there_are_examples_is_refused_with_the_numbers(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fewshot", "--benchmark", str(questions), "--out", str(tmp_path), "--shots", "32"]) == 2
    assert f"has {NUM_TRAIN} examples to show" in capsys.readouterr().err


def write_official(folder: Path) -> None:
    """MSR-VTT, MSRVTT-QA and NExT-QA in their official formats: three videos to train on, two to test."""
    numbers = {"train": (0, 1, 2), "test": (7010, 7011)}
    (folder / "NExTVideo").mkdir(parents=True)
    for place, number in enumerate((*numbers["train"], *numbers["test"])):
        write_video(folder / f"video{number}.mp4", 15 * place, 5)
        write_video(folder / "NExTVideo" / f"{number}.mp4", 15 * place + 7, 5)
    for split, own in numbers.items():
        videos = [f"video{number}" for number in own]
        name = "train_val_videodatainfo.json" if split == "train" else "test_videodatainfo.json"
        clips = [{"video_id": video, "split": split, "id": number} for video, number in zip(videos, own, strict=True)]
        said = [{"video_id": video, "caption": f"{video} {words}"} for video in videos for words in ("is red", "moves")]
        (folder / name).write_text(json.dumps({"videos": clips, "sentences": said}))
        asked = [
            {"question": "what is shown?", "answer": "car", "category_id": 1, "id": number, "video_id": number}
            for number in own
        ]
        (folder / f"{split}_qa.json").write_text(json.dumps(asked))
        for part, header in (("choices", CHOICE_HEADER), ("words", WORDS_HEADER)):
            (folder / part).mkdir(exist_ok=True)
            rest = "2,0,CW,a cat,a dog,rain,snow,nothing" if part == "choices" else "a dog,0,DO"
            rows = [f"{number},5,64,48,what is there,{rest}" for number in own]
            (folder / part / f"{split}.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize(
    ("name", "part", "metric"),
    [
        ("msrvtt-qa", "", "exact_match"),
        ("msrvtt-captions", "", "captions"),
        ("nextqa", "choices", "choice_accuracy"),
        ("nextqa-oe", "words", "wups"),
    ],
)
def test_a_public_benchmark_runs_from_its_official_files(
    name: str, part: str, metric: str, random_checkpoint: str, tmp_path: Path
) -> None:
    if metric == "wups":
        try:
            find_wordnet()
        except WordNetMissing as error:
            pytest.skip(str(error))
    write_official(tmp_path / "data")
    data = ["--benchmark", name, "--data", str(tmp_path / "data" / part), "--videos", str(tmp_path / "data")]
    asked = ["--model", random_checkpoint, "--num-frames", "3", "--num-workers", "0", "--max-new-tokens", "5"]
    assert main(["fewshot", *data, *asked, "--out", str(tmp_path / "out"), "--shots", "0", "2"]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["metric"], summary["num_asked"]) == (metric, 2)
    assert {(one["condition"], one["num_shots"]) for one in summary["scores"]} >= {("real", 0), ("real", 2)}
    assert all(not one["error"] for one in results(tmp_path / "out"))
