"""What is shown of a run in two processes: nobody waits for ever, and one of them writes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.shown import Videos
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.training.predictions_page import SHARDED_NOTE

PROGRAM = Path(__file__).with_name("shown_program.py")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason='needs matplotlib: pip install "videoflamingo[plots]"'
)


@pytest.fixture(scope="module")
def out(config: FlamingoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a subfolder of each way to run."""
    folder = tmp_path_factory.mktemp("shown")
    Videos(folder / "videos", words=("",) * 5)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for how in ("one", "ddp", "sharded"):
        command = [sys.executable, str(PROGRAM), how, config.language_model, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_predictions_of_two_processes_are_in_the_order_of_the_texts(out: Path) -> None:
    truths = [row["truth"] for row in rows_of(out / "ddp/said.jsonl")]
    assert truths == ["a dog", "two cats", "rain", "snow", "a bee"]


def test_the_first_process_asks_texts_of_its_own_share(out: Path) -> None:
    rows = [row for row in rows_of(out / "ddp/predictions.jsonl") if row["kind"] == "answer"]
    assert [row["truth"] for row in rows if row["step"] == 4] == ["a dog", "rain"]
    assert all(isinstance(row["answer"], str) for row in rows)


@pytest.mark.parametrize("how", ["ddp", "sharded"])
def test_losses_are_written_once_and_are_those_of_one_process(out: Path, how: str) -> None:
    found, expected = rows_of(out / how / "losses.jsonl"), rows_of(out / "one/losses.jsonl")
    steps = [(row["step"], row["split"]) for row in found]
    assert steps == [(2, "train"), (2, "validate"), (4, "train"), (4, "validate")]
    for row, other in zip(found, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_with_sharded_weights_the_page_says_that_nobody_was_asked(out: Path) -> None:
    page = (out / "sharded/predictions.html").read_text("utf-8")
    assert SHARDED_NOTE in page and "not asked" in page and "data:image/jpeg" in page
