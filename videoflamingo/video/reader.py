"""What a reader is, which one to open, and how a clip is read from it.

Times are seconds after the video's first shown frame, whatever the file's own clock says (`VideoInfo.start_seconds`),
so the same request means the same moment in every copy of a video. A picture is a video of one frame at 0 s.
"""

import os
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from videoflamingo.clip import Clip, VideoInfo
from videoflamingo.errors import SamplingError, UsageError
from videoflamingo.video.decord_reader import DecordReader, decord_suits
from videoflamingo.video.picture import PictureReader, is_picture
from videoflamingo.video.probe import check_file
from videoflamingo.video.pyav import PyavReader
from videoflamingo.video.sampling import Sampling

READERS = ("auto", "pyav", "decord")


class VideoReader(Protocol):
    """Frames by time from one source; closes with its `with` block."""

    @property
    def name(self) -> str:
        """Name of the reader, as `Clip.reader` reports it."""

    @property
    def info(self) -> VideoInfo:
        """What the source is."""

    def frames_at(self, times_seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Frames shown at these times, `[T, 3, height, width]` uint8, and the times each was really shown at, `[T]`."""

    def close(self) -> None:
        """Release the source."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def open_video(source: str | os.PathLike[str], reader: str = "auto") -> VideoReader:
    """Open a video or picture in this process.

    Args:
        source: path of a file; whether it is a picture is judged by its content.
        reader: `"auto"` or `"pyav"`, which are the same here. Pictures are read by Pillow under any name.

    Raises:
        UsageError: if the reader does not exist, or is `"decord"`, which only runs where it can be killed.
        VideoError: if the source cannot be read.
    """
    check_reader(reader)
    if reader == "decord":
        raise UsageError(
            "reader='decord' can hang beyond interruption, so it is not opened in this process; "
            "use load_clip(..., reader='decord'), which runs it in one that can be killed"
        )
    source = os.fspath(source)
    check_file(source)
    return PictureReader(source) if is_picture(source) else PyavReader(source)


def open_video_to_be_killed(source: str, reader: str = "auto") -> VideoReader:
    """Open a video or picture in a process that someone else will kill if it hangs: there decord may run.

    Args:
        source: path of a file.
        reader: as named, or `"auto"`: decord where it suits the file, PyAV elsewhere.

    Raises:
        VideoError: if the source cannot be read, or not rightly by decord.
        UsageError: if decord is named and not installed.
    """
    opened = open_video(source)
    if opened.name == "picture" or reader == "pyav" or (reader == "auto" and not decord_suits(opened.info)):
        return opened
    opened.close()
    return DecordReader(source, opened.info)


def check_reader(reader: str) -> None:
    """Refuse a reader that does not exist.

    Raises:
        UsageError: naming those that do.
    """
    if reader not in READERS:
        raise UsageError(f"reader={reader!r} does not exist; use one of {', '.join(READERS)}")


def read_clip(video: VideoReader, sampling: Sampling, rng: np.random.Generator | None = None) -> Clip:
    """Sample one clip from an open video; a picture gives its one frame, whatever number was asked for.

    Args:
        rng: where `"random"` sampling draws from.

    Raises:
        SamplingError: if the range leaves the video, or it is too short for `short="error"`.
        VideoError: if a frame that is needed cannot be decoded.
    """
    info = video.info
    if info.duration_from == "picture":
        if sampling.start_seconds is not None or sampling.end_seconds is not None:
            raise SamplingError(f"{info.source}: is a picture, which has no times; leave out --start and --end")
        times = [0.0]
    else:
        times = sampling.times(info.source, info.duration_seconds, info.last_frame_seconds, rng)
    frames, pts_seconds = video.frames_at(times)
    kept = sampling.kept(info.source, pts_seconds)
    if not kept.all():
        frames, pts_seconds = frames[kept], pts_seconds[kept]
    return Clip(frames, pts_seconds, info.source, video.name)
