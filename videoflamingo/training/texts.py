"""What a dataset is to the trainer: numbered texts whose media are named but not read yet, in an order of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from videoflamingo.prompt import MediaOfText, Medium, Segment
from videoflamingo.video.medium import MediumRequest

Split = Literal["train", "validate", "test"]
SPLITS: tuple[Split, ...] = ("train", "validate", "test")
ORDER = 0x6F726465  # keeps this draw apart from others made of the same seed and epoch


class Draw(NamedTuple):
    """Which time a text is seen: everything random about it is a function of this, so a resumed run draws the same.

    Args:
        seed: of the run.
        epoch: passes over the dataset before this one.
        position: texts of this dataset before this one, over the whole run.
    """

    seed: int = 0
    epoch: int = 0
    position: int = 0

    def generator(self, purpose: int) -> np.random.Generator:
        """A generator for one purpose; different purposes draw independently."""
        return np.random.default_rng([purpose, *self])


@dataclass(frozen=True, eq=False)
class PlannedText:
    """One text, with requests for its media.

    Args:
        segments: the prompt with its answers.
        media: for each place of a medium, in order.
        readouts: what each medium's visual tokens must say in the warm-up (see `videoflamingo.training.readout`): each
            text by an equal part of them, in order. Empty = the first answer, by all of the first medium's.
        media_of_text: whether text belongs to the medium before it or after it.
        place: `FILE:LINE` or the like, for messages.
        pooled_only: whether the answers are to be told by pooled visual tokens alone, where the model has some (see
            `ResamplerConfig.pooled_side`): its latents are those of other media, as what latents say of media like none
            they were trained on may mislead.

    Raises:
        ValueError: if there are not as many media, or not as many of what they must say, as places for them.
    """

    segments: list[Segment]
    media: list[MediumRequest]
    readouts: tuple[tuple[str, ...], ...] = ()
    media_of_text: MediaOfText = "previous"
    place: str = ""
    pooled_only: bool = False

    def __post_init__(self) -> None:
        places = sum(isinstance(segment, Medium) for segment in self.segments)
        if places != len(self.media):
            raise ValueError(f"{self.place}: the prompt has places for {places} media, but {len(self.media)} are given")
        if self.readouts and len(self.readouts) != places:
            raise ValueError(f"{self.place}: {len(self.readouts)} of {places} media are told what to say; tell all")


class Texts(ABC):
    """One dataset of a mixture. Its `__str__` tells the user what was read and what was left out."""

    def prepare(self) -> None:  # noqa: B027 (most datasets have nothing to make)
        """Make what has to be made on disk before it can be read; called by one process only."""

    @abstractmethod
    def size(self, split: Split) -> int:
        """How many texts there are; 0 if the dataset has no such split. Reads the annotations when first asked.

        Raises:
            UsageError: if they cannot be read.
        """

    @abstractmethod
    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        """Text `index` of a split, as seen this time: a function of the arguments only.

        In validation and test, `draw` is `Draw(position=index)`: always the same text.
        """

    def choose(self, step: int, batch_size: int, seed: int) -> list[tuple[int, Draw]]:
        """The training texts of an optimisation step, and which time each is seen: a function of the arguments only.

        Here: all texts in a random order, then all in another, and so on.

        Args:
            step: counted from 0, among the steps this dataset takes part in.
            batch_size: over all processes.
        """
        size = self.size("train")
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [
            (int(order_of_epoch(size, seed, position // size)[position % size]), Draw(seed, position // size, position))
            for position in positions
        ]

    def media(self, split: Split) -> Iterator[MediumRequest]:
        """All media of a split as they lie in the files, some perhaps more than once; for the feature cache."""
        for index in range(self.size(split)):
            for request in self.plan(split, index, Draw(position=index)).media:
                yield request.unchanged()


@lru_cache(maxsize=64)  # each dataset of a mixture is in one epoch, or between two
def order_of_epoch(size: int, seed: int, epoch: int) -> np.ndarray:
    """A random order `[size]` of the texts, the same whenever it is asked for."""
    return np.random.default_rng([ORDER, seed, epoch]).permutation(size)
