"""`videoflamingo ask`, called as a function of its arguments."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tools import ask
from tools.ask import read_shots
from videoflamingo import cli, pipeline
from videoflamingo.errors import UsageError

Capture = pytest.CaptureFixture[str]
SHOT = {"video": "scene.mp4", "question": "What moves?", "answer": "a cat"}


def main(argv: list[str]) -> int:
    """`ask.main` with the random tower that it had before, so that two calls can be compared."""
    torch.manual_seed(0)
    return ask.main(argv)


@pytest.fixture
def folder(video: Path, tmp_path: Path) -> Path:
    """A folder with `scene.mp4`."""
    shutil.copy(video, tmp_path / "scene.mp4")
    return tmp_path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure: what is wrong must be found without one."""
    monkeypatch.setattr(pipeline, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))


def shots_file(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "shots.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n", "utf-8")
    return path


def test_one_video_gives_just_the_answer(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    assert main([str(video), "-q", "What moves?", "--model", random_checkpoint, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["answer"]
    assert main([str(video), "-q", "What moves?", "--model", random_checkpoint]) == 0
    assert capsys.readouterr() == (f"{' '.join(answer.split())}\n", "")


def test_several_videos_give_a_line_each_with_its_path(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    options = ["--choices", "up", "down", "--model", random_checkpoint]
    assert main([str(video), str(video), *options]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first in (f"{video}: up", f"{video}: down")


def test_json_tells_what_was_asked_seen_and_said(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    options = ["--max-new-tokens", "5", "--num-frames", "2", "--start", "1", "--end", "3"]
    assert main([str(video), "-q", "What moves?", "--model", random_checkpoint, "--json", *options]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (out.count("\n"), err) == (1, "")
    assert list(record) == [
        *("video", "question", "answer", "score", "num_tokens", "frame_times", "reader", "model", "num_shots"),
    ]
    assert (record["video"], record["question"], record["model"]) == (str(video), "What moves?", random_checkpoint)
    assert (record["frame_times"], record["reader"], record["num_shots"]) == ([1.5, 2.5], "pyav", 0)
    assert isinstance(record["answer"], str)
    assert 1 <= record["num_tokens"] <= 5
    assert record["score"] < 0


def test_without_a_question_it_captions(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    assert main([str(video), "--model", random_checkpoint, "--max-new-tokens", "3", "--beams", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] is None


def test_an_answer_can_be_drawn_and_drawn_again(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    records = []
    for options in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], []):
        draw = ["--temperature", "2", "--top-p", "0.9", "--top-k", "50", *options]
        assert main([str(video), "-q", "What?", "--model", random_checkpoint, "--json", *draw]) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0] == records[1]
    assert len({record["answer"] for record in records}) == 3


@pytest.mark.parametrize("options", [[], ["--temperature", "2", "--seed", "5"]], ids=str)
def test_a_stream_shows_what_is_answered_otherwise(
    options: list[str], video: Path, random_checkpoint: str, capsys: Capture
) -> None:
    asked = [str(video), "-q", "What?", "--model", random_checkpoint]
    assert main([*asked, *(options or ["--beams", "1"])]) == 0
    expected = capsys.readouterr()
    assert main([*asked, "--stream", *options]) == 0
    assert capsys.readouterr() == expected
    torch.manual_seed(0)
    assert ask.main([str(video), *asked, "--stream", *options]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{video}: {expected.out.strip()}"] * 2


@pytest.mark.parametrize("by", ["sum", "mean"])
def test_choices_are_ranked_as_named(by: str, video: Path, random_checkpoint: str, capsys: Capture) -> None:
    choices = ["up", "down below", "left"]
    options = ["--choices", *choices, "--rank-by", by]
    assert main([str(video), "-q", "Where?", "--model", random_checkpoint, "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    ranked = record["choices"]
    assert sorted(one["choice"] for one in ranked) == sorted(choices)
    values = [one["score"] * (one["num_tokens"] if by == "sum" else 1) for one in ranked]
    assert values == sorted(values, reverse=True)
    assert {**ranked[0]} == {"choice": record["answer"], "score": record["score"], "num_tokens": record["num_tokens"]}
    assert {one["choice"]: one["num_tokens"] for one in ranked} == {c: len(c) + 2 for c in choices}  # " ", EOC


def test_shots_are_found_from_their_file_and_change_the_answer(
    folder: Path, random_checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shots = shots_file(folder, SHOT, "", {"video": "scene.mp4", "start": 1, "end": 2.5, "answer": "a picture"})
    monkeypatch.chdir(folder.parent)
    options = ["--choices", "a cat", "--model", random_checkpoint, "--json"]
    scores = []
    for more in ([], ["--shots", str(shots.relative_to(folder.parent))]):
        assert main([str(folder / "scene.mp4"), *options, *more]) == 0
        record = json.loads(capsys.readouterr().out)
        scores.append(record["score"])
        assert record["num_shots"] == (2 if more else 0)
    assert not math.isclose(*scores, rel_tol=1e-3)


def test_a_shot_shows_the_part_that_its_line_names(folder: Path) -> None:
    (line,) = read_shots(shots_file(folder, {**SHOT, "start": 1, "end": 3}))
    shot = line.load(num_frames=2, reader="auto")
    assert (shot.question, shot.answer, shot.clip.pts_seconds.tolist()) == ("What moves?", "a cat", [1.5, 2.5])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{video: 1}", "is not JSON (Expecting property name enclosed in double quotes at column 2); write it like"),
        ("[1, 2]", "[1, 2] is not an object; write it like"),
        ({"video": "scene.mp4"}, "field 'answer' is missing; write the line like"),
        ({"answer": "a cat"}, "field 'video' is missing; write the line like"),
        ({**SHOT, "answr": 3}, "field 'answr' (value 3) is unknown; did you mean 'answer'?"),
        ({**SHOT, "zzz": 3}, "field 'zzz' (value 3) is unknown; fields are video, start, end, question, answer"),
        ({**SHOT, "answer": "  "}, "field 'answer' is \"  \", but must be a text that is not empty; correct it"),
        ({**SHOT, "question": 4}, "field 'question' is 4, but must be a text that is not empty; correct it"),
        ({**SHOT, "start": "1"}, "field 'start' is \"1\", but must be seconds from 0 upwards; correct it or leave"),
        ({**SHOT, "end": -1}, "field 'end' is -1, but must be seconds from 0 upwards; correct it or leave"),
        ({**SHOT, "start": True}, "field 'start' is true, but must be seconds"),
        ('{"video": "scene.mp4", "answer": "a", "end": NaN}', "field 'end' is NaN, but must be seconds"),
        ({**SHOT, "start": 2, "end": 1}, "field 'end' is 1, which is not after the start at 2 s; raise it"),
        ({**SHOT, "video": "none.mp4"}, "field 'video' is 'none.mp4', but there is no file"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_with_its_field_before_a_model_is_loaded(
    line: str | dict[str, Any], message: str, folder: Path, no_model: None, capsys: Capture
) -> None:
    shots = shots_file(folder, SHOT, line)
    assert cli.main(["ask", str(folder / "scene.mp4"), "--shots", str(shots)]) == 2
    assert_one_line(capsys, f"{shots}:2: {message}")


def test_a_shot_whose_video_cannot_be_shown_is_named_by_its_line(
    folder: Path, random_checkpoint: str, no_model: None, capsys: Capture
) -> None:
    (folder / "empty.mp4").touch()
    for line, message in (
        ({**SHOT, "video": "empty.mp4"}, f"{folder / 'empty.mp4'}: is empty (0 bytes); download or copy it again"),
        ({**SHOT, "end": 9}, "but the video ends at 4.00 s"),
    ):
        shots = shots_file(folder, line)
        options = ["--model", random_checkpoint, "--shots", str(shots)]
        assert cli.main(["ask", str(folder / "scene.mp4"), *options]) == 2
        assert_one_line(capsys, f"{shots}:1: ", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read (No such file or directory)"), (b"\xff\xfe", "is not text in UTF-8"), (b"\n", "no shot")],
)
def test_a_shots_file_that_holds_nothing_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_shots(path)
    assert message in str(caught.value)
    assert '{"video": "cat.mp4"' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "no such file; check the path"),
        ("text.mp4", b"I am no video\n", "is a text file, not a video (it begins 'I am no video\\n')"),
        ("empty.mp4", b"", "is empty (0 bytes)"),
        ("noise.mp4", bytes(range(256)) * 40, "is not a video or picture that can be opened"),
    ],
)
def test_a_file_that_is_no_video_costs_no_model(
    name: str, content: bytes | None, message: str, tmp_path: Path, random_checkpoint: str, no_model: None,
    capsys: Capture,
) -> None:  # fmt: skip
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["ask", str(path), "--model", random_checkpoint]) == 3
    assert_one_line(capsys, f"videoflamingo ask: {path}: ", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "3", "--end", "1"], "--start 3 is not before --end 1; give an --end after --start"),
        (["--model", "huge"], "model 'huge' is neither a bundled model"),
        (["--device", "abacus"], "device 'abacus' is unknown"),
        (["--num-frames", "0"], "num_frames=0: ask for a whole number of frames, 1 or more"),
        (["--beams", "0"], "--beams is 0; give 1 or more"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; give 1 or more"),
        (["--top-k", "0"], "--top-k is 0; give 1 or more"),
        (["--top-p", "1.5"], "--top-p is 1.5; give more than 0 and at most 1"),
        (["--temperature", "0"], "--temperature is 0.0; give more than 0, or leave it out for the likeliest tokens"),
        (
            ["--seed", "1"],
            "--seed is 1, but nothing is drawn; add --temperature, --top-k or --top-p, or leave out --seed",
        ),
        (["--beams", "3", "--top-k", "2"], "--beams is 3, but --temperature, --top-k and --top-p draw tokens instead"),
        (["--choices", "a", "--top-k", "2"], "--choices ranks given answers, so none is drawn or streamed; leave out"),
        (["--choices", "a", "--stream"], "--choices ranks given answers, so none is drawn or streamed; leave out the"),
        (["--stream", "--json"], "--stream shows a single answer while it is written; leave out --json, and --beams"),
        (["--stream", "--beams", "2"], "--stream shows a single answer while it is written; leave out --json, and"),
        (["-q", " "], "--question is empty"),
        (["--rank-by", "mean"], "--rank-by mean needs answers to rank; add --choices A B ..."),
        (["--choices", "a", "a"], "--choices ['a', 'a']: one is empty or given twice"),
    ],
)
def test_a_wrong_request_is_refused_before_a_model_is_loaded(
    options: list[str], message: str, video: Path, random_checkpoint: str, no_model: None, capsys: Capture
) -> None:
    model = [] if "--model" in options else ["--model", random_checkpoint]
    assert cli.main(["ask", str(video), *options, *model]) == 2
    assert_one_line(capsys, f"videoflamingo: error: {message}")


def test_a_range_outside_one_video_fails_that_video(
    video: Path, random_checkpoint: str, no_model: None, capsys: Capture
) -> None:
    assert cli.main(["ask", str(video), "--start", "7", "--model", random_checkpoint]) == 3
    assert_one_line(capsys, f"videoflamingo ask: {video}: ", "the video ends at 4.00 s; give --start below 4.00")


def test_one_video_that_fails_leaves_the_others_answered(video: Path, random_checkpoint: str, capsys: Capture) -> None:
    options = ["--choices", "up", "down", "--model", random_checkpoint]
    assert cli.main(["ask", "none.mp4", str(video), *options, "--json"]) == 3
    out, err = capsys.readouterr()
    failed, answered = map(json.loads, out.splitlines())
    assert failed == {"video": "none.mp4", "error": "none.mp4: no such file; check the path"}
    assert err == "videoflamingo ask: none.mp4: no such file; check the path\n"
    assert (answered["video"], len(answered["choices"])) == (str(video), 2)


def test_ctrl_c_exits_with_130(
    video: Path, random_checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "load", interrupted)
    assert cli.main(["ask", str(video), "--model", random_checkpoint]) == 130
    assert "Traceback" not in capsys.readouterr().err


def assert_one_line(capsys: Capture, *parts: str) -> None:
    """The message is one line on stderr, with these parts; nothing is on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err
