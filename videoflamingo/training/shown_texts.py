"""Texts of a batch as people look at them: the frames of their media as small pictures, with times."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.evaluation.page_parts import data_url
from videoflamingo.training.batch import Batch
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip

MOST_FRAMES = 8  # of one medium
MOST_MEDIA = 4  # of one text


@dataclass(frozen=True)
class ShownMedium:
    """A video or picture on a page.

    Args:
        name: path or address.
        frames: `data:` URLs of JPEGs.
        times_seconds: of each; None where they are not known.
        num_frames: how many the model sees, of which `frames` may be some.
        note: what is wrong with it, or empty.
    """

    name: str
    frames: tuple[str, ...] = ()
    times_seconds: tuple[float, ...] | None = None
    num_frames: int = 0
    note: str = ""


def first_texts(batch: Batch, count: int) -> Batch:
    """A batch of the first texts of another, with their media only."""
    frame_index = batch.frame_index[:count]
    used = frame_index[frame_index >= 0].unique()  # sorted
    position = torch.full((int(used.max()) + 1 if len(used) else 0,), -1)
    position[used] = torch.arange(len(used))
    num_features = 0 if batch.features is None else len(batch.features)
    features = used[used < num_features]
    frames, start = [], num_features
    for clip in batch.frames:
        if ((used >= start) & (used < start + len(clip))).any():  # a medium's frames are used together
            frames.append(clip)
        start += len(clip)
    own_index = frame_index.clone()
    own_index[frame_index >= 0] = position[frame_index[frame_index >= 0]]
    return Batch(
        batch.texts[:count],
        batch.features[features] if batch.features is not None and len(features) else None,
        frames,
        own_index,
        batch.names[:count],
    )


def shown_media(batch: Batch, row: int) -> list[ShownMedium]:
    """The first few media of a text: the frames the model sees, where the batch has them, else read from the file."""
    media = []
    for column, request in enumerate(batch.requests[row][:MOST_MEDIA]):
        media.append(_shown(request, _frames_in(batch, row, column)))
    return media


def read_medium(request: MediumRequest) -> Clip:
    """The frames asked for, changed as asked for, with their times.

    Raises:
        VideoError: if the file cannot be read.
        UsageError: if it has no such frames.
    """
    if request.reading.reader == "decord":  # never in this process
        with DecodePool(1) as pool:
            clip = pool.read(request.opened(), request.sampling, request.reading, request.seed).result()
    else:
        rng = None if request.seed is None else np.random.default_rng(request.seed)
        with open_video(request.opened(), request.reading) as video:
            clip = read_clip(video, request.sampling, rng, tolerance_seconds=request.reading.tolerance_seconds)
    times = request.times(clip.pts_seconds).copy()
    return Clip(np.ascontiguousarray(request.changed(clip.frames)), times, clip.source, clip.reader)


def _frames_in(batch: Batch, row: int, column: int) -> np.ndarray | None:
    """A medium's frames as the batch holds them; None if it came as features."""
    first = int(batch.frame_index[row, column, 0])
    start = 0 if batch.features is None else len(batch.features)
    for clip in batch.frames:
        if start <= first < start + len(clip):
            return clip.cpu().numpy()
        start += len(clip)
    return None


def _shown(request: MediumRequest, frames: np.ndarray | None) -> ShownMedium:
    times, note = None, ""
    try:
        clip = read_medium(request)
    except (VideoError, UsageError) as error:
        note = f"the file cannot be read any more: {error}"
    else:
        if frames is None:
            frames = clip.frames
        times = clip.pts_seconds if len(clip) == len(frames) else None
    if frames is None:
        return ShownMedium(request.name, note=note)
    kept = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int))
    return ShownMedium(
        request.name,
        tuple(data_url(Image.fromarray(np.ascontiguousarray(frames[index].transpose(1, 2, 0)))) for index in kept),
        None if times is None else tuple(float(times[index]) for index in kept),
        len(frames),
        note,
    )
