"""`load_clip`: one call from a path to a `Clip`."""

import os

import numpy as np

from videoflamingo.clip import Clip
from videoflamingo.video.reader import check_reader, open_video, read_clip
from videoflamingo.video.sampling import Sampling, SamplingMethod, ShortPolicy
from videoflamingo.video.worker import read_isolated


def load_clip(
    source: str | os.PathLike[str],
    *,
    num_frames: int = 8,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    sampling: SamplingMethod = "uniform",
    frames_per_second: float | None = None,
    max_frames: int | None = None,
    short: ShortPolicy = "repeat",
    reader: str = "auto",
    rng: np.random.Generator | None = None,
    isolated: bool = False,
    deadline_seconds: float = 60.0,
) -> Clip:
    """Sample frames of a video file, or the one frame of a picture.

    >>> clip = load_clip("bikes.mp4", num_frames=4)  # doctest: +SKIP
    >>> clip  # doctest: +SKIP
    Clip(bikes.mp4: 4 frames 640x272, 1.240 to 8.720 s, pyav)

    Args:
        source: path of the file.
        num_frames: how many frames; a picture always gives one.
        start_seconds, end_seconds: the part `[start, end)` to sample, counted from the first shown frame; None for the
            video's own ends.
        sampling: `"uniform"`, `"endpoints"`, `"fps"` or `"random"`; see `videoflamingo.video.sampling`.
        frames_per_second, max_frames: for `"fps"`.
        short: `"repeat"`, `"distinct"` or `"error"`, for when fewer distinct frames exist than were asked for.
        reader: `"auto"`, `"pyav"` or `"decord"`. decord always runs isolated; `"auto"` is PyAV in this process, and
            decord where it suits the file in an isolated one.
        rng: for `"random"`; one number is drawn from it, so the clip does not depend on where it is read.
        isolated: read in a process of its own (0.3 s to start), which is killed at the deadline.
        deadline_seconds: for isolated reading.

    Raises:
        UsageError: if the reader does not exist.
        SamplingError: if the request is wrong in itself or does not fit the video.
        VideoError: if the source cannot be read, or not before the deadline.
    """
    check_reader(reader)
    plan = Sampling(sampling, num_frames, frames_per_second, max_frames, start_seconds, end_seconds, short)
    seed = None if rng is None or sampling != "random" else int(rng.integers(2**63))
    if isolated or reader == "decord":
        return read_isolated(os.fspath(source), plan, reader=reader, seed=seed, deadline_seconds=deadline_seconds)
    with open_video(source, reader) as video:
        return read_clip(video, plan, None if seed is None else np.random.default_rng(seed))
