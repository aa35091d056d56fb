"""The command that averages checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import TINY_CONFIG
from videoflamingo.cli import main
from videoflamingo.models.checkpoint import read_config, write_checkpoint


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    made = []
    for number in (1.0, 3.0):
        state = {"blocks.0.a": torch.full((2, 3), number), "resampler.b": torch.full((4,), -number)}
        made.append(str(write_checkpoint(TINY_CONFIG, state, tmp_path / f"of {number:g}", torch.float16)))
    return made


def test_weights_are_averaged_and_the_configuration_is_theirs(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["average", *folders, "--weights", "0.75", "0.25", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 0.75 of {folders[0]} and 0.25 of {folders[1]}\n"
    assert read_config(out) == TINY_CONFIG
    found = load_file(out / "trainable.safetensors")
    assert torch.equal(found["blocks.0.a"], torch.full((2, 3), 1.5, dtype=torch.float16))
    assert torch.equal(found["resampler.b"], torch.full((4,), -1.5, dtype=torch.float16))


def test_without_weights_each_counts_alike(folders: list[str], tmp_path: Path) -> None:
    assert main(["average", *folders, "--out", str(tmp_path / "out")]) == 0
    assert float(load_file(tmp_path / "out" / "trainable.safetensors")["blocks.0.a"].mean()) == 2.0


def test_what_the_first_was_given_later_stays_its_own(folders: list[str], tmp_path: Path) -> None:
    state = {
        "blocks.0.a": torch.zeros(2, 3),
        "resampler.b": torch.zeros(4),
        "blocks.0.word_times": torch.full((2,), 5.0),
        "resampler.pooled.place": torch.full((1,), 7.0),
    }
    grown = replace(
        TINY_CONFIG,
        resampler=replace(TINY_CONFIG.resampler, pooled_side=1),
        cross_attention=replace(TINY_CONFIG.cross_attention, word_times=True),
    )
    further = str(write_checkpoint(grown, state, tmp_path / "further", torch.float16))
    out = tmp_path / "out"
    assert main(["average", further, *folders, "--weights", "0.5", "0.25", "0.25", "--out", str(out)]) == 0
    assert read_config(out) == grown
    found = {name: float(value.float().mean()) for name, value in load_file(out / "trainable.safetensors").items()}
    assert found == {"blocks.0.a": 1, "resampler.b": -1, "blocks.0.word_times": 5, "resampler.pooled.place": 7}
    assert main(["average", folders[0], further, "--out", str(tmp_path / "other way round")]) == 2


@pytest.mark.parametrize("weights", [["0.5"], ["0.5", "0.6"]])
def test_weights_that_do_not_fit_are_refused(
    folders: list[str], tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["average", *folders, "--weights", *weights, "--out", str(tmp_path / "out")]) == 2
    assert "give one for each, 1 together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_that_differ_are_refused(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"blocks.0.a": torch.zeros(2, 3)}
    fewer = str(write_checkpoint(TINY_CONFIG, state, tmp_path / "fewer", torch.float16))
    other = replace(TINY_CONFIG, cross_attention=replace(TINY_CONFIG.cross_attention, every=1))
    otherwise = str(write_checkpoint(other, state, tmp_path / "otherwise", torch.float16))
    for name, said in ((fewer, "missing: resampler.b"), (otherwise, "config.json differ; average like ones")):
        assert main(["average", folders[0], name, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
