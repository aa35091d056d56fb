"""The classes give what the functions give, however the samples came: in batches, in processes, twice."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videoflamingo.errors import UsageError
from videoflamingo.metrics import (
    Bleu,
    ChoiceAccuracy,
    CiderD,
    ExactMatch,
    RougeL,
    WordNetMissing,
    Wups,
    bleu,
    cider_d,
    rouge_l,
)
from videoflamingo.metrics.wordnet import find_wordnet
from videoflamingo.metrics.wups import wups

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("gathering_program.py")


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("gathering_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_processes_score_what_one_scores_and_repeated_samples_count_once(program: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(tmp_path / "meeting"), str(tmp_path / f"{rank}.json")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    alone = program.metrics()
    program.feed(alone, [0, 1, 2, 3, 4])
    expected = program.computed(alone)
    for rank in (0, 1):
        for found in json.loads((tmp_path / f"{rank}.json").read_text("utf-8")):
            assert found["match"] == pytest.approx(expected["match"])
            assert found["choices"] == pytest.approx(expected["choices"])
            for name in ("cider", "bleu", "rouge"):
                assert found[name] == pytest.approx(expected[name], abs=1e-4)


def test_batches_score_what_the_functions_score_at_once(program: Any) -> None:
    cider, orders, rouge = CiderD(), Bleu(), RougeL()
    for metric in (cider, orders, rouge):
        for said, right in zip(program.SAID, program.RIGHT, strict=True):
            metric.update([said], [right])
    assert cider.compute().item() == pytest.approx(cider_d(program.SAID, program.RIGHT).value, rel=1e-6)
    assert orders.compute().tolist() == pytest.approx(
        [one.value for one in bleu(program.SAID, program.RIGHT)], rel=1e-6
    )
    assert rouge.compute().item() == pytest.approx(rouge_l(program.SAID, program.RIGHT).value, rel=1e-6)


def test_answers_are_reported_together_and_by_kind() -> None:
    metric = ExactMatch()
    metric.update(["Dog ", "cat", "two"], [["dog"], ["a cat", "kitten"], ["2", "two"]], ["what", "what", "how many"])
    found = {kind: value.item() for kind, value in metric.compute().items()}
    assert found == pytest.approx({"all": 200 / 3, "how many": 100.0, "what": 50.0})


def test_no_choice_is_a_wrong_choice() -> None:
    metric = ChoiceAccuracy()
    metric.update([0, None, 2, 1], [0, 0, 2, 0], ["C", "C", "T", "T"])
    assert {kind: value.item() for kind, value in metric.compute().items()} == {"all": 50.0, "C": 50.0, "T": 50.0}


def test_wups_is_the_mean_of_the_answers() -> None:
    try:
        find_wordnet()
    except WordNetMissing:
        pytest.skip("needs WordNet 3.0: apt-get install wordnet-base")
    metric = Wups()
    metric.update(["a dog", "two"], [["the cat"], ["three"]], ["DO", "DC"])
    dog = 100 * wups("a dog", ["the cat"], "DO")
    found = {kind: value.item() for kind, value in metric.compute().items()}
    assert found == pytest.approx({"all": dog / 2, "DC": 0.0, "DO": dog})


def test_a_metric_starts_again_after_reset_and_follows_its_module() -> None:
    metric = ExactMatch()
    metric.update(["a"], [["b"]])
    metric.reset()
    metric.update(["a"], [["a"]])
    metric.to(torch.device("cpu"), torch.bfloat16)
    assert metric.compute()["all"].item() == 100.0


def test_without_samples_there_is_no_score() -> None:
    with pytest.warns(UserWarning, match="before"), pytest.raises(UsageError, match="ExactMatch: was given no sample"):
        ExactMatch().compute()


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="lists of 2, 2, 1 samples"):
        CiderD().update(["a", "b"], [["a"]], ids=["1", "2"])
