"""`FewShotScores`: a recipe's validation and test ask a benchmark, in one process or two, and log its scores."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from tests.datamodules.conftest import Write, picture_bytes, video_bytes, write_video
from tests.test_recipes_run import ROOT, metrics, run_cli, tiny_recipe, write_own
from tests.training.videos import write_video as write_numbered_video
from videoflamingo import cli
from videoflamingo.errors import UsageError
from videoflamingo.training.fewshot_scores import FewShotScores

__all__ = ["picture_bytes", "tiny_recipe", "video_bytes", "write_video"]  # fixtures
NUM_ASKED = 5


@pytest.fixture
def composed(
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """A small recipe of one's own data, with a benchmark of one's own over it."""
    monkeypatch.chdir(tmp_path)
    write_own(write_video, picture_bytes, video_bytes)
    lines = []
    for index in range(3 + NUM_ASKED):
        write_numbered_video(Path(f"asked-{index}.mp4"), 15 * index, 5)
        split = "train" if index < 3 else "test"
        answer = {"question": "What?", "options": ["a box", "rain"], "answer": index % 2}
        lines.append(json.dumps({"video": f"asked-{index}.mp4", "split": split, **answer}))
    Path("asked.jsonl").write_text("\n".join(lines) + "\n")
    benchmark = {"class_path": "datamodules.benchmarks.NamedBenchmark", "init_args": {"name": "asked.jsonl"}}
    options = {"folder": "fewshot", "protocol": {"num_shots": [0, 2], "controls": ["no_video"]}, "num_workers": 0}
    callback = {
        "class_path": "videoflamingo.training.fewshot_scores.FewShotScores",
        "init_args": {**options, "benchmark": benchmark},
    }
    Path("fewshot.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
    paths = [str(ROOT / "recipes/own_data.yaml"), str(tiny_recipe), "fewshot.yaml"]
    return [*(word for path in paths for word in ("--config", path)), "--data.members.own.batch_size=3"]


def scores(folder: str) -> dict[tuple[str, int], float]:
    summary = json.loads(Path(folder, "summary.json").read_text())
    return {(one["condition"], one["num_shots"]): one["mean"] for one in summary["scores"]}


def test_scores_are_logged_at_each_validation_and_at_test_and_the_page_is_written(composed: list[str]) -> None:
    assert cli.main(["fit", *composed, "--trainer.val_check_interval=1"]) == 0
    run = Path("runs/own_data")
    logged = metrics(run)
    for step in (1, 2):
        assert Path(f"fewshot/step-{step}/report.html").is_file()
        assert len(Path(f"fewshot/step-{step}/results.jsonl").read_text().splitlines()) == NUM_ASKED * 4
    expected = scores("fewshot/step-2")
    for (condition, num_shots), mean in expected.items():
        beside = "" if condition == "real" else f"_{condition}"
        assert float(logged[f"fewshot/asked.jsonl/{num_shots}_shots{beside}"]) == pytest.approx(mean)
    assert cli.main(["test", *composed, "--ckpt_path=auto"]) == 0
    (tested,) = Path("fewshot").glob("test-*")
    assert scores(str(tested)) == expected
    with (tested / "answers.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == NUM_ASKED * 4


def test_two_processes_share_the_questions_and_log_what_one_would(composed: list[str]) -> None:
    assert cli.main(["validate", *composed]) == 0
    (folder,) = Path("fewshot").glob("validate-*")
    alone = scores(str(folder))
    Path("fewshot").rename("alone")
    ddp = ["--config", str(ROOT / "recipes/overlays/ddp.yaml"), "--trainer.devices=2"]
    done = run_cli("validate", *composed, *ddp)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fewshot/asked.jsonl/2_shots" in done.stdout
    assert len(list(folder.glob("results.*-of-2.jsonl"))) == 2
    assert scores(str(folder)) == alone


def test_weights_cut_among_processes_are_refused_with_the_way_out(composed: list[str]) -> None:
    fsdp = ["--config", str(ROOT / "recipes/overlays/fsdp2.yaml"), "--trainer.devices=2"]
    done = run_cli("validate", *composed, *fsdp)
    assert done.returncode == 2
    assert "run `videoflamingo fewshot` with the checkpoint's folder" in done.stderr


def test_a_number_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match="every_num_validations is 0"):
        FewShotScores(lambda: pytest.fail("not asked"), "x", every_num_validations=0)
