"""The command on a checkpoint file as OpenFlamingo's saver writes it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.test_openflamingo import language_model, openflamingo_state
from tests.tiny import tiny_tokenizer
from videoflamingo.cli import main
from videoflamingo.models.checkpoint import load_checkpoint, read_config


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(openflamingo_state("gpt_neox"), tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_the_folder_it_writes_is_a_model_that_loads(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language, out = checkpoint.parent / "language", checkpoint.parent / "out"
    language_model("gpt_neox").save_pretrained(language)
    tiny_tokenizer().save_pretrained(language)
    arguments = [str(checkpoint), "--language-model", str(language), "--out", str(out), "--tower", "random:test_vit"]
    assert main(["convert-openflamingo", *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["gated_blocks"], said["first"], said["every"], said["vocabulary_size"]) == (2, 1, 2, 40)
    model = load_checkpoint(out)
    assert model.block_layers == (1, 3)
    assert torch.equal(
        model.new_tokens.weight, openflamingo_state("gpt_neox")["lang_encoder.gpt_neox.embed_in.weight"][40:]
    )
    assert read_config(out).vision.features == "before_norm"
    assert {value.dtype for value in load_file(out / "trainable.safetensors").values()} == {torch.float32}


def test_it_says_what_it_found(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "out"
    assert main(["convert-openflamingo", str(checkpoint), "--language-model", "some/model", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: ")
    assert "2 gated blocks (before layer 1 and every 2 from there), new tokens <|endofchunk|>, <image>, <PAD>" in said


def test_another_file_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    arguments = [str(tmp_path / "other.pt"), "--language-model", "some/model", "--out", str(tmp_path / "out")]
    assert main(["convert-openflamingo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"videoflamingo: error: {tmp_path / 'other.pt'} is no OpenFlamingo checkpoint: missing a token"
    )
    assert not (tmp_path / "out").exists()
