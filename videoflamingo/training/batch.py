"""What one optimisation step is made of: a batch or more of each dataset, prompts as segments, media as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from videoflamingo.prompt import MediaOfText, Segment
from videoflamingo.training.texts import PlannedText
from videoflamingo.video.medium import MediumRequest


@dataclass(frozen=True, eq=False)
class Sample:
    """One text with its media as arrays.

    Args:
        text: as planned.
        media: for each place of a medium: frames uint8 `[T, 3, height, width]`, or raw tower features float16
            `[T, P, D]`. The same array twice is encoded once.
        name: which dataset it is of.
    """

    text: PlannedText
    media: list[np.ndarray]
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.text.media) != len(self.media):
            raise ValueError(
                f"Sample {self.name!r}: {len(self.text.media)} media are asked for, but {len(self.media)} given"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """B texts of one forward pass, and their media, each distinct one once.

    Args:
        texts: as planned.
        features: raw tower features `[F', P, D]`, float16, of media that came as features; None if there is none.
        frames: uint8 `[T, 3, height, width]` each, of media that came as frames; their features follow the others'.
        frame_index: `[B, M, T]`, int64 into the features of both, -1 = padding.
        names: the dataset of each text.
    """

    texts: list[PlannedText]
    features: Tensor | None
    frames: list[Tensor]
    frame_index: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def to(self, device: object) -> "Batch":
        """As it is: each forward pass moves what it needs. Lightning asks before that."""
        return self

    @property
    def prompts(self) -> list[list[Segment]]:
        """The segments of each text."""
        return [text.segments for text in self.texts]

    @property
    def media_of_text(self) -> list[MediaOfText]:
        """For each text, which medium it belongs to."""
        return [text.media_of_text for text in self.texts]

    @property
    def requests(self) -> list[list[MediumRequest]]:
        """Where the media of each text come from."""
        return [text.media for text in self.texts]

    @property
    def num_media(self) -> int:
        """Media shown in all texts together."""
        return int((self.frame_index >= 0).any(-1).sum())


@dataclass(frozen=True, eq=False)
class Part:
    """What one dataset gives to a step on this process.

    Args:
        name: of the dataset.
        weight: of its mean loss.
        batches: one for each forward pass; on every process as many, some perhaps empty.
    """

    name: str
    weight: float
    batches: list[Batch]


@dataclass(frozen=True, eq=False)
class Step:
    """One optimisation step on this process.

    Args:
        index: counted from 0 over the whole run.
        parts: of the datasets that take part, in the recipe's order.
        waited_seconds: how long the trainer waited for it.
        failed: media that could not be read, each with the reason; texts that need them are left out.
    """

    index: int
    parts: list[Part]
    waited_seconds: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: object) -> "Step":
        """As it is, like `Batch.to`."""
        return self


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, also none at all; a medium that appears twice is stored once.

    Example:
        >>> from videoflamingo.prompt import Medium, Text
        >>> request = MediumRequest("cat.mp4")
        >>> clip = np.zeros((2, 4, 3), np.float16)
        >>> batch = collate([Sample(PlannedText([Medium(), Text("a")], [request]), [clip]),
        ...                  Sample(PlannedText([Text("b"), Medium()], [request]), [clip])])
        >>> batch.features.shape, batch.frame_index.tolist()
        (torch.Size([2, 4, 3]), [[[0, 1]], [[0, 1]]])
    """
    distinct: dict[int, np.ndarray] = {}
    for sample in samples:
        for medium in sample.media:
            distinct.setdefault(id(medium), medium)
    features = [medium for medium in distinct.values() if medium.ndim == 3]
    frames = [medium for medium in distinct.values() if medium.ndim == 4]
    first_frame: dict[int, int] = {}
    count = 0
    for medium in (*features, *frames):
        first_frame[id(medium)] = count
        count += len(medium)
    num_media = max((len(sample.media) for sample in samples), default=0)
    longest = max((len(medium) for medium in distinct.values()), default=0)
    frame_index = torch.full((len(samples), num_media, longest), -1)
    for row, sample in enumerate(samples):
        for column, medium in enumerate(sample.media):
            start = first_frame[id(medium)]
            frame_index[row, column, : len(medium)] = torch.arange(start, start + len(medium))
    return Batch(
        [sample.text for sample in samples],
        torch.from_numpy(np.concatenate(features)) if features else None,
        [torch.from_numpy(np.ascontiguousarray(medium)) for medium in frames],
        frame_index,
        [sample.name for sample in samples],
    )
