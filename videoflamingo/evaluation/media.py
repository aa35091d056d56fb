"""The media of an evaluation: requests -> clips, read in processes that survive any file, in order or shuffled."""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image

from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.evaluation.benchmark import Example
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip

SHUFFLE = 0x73687566  # keeps this draw apart from others made of the same seed
SHOWN_SIDE = 320  # pixels of the longer side of a frame on a page


@dataclass(frozen=True)
class MediumKey:
    """A medium as it is shown.

    Args:
        request: which frames of which file.
        shuffled_by: show the frames in a random order drawn from this seed; None leaves them.
    """

    request: MediumRequest
    shuffled_by: int | None = None


class ClipLoader:
    """Reads media for a `MediaStore`. Close it, best by `with`.

    Args:
        num_workers: processes that read, each file within a deadline; 0 reads in this process.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self.pool = DecodePool(num_workers) if num_workers else None

    def __call__(self, keys: Sequence[Hashable]) -> Iterator[Clip | VideoError | SamplingError]:
        """The clip of each key, or why it cannot be read, in order; keys of one request side by side are read once."""
        wanted = cast(Sequence[MediumKey], keys)
        together = [(request, list(same)) for request, same in itertools.groupby(wanted, key=lambda key: key.request)]
        for same, read in self._read(together):
            try:
                clip = read()
            except (VideoError, SamplingError) as error:
                yield from [error] * len(same)
            else:
                yield from (shown(key, clip) for key in same)

    def _read(
        self, together: Sequence[tuple[MediumRequest, list[MediumKey]]]
    ) -> Iterator[tuple[list[MediumKey], Callable[[], Clip]]]:
        if self.pool is None:
            yield from ((same, functools.partial(_read_here, request)) for request, same in together)
        else:
            begun = self.pool.map_in_order(together, lambda one: self._begin(one[0]))
            yield from ((same, future.result) for (_, same), future in begun)

    def _begin(self, request: MediumRequest) -> Future[Clip]:
        assert self.pool is not None
        try:
            return self.pool.read(request.opened(), request.sampling, request.reading, request.seed)
        except VideoError as error:  # a part of a file that cannot be read
            failed: Future[Clip] = Future()
            failed.set_exception(error)
            return failed

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.close(wait=False)

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _read_here(request: MediumRequest) -> Clip:
    if request.reading.reader == "decord":  # never in this process
        with DecodePool(1) as pool:
            return pool.read(request.opened(), request.sampling, request.reading, request.seed).result()
    rng = None if request.seed is None else np.random.default_rng(request.seed)
    with open_video(request.opened(), request.reading) as video:
        return read_clip(video, request.sampling, rng, tolerance_seconds=request.reading.tolerance_seconds)


def shown(key: MediumKey, clip: Clip) -> Clip:
    """A clip as it was read -> as it is shown; each frame keeps its time.

    Args:
        clip: as its request's file has it.
    """
    frames = key.request.changed(clip.frames)
    times = key.request.times(clip.pts_seconds)
    if key.shuffled_by is not None:
        order = shuffled_order(times, key.shuffled_by)
        frames, times = frames[order], times[order]
    return Clip(np.ascontiguousarray(frames), times.copy(), clip.source, clip.reader, clip.reader_reason)


def shuffled_order(times: np.ndarray, seed: int) -> np.ndarray:
    """A random order `[T]` of frames, in which they are not in their own order, where they differ at all.

    Args:
        times: `[T]`, seconds; equal times are one frame shown twice.

    Example:
        >>> shuffled_order(np.array([0.0, 1.0, 2.0]), seed=1).tolist() != [0, 1, 2]
        True
    """
    rng = np.random.default_rng([SHUFFLE, seed])
    order = rng.permutation(len(times))
    while len(np.unique(times)) > 1 and np.array_equal(times[order], times):
        order = rng.permutation(len(times))
    return order


def small_frames(example: Example) -> list[Image.Image]:
    """The frames of an example for a page, in order.

    Raises:
        VideoError, SamplingError: if the file cannot be read any more.
    """
    with ClipLoader() as load:
        (clip,) = load([MediumKey(example.medium)])
    if not isinstance(clip, Clip):
        raise clip
    pictures = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in clip.frames]
    for picture in pictures:
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return pictures
