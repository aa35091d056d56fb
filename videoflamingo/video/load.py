"""`load_clip`: one call from a source to a `Clip`."""

import numpy as np

from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip
from videoflamingo.video.sampling import DRAWN, Sampling, SamplingMethod, ShortPolicy
from videoflamingo.video.source import Source, split_range


def load_clip(
    source: Source | tuple[Source, float | None, float | None],
    *,
    num_frames: int = 8,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    sampling: SamplingMethod = "uniform",
    frames_per_second: float | None = None,
    max_frames: int | None = None,
    short: ShortPolicy = "repeat",
    reader: str = "auto",
    short_side: int | None = None,
    tolerance_seconds: float = 0.0,
    images_per_second: float | None = None,
    num_threads: int | None = None,
    rng: np.random.Generator | None = None,
    isolated: bool = False,
    deadline_seconds: float = 60.0,
) -> Clip:
    """Sample frames of a video, or the one frame of a picture.

    >>> clip = load_clip("bikes.mp4", num_frames=4)  # doctest: +SKIP
    >>> clip  # doctest: +SKIP
    Clip(bikes.mp4: 4 frames 640x272, 1.240 to 8.720 s, pyav)

    Args:
        source: a path, a URL (`https://`, `s3://`, what fsspec knows), bytes, an open binary file, a folder of numbered
            pictures, or `(source, start_seconds, end_seconds)` for a part of one.
        num_frames: how many frames; a picture always gives one.
        start_seconds, end_seconds: the part `[start, end)` to sample, counted from the first shown frame; None for the
            video's own ends.
        sampling: `"uniform"`, `"endpoints"`, `"fps"`, `"random"` or `"window"`; see `videoflamingo.video.sampling`.
        frames_per_second, max_frames: for `"fps"`; the rate also for `"window"`.
        short: `"repeat"`, `"distinct"` or `"error"`, for when fewer distinct frames exist than were asked for.
        reader, short_side, tolerance_seconds, images_per_second, num_threads: see `ReadOptions`. decord always runs
            isolated.
        rng: for `"random"` and `"window"`; one number is drawn from it, so the clip does not depend on where it is
            read.
        isolated: read in a process of its own (0.3 s to start), which is killed at the deadline. For many clips make
            one `DecodePool`, which keeps its processes.
        deadline_seconds: for isolated reading.

    Raises:
        UsageError: if an option names something that does not exist or a package is missing.
        SamplingError: if the request is wrong in itself or does not fit the video.
        VideoError: if the source cannot be read, or not before the deadline.
    """
    source, part_start, part_end = split_range(source)
    if (part_start, part_end) != (None, None):
        if (start_seconds, end_seconds) != (None, None):
            raise SamplingError("the source is already a part of a video; leave out start_seconds and end_seconds")
        start_seconds, end_seconds = part_start, part_end
    plan = Sampling(sampling, num_frames, frames_per_second, max_frames, start_seconds, end_seconds, short)
    options = ReadOptions(reader, short_side, tolerance_seconds, images_per_second, num_threads)
    seed = None if rng is None or sampling not in DRAWN else int(rng.integers(2**63))
    if isolated or reader == "decord":
        with DecodePool(1, deadline_seconds=deadline_seconds) as pool:
            return pool.read(source, plan, options, seed).result()
    with open_video(source, options) as video:
        return read_clip(
            video, plan, None if seed is None else np.random.default_rng(seed), tolerance_seconds=tolerance_seconds
        )
