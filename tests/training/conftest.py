"""A small frozen language model on disk, and batches of random features, for a real Trainer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import TINY_CONFIG, draw_weights, tiny_language_model, tiny_tokenizer
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.prompt import PromptTemplate
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.batch import Batch, Sample, collate
from videoflamingo.training.module import FlamingoTraining

declare_missing_operators()  # before the tests beside this file import lightning
FEATURES = (4, 256)  # patches and width of the tiny tower
WORDS = ("a dog", "two cats", "rain", "a red car moves left")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> FlamingoConfig:
    """With the language model in a folder."""
    folder = tmp_path_factory.mktemp("language")
    tiny_language_model(len(tiny_tokenizer())).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return replace(TINY_CONFIG, language_model=str(folder))


@pytest.fixture
def make_module(config: FlamingoConfig) -> Callable[..., FlamingoTraining]:
    """A module that has built its model, all its weights drawn."""

    def make(**settings: object) -> FlamingoTraining:
        module = FlamingoTraining(settings.pop("config", config), frozen_dtype="float32", **settings)
        torch.manual_seed(0)
        module.configure_model()
        for part in (module.model.resampler, module.model.blocks, module.model.new_tokens):
            draw_weights(part, torch.Generator().manual_seed(1))
        return module

    return make


def sample(number: int) -> Sample:
    """A caption or a question, of one to three frames."""
    rng = np.random.default_rng(number)
    features = rng.standard_normal((1 + number % 3, *FEATURES)).astype(np.float16)
    question = None if number % 2 else "What is it?"
    return Sample(PromptTemplate().ask(question, WORDS[number % len(WORDS)]), [features], "random")


@pytest.fixture
def make_batch() -> Callable[[int, int], Batch]:
    """`make_batch(first, size)`: of the samples of these numbers."""
    return lambda first, size: collate([sample(number) for number in range(first, first + size)])
