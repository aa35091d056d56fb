"""What a datamodule hands to the training module: prompts as segments, and the distinct frames they refer to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videoflamingo.prompt import Medium, Segment


@dataclass(frozen=True, eq=False)
class Sample:
    """One training text with its media.

    Args:
        segments: the prompt with its answers.
        media: raw tower features of each medium, `[T, P, D]`, float16; the same array twice is encoded once.
        name: which dataset and task it is of, for the logs.
        readout: what the first medium's visual tokens must say in the warm-up (see `videoflamingo.training.readout`):
            each text by an equal part of them, in order. Empty = the first answer, by all of them.
    """

    segments: list[Segment]
    media: list[np.ndarray]
    name: str = ""
    readout: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        places = sum(isinstance(segment, Medium) for segment in self.segments)
        if places != len(self.media):
            raise ValueError(
                f"Sample {self.name!r}: the prompt has places for {places} media, but {len(self.media)} given"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of B samples; features `[F, P, D]` of their distinct frames; frame_index `[B, M, T]`, -1 = padding."""

    prompts: list[list[Segment]]
    features: Tensor
    frame_index: Tensor
    names: list[str]
    readouts: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.prompts)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; a medium that appears twice is stored once.

    Example:
        >>> from videoflamingo.prompt import Text
        >>> frames = np.zeros((2, 4, 3), np.float16)
        >>> batch = collate([Sample([Medium(), Text("a")], [frames]), Sample([Text("b"), Medium()], [frames])])
        >>> batch.features.shape, batch.frame_index.tolist()
        (torch.Size([2, 4, 3]), [[[0, 1]], [[0, 1]]])
    """
    first_frame: dict[int, int] = {}
    distinct: list[np.ndarray] = []
    num_media = max(len(sample.media) for sample in samples)
    longest = max((len(medium) for sample in samples for medium in sample.media), default=0)
    frame_index = torch.full((len(samples), num_media, longest), -1)
    for row, sample in enumerate(samples):
        for column, medium in enumerate(sample.media):
            if id(medium) not in first_frame:
                first_frame[id(medium)] = sum(len(other) for other in distinct)
                distinct.append(medium)
            start = first_frame[id(medium)]
            frame_index[row, column, : len(medium)] = torch.arange(start, start + len(medium))
    features = torch.from_numpy(np.concatenate(distinct)) if distinct else torch.zeros(0, 1, 1)
    return Batch(
        [sample.segments for sample in samples],
        features,
        frame_index,
        [sample.name for sample in samples],
        [sample.readout for sample in samples],
    )
