"""Frozen tower features of media, kept on disk so that training pays for decoding and encoding once.

    FOLDER/contents.jsonl     what is known of files: path, size and time, digest of all bytes
    FOLDER/<digest>/          shards of one tower, sampling and way of reading; see `feature_shards`

A medium is known by its content, so a moved file is found again and a changed one is not taken for the old.
`feature_making` makes the features, this file reads them. See docs/feature_cache.md.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoflamingo.errors import ModelError, UsageError, VideoError
from videoflamingo.models.vision import VisionConfig, VisionTower
from videoflamingo.training.content import Content, ContentMemo
from videoflamingo.training.feature_shards import FeatureShards, sections
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import DRAWN, Sampling

FEATURES_VERSION = 1  # raised whenever the same media would give other features; older ones are then left alone
CONTENTS = "contents.jsonl"


@torch.no_grad()
def encode_frames(tower: VisionTower, frames: Sequence[Tensor | np.ndarray]) -> Tensor:
    """What a frozen tower makes of frames, rounded to what the cache keeps; training without a cache rounds, too.

    Args:
        frames: uint8 `[T, 3, height, width]` of each medium, of any sizes.

    Returns:
        Features `[F, P, D]` of all frames in order, float16, on the tower's device. No more than
        `tower.config.chunk_size` frames are worked on at a time.

    Raises:
        ModelError: if a feature is too large for float16, or no number.
    """
    device = tower.pixel_mean.device
    encoded, largest = [torch.zeros(0, tower.num_patches, tower.width, dtype=torch.float16, device=device)], []
    with torch.autocast(device.type, enabled=False):  # the same whether or not training uses it
        for pieces in _chunks(frames, tower.config.chunk_size):
            pixels = torch.cat([tower.preprocess(piece.to(device)) for piece in pieces])  # [F', 3, size, size]
            features = tower(pixels)  # [F', P, D]
            largest.append(features.abs().amax().float())
            encoded.append(features.to(torch.float16))
        joined = torch.cat(encoded)
    if largest:  # asked once, because the device has to be waited for
        value = torch.stack(largest).amax()
        if not value.to(torch.float16).isfinite():
            name, dtype = tower.config.tower, str(next(tower.backbone.parameters()).dtype).removeprefix("torch.")
            raise ModelError(
                f"vision tower {name!r}: a feature, computed in {dtype}, is {float(value):g}; features are kept as "
                f"float16, which ends at {torch.finfo(torch.float16).max:g}; choose another tower, another "
                "VisionConfig.features, or bfloat16 or float32 for the tower"
            )
    return joined


def _chunks(frames: Sequence[Tensor | np.ndarray], size: int) -> Iterator[list[Tensor]]:
    """`size` frames at a time, as pieces of media; the last may be fewer."""
    chunk: list[Tensor] = []
    room = size
    for medium in frames:
        rest = medium if isinstance(medium, Tensor) else torch.from_numpy(np.ascontiguousarray(medium))
        while len(rest):
            chunk.append(rest[:room])
            room, rest = room - len(chunk[-1]), rest[room:]
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


class FeatureCache:
    """Features of media, for reading.

    Args:
        folder: of the cache.
        vision: the tower.

    Raises:
        UsageError: if there is no such cache.
    """

    def __init__(self, folder: str | os.PathLike[str], vision: VisionConfig) -> None:
        self.folder = Path(folder)
        sections(self.folder)  # raises where there is no folder
        self._contents = ContentMemo(self.folder / CONTENTS)
        self._tower = tower_key(vision, self._contents)
        self._shards: dict[tuple[Sampling, ReadOptions], FeatureShards] = {}

    def find(self, request: MediumRequest) -> np.ndarray | None:
        """Raw features float16 `[T, P, D]` of a medium as it lies in its file, mapped and read-only.

        A file is read only if it was not there when the cache was made, or changed since.

        Returns:
            None if they are not in the cache. How the request changes frames is left to the caller
            (`request.changed`).

        Raises:
            VideoError: if the medium is gone, or could not be read when the cache was made.
            UsageError: if the request is of a kind that cannot be cached, or the cache is damaged.
        """
        check_cacheable(request)
        shards = self._shards_for(request)
        if not shards and not shards.failed:
            return None  # without reading the file
        key = medium_key(self._contents.of(request.source), request.sampling)
        if key in shards.failed:
            raise VideoError(
                f"{request.name}: {shards.failed[key]} (so the feature cache {self.folder} says; `videoflamingo "
                "cache-features --retry-failed` tries it again)"
            )
        return shards.get(key)

    def _shards_for(self, request: MediumRequest) -> FeatureShards:
        settings = settings_of(request)
        if settings not in self._shards:
            shards = FeatureShards(self.folder / section_name(section_key(self._tower, *settings)))
            shards.check()
            self._shards[settings] = shards
        return self._shards[settings]


def check_cacheable(request: MediumRequest) -> None:
    """Refuse what would have other features each time.

    Raises:
        UsageError: naming the option and what to do.
    """
    if request.sampling.method in DRAWN:
        raise UsageError(
            f"{request.name}: frames at random times (sampling={request.sampling.method!r}) are others each time, so "
            "their features cannot be cached; use sampling='uniform', or leave out data.features"
        )
    if request.colour_seed is not None:
        raise UsageError(
            f"{request.name}: frames of changed colours are others each time, so their features cannot be cached; set "
            "colour_share to 0, or leave out data.features"
        )


def settings_of(request: MediumRequest) -> tuple[Sampling, ReadOptions]:
    """What requests of one folder of shards have in common; which part of a video is meant, is each medium's own."""
    return (
        replace(request.sampling, start_seconds=None, end_seconds=None),
        replace(request.reading, num_threads=None),
    )


def medium_key(content: Content, sampling: Sampling) -> str:
    """What a medium is called among shards: what it consists of, and the part that is meant."""
    if sampling.start_seconds is None and sampling.end_seconds is None:
        return content.digest
    ends = ("" if end is None else repr(float(end)) for end in (sampling.start_seconds, sampling.end_seconds))
    return f"{content.digest}[{','.join(ends)})"


def section_key(tower: dict[str, Any], sampling: Sampling, reading: ReadOptions) -> dict[str, Any]:
    """All that the features of a folder of shards depend on."""
    parts = {"tower": tower, "sampling": asdict(sampling), "reading": asdict(reading)}
    of_media = ("start_seconds", "end_seconds", "num_threads")  # or without effect
    plain = {
        part: {name: _plain(value) for name, value in values.items() if name not in of_media}
        for part, values in parts.items()
    }
    return {"version": FEATURES_VERSION, **plain}


def _plain(value: Any) -> Any:
    """The same number as the same text: 25 and 25.0."""
    if isinstance(value, np.integer) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def tower_key(vision: VisionConfig, contents: ContentMemo) -> dict[str, Any]:
    """The configuration without what changes no feature; weights in a file of the user's go by their content."""
    source, _, rest = vision.tower.partition(":")
    name, _, path = rest.partition("@") if source == "file" else ("", "", rest if source == "local-dir" else "")
    path = os.path.expanduser(path)
    tower = vision.tower
    if path and os.path.exists(path):
        tower = f"{source}:{name}@{contents.of(path).digest}"
    return {"tower": tower, "image_size": vision.image_size, "fit": vision.fit, "features": vision.features}


def section_name(key: dict[str, Any]) -> str:
    """Of the folder of shards whose features depend on this."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
