"""What the programs need: a checkpoint that loads in a moment, and a video."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules.world import sample_scene, write_video
from tests.tiny import TINY_CONFIG, tiny_flamingo, tiny_language_model, tiny_tokenizer
from videoflamingo.models.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny Flamingo with random weights: it says something, and what it says means nothing."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizer()
    language_model = tiny_language_model(len(tokenizer))
    language_model.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    config = replace(TINY_CONFIG, language_model=str(folder / "language"))
    model = tiny_flamingo(language_model=language_model, config=config)
    return str(save_checkpoint(model, folder / "model", torch.float32))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a drawing that moves."""
    return write_video(sample_scene(1, "move", size=64), tmp_path_factory.mktemp("world") / "scene.mp4")
