"""The mixture: any number of datasets, each with a batch size and a weight, in every optimisation step (Flamingo v1
3.2.3).

What a step is made of is a pure function of the recipe, the seed and the step's number, whatever the number of
processes, so a resumed run goes on with the very next step, and two processes take together what one would.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from videoflamingo.errors import UsageError, VideoError
from videoflamingo.models.vision import VisionConfig
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.feature_cache import FeatureCache
from videoflamingo.training.loaders import MediaReader, NamedTexts, PlannedPart, StepLoader, TextLoader
from videoflamingo.training.texts import Split, Texts
from videoflamingo.video.medium import MediumRequest

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

logger = logging.getLogger(__name__)

Combine = Literal["accumulate", "round_robin", "merged"]
READ_TOGETHER = 8  # media, while the first ones are looked at


@dataclass(frozen=True)
class Member:
    """One dataset of a mixture.

    Args:
        texts: the dataset.
        batch_size: its texts in one optimisation step, over all processes together.
        weight: of its mean loss: the paper's lambda.

    Raises:
        UsageError: if a number is out of range.
    """

    texts: Texts
    batch_size: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size}: give 1 text or more for each optimisation step")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UsageError(f"weight={self.weight}: give a number above 0, or leave the dataset out")


class Mixture(L.LightningDataModule):
    """Datasets to train on together, and to validate and test on one after the other.

    Args:
        members: datasets by the names that logs call them.
        vision: the tower; the recipe links it to the model's.
        combine: `accumulate`, the paper: each step takes a batch of every dataset, adds up their gradients by weight,
            and updates once. `round_robin`: each step takes a batch of one dataset after the other (7.8 points worse
            in the paper's ablation). `merged`: each step takes one batch with texts of all (v1 table 14); its loss is
            the mean over all their labels, so there are no weights.
        micro_batch_size: most texts of one forward pass on one process; None for all of a dataset's at once. It
            changes memory and speed, not the gradient.
        features: folder of the feature cache (`videoflamingo cache-features`); None to decode files.
        num_workers: processes that decode files; 0 to decode in this one.
        prefetch_steps: how many steps ahead files are decoded.
        max_failed_share: the run ends when more media than this share could not be read. Texts whose media cannot be
            read are left out of their batch and counted; no other takes their place.
        steps_per_epoch: None for as many as the dataset that takes longest needs to be seen once.
        seed: of order and draws.

    Raises:
        UsageError: if an option is out of range, or options do not fit each other.
    """

    def __init__(
        self,
        members: dict[str, Member],
        vision: VisionConfig,
        combine: Combine = "accumulate",
        micro_batch_size: int | None = None,
        features: str | None = None,
        num_workers: int = 2,
        prefetch_steps: int = 2,
        max_failed_share: float = 0.05,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not members:
            raise UsageError("data.members is empty; name one dataset or more")
        for option, value, least in (
            ("micro_batch_size", micro_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_steps", prefetch_steps, 0),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"data.{option} is {value}; give {least} or more")
        if not 0 <= max_failed_share <= 1:
            raise UsageError(f"data.max_failed_share is {max_failed_share}; give a share from 0 to 1")
        weighted = [name for name, member in members.items() if member.weight != 1.0]
        if combine == "merged" and weighted:
            raise UsageError(
                f"data.combine is 'merged', which takes the mean over the labels of all datasets and has no weights, "
                f"but {', '.join(weighted)} has one; remove it, or choose accumulate"
            )
        self.members = members
        self.vision = vision
        self.combine = combine
        self.micro_batch_size = micro_batch_size
        self.features = features
        self.num_workers = num_workers
        self.prefetch_steps = prefetch_steps
        self.max_failed_share = max_failed_share
        self.own_steps_per_epoch = steps_per_epoch
        self.seed = seed
        self._reader: MediaReader | None = None

    def prepare_data(self) -> None:
        """Let each dataset make what it makes on disk; in one process only."""
        for member in self.members.values():
            member.texts.prepare()

    def setup(self, stage: str) -> None:
        """Read annotations, and say what they hold."""
        for name, member in self.members.items():
            splits: tuple[Split, ...] = ("train", "validate") if stage == "fit" else ("validate", "test")
            sizes = {split: member.texts.size(split) for split in splits}
            logger.info("%s: %s (%s)", name, member.texts, ", ".join(f"{split} {sizes[split]:,}" for split in splits))
            if stage == "fit" and not sizes["train"]:
                raise UsageError(f"data.members.{name}: there is nothing to train on; check its paths and its split")

    def teardown(self, stage: str) -> None:
        """End the decoding processes."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimisation steps in what Lightning calls an epoch."""
        if self.own_steps_per_epoch is not None:
            return self.own_steps_per_epoch
        turns = [math.ceil(member.texts.size("train") / member.batch_size) for member in self.members.values()]
        return max(turns) * (len(turns) if self.combine == "round_robin" else 1)

    def media_requests(self, splits: Sequence[Split]) -> Iterator[MediumRequest]:
        """All media of these splits, for the feature cache."""
        for member in self.members.values():
            for split in splits:
                yield from member.texts.media(split)

    def sample_media(self, num_media: int = 300) -> Iterator[np.ndarray]:
        """Media of the first training texts, as frames or features; those that cannot be read are passed over."""
        share = math.ceil(num_media / len(self.members))
        for member in self.members.values():
            requests = islice(member.texts.media("train"), share)
            while readings := [self._media.begin(request) for request in islice(requests, READ_TOGETHER)]:
                for reading in readings:
                    try:
                        yield reading.result()
                    except VideoError as error:
                        logger.warning("%s", error)

    def plan_step(self, step: int, rank: int = 0, num_processes: int = 1) -> list[PlannedPart]:
        """What each dataset that takes part gives to a step on one process.

        Every process has as many forward passes, some perhaps of no text.
        """
        names = list(self.members)
        if self.combine == "round_robin":
            names, step = [names[step % len(names)]], step // len(names)
        chosen = [(name, self._chosen(name, step)) for name in names]
        if self.combine == "merged":
            chosen = [("merged", [text for _, texts in chosen for text in texts])]
        return [
            PlannedPart(
                name,
                1.0 if self.combine == "merged" else self.members[name].weight,
                passes_of(texts, rank, num_processes, self.micro_batch_size),
            )
            for name, texts in chosen
        ]

    def _chosen(self, name: str, step: int) -> NamedTexts:
        member = self.members[name]
        chosen = member.texts.choose(step, member.batch_size, self.seed)
        return [(name, member.texts.plan("train", index, draw)) for index, draw in chosen]

    @property
    def _media(self) -> MediaReader:
        if self._reader is None:
            cache = None if self.features is None else FeatureCache(Path(self.features).expanduser(), self.vision)
            self._reader = MediaReader(cache, self.num_workers)
        return self._reader

    def train_dataloader(self) -> StepLoader:
        """From the step after the last one taken."""
        trainer = self.trainer
        assert trainer is not None  # Lightning sets it before it asks
        return StepLoader(
            lambda step: self.plan_step(step, trainer.global_rank, trainer.world_size),
            self._media,
            self.steps_per_epoch,
            lambda: trainer.global_step,
            prefetch_steps=self.prefetch_steps,
            max_failed_share=self.max_failed_share,
        )

    def val_dataloader(self) -> list[TextLoader]:
        """One loader for each dataset with a validation split."""
        return self._text_loaders("validate")

    def test_dataloader(self) -> list[TextLoader]:
        """One loader for each dataset with a test split.

        Raises:
            UsageError: if there is none.
        """
        loaders = self._text_loaders("test")
        if not loaders:
            raise UsageError("no dataset of this recipe has a test split; use `videoflamingo validate`, or add one")
        return loaders

    def predict_dataloader(self) -> list[TextLoader]:
        """The test splits, or where no dataset has one the validation splits."""
        return self._text_loaders("test") or self._text_loaders("validate")

    def _text_loaders(self, split: Split) -> list[TextLoader]:
        rank, num_processes = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return [
            TextLoader(
                name,
                member.texts,
                split,
                self._media,
                min(member.batch_size, self.micro_batch_size or member.batch_size),
                rank,
                num_processes,
            )
            for name, member in self.members.items()
            if member.texts.size(split)
        ]


def passes_of(texts: NamedTexts, rank: int, num_processes: int, most: int | None) -> list[NamedTexts]:
    """One process's share of texts, cut into forward passes, of which every process has as many.

    Example:
        >>> [len(own) for own in passes_of([("", None)] * 7, rank=1, num_processes=2, most=2)]
        [2, 1]
    """
    own = texts[rank::num_processes]
    largest = math.ceil(len(texts) / num_processes)
    num_passes = 1 if most is None else max(1, math.ceil(largest / most))
    edges = [math.ceil(len(own) * edge / num_passes) for edge in range(num_passes + 1)]
    return [own[start:stop] for start, stop in pairwise(edges)]
