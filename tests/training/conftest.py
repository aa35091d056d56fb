"""A small frozen language model on disk, and batches of random features, for a real Trainer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.tiny import TINY_CONFIG, draw_weights, tiny_language_model, tiny_tokenizer
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.prompt import PromptTemplate
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.batch import Batch, Part, Sample, Step, collate
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.texts import PlannedText
from videoflamingo.video.medium import MediumRequest

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
    segments = PromptTemplate().ask(question, WORDS[number % len(WORDS)])
    return Sample(
        PlannedText(segments, [MediumRequest(f"random {number}")], place=f"text {number}"), [features], "random"
    )


def step_of(*batches: Batch, index: int = 0, weights: tuple[float, ...] = ()) -> Step:
    """One step, in which each batch is of a dataset of its own, called `a`, `b` ..."""
    names = "abcdef"[: len(batches)]
    return Step(
        index,
        [
            Part(name, weight, [batch])
            for name, weight, batch in zip(names, weights or (1.0,) * len(batches), batches, strict=True)
        ],
    )


@pytest.fixture
def make_batch() -> Callable[[int, int], Batch]:
    """`make_batch(first, size)`: of the samples of these numbers."""
    return lambda first, size: collate([sample(number) for number in range(first, first + size)])


class Steps(Dataset[Step]):
    """Four steps of two random texts each."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Step:
        return step_of(collate([sample(2 * index), sample(2 * index + 1)]), index=index)


def steps_loader() -> DataLoader[Step]:
    """The same epoch of four steps every time."""
    return DataLoader(Steps(), batch_size=None)
