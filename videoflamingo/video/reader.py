"""What a reader is, which one to open, and how a clip is read from it.

Times are seconds after the video's first shown frame, whatever the file's own clock says (`VideoInfo.start_seconds`),
so the same request means the same moment in every copy of a video. A picture is a video of one frame at 0 s.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, Self

import numpy as np

from videoflamingo.clip import Clip, VideoInfo
from videoflamingo.errors import SamplingError, UsageError
from videoflamingo.video.decord_reader import DecordReader
from videoflamingo.video.folder import FolderReader
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.picture import HEAD_BYTES, AnimationReader, PictureReader, is_animated_webp, is_picture
from videoflamingo.video.pyav import Allocate, PyavReader
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import Source, SourceFile
from videoflamingo.video.torchcodec_reader import TorchcodecReader


class VideoReader(Protocol):
    """Frames by time from one source; closes with its `with` block."""

    @property
    def name(self) -> str:
        """Name of the reader, as `Clip.reader` reports it."""

    @property
    def reason(self) -> str:
        """Why this reader was opened, as `Clip.reader_reason` reports it."""

    @property
    def info(self) -> VideoInfo:
        """What the source is."""

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """Frames shown at these times, `[T, 3, height, width]` uint8, and the times each was really shown at, `[T]`.

        `allocate` makes the memory the frames are written to, of shape `(T, height, width, 3)`.
        """

    def close(self) -> None:
        """Release the source."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def open_video(source: Source, options: ReadOptions | None = None, *, killable: bool = False) -> VideoReader:
    """Open a video, a picture or a folder of numbered pictures.

    `"auto"` is PyAV for every video: it is exact on all kinds of files (docs/readers.md) and the fastest of the three
    (docs/decisions/0015). Pictures and folders have readers of their own under any name.

    Args:
        source: a path, URL, bytes or a binary file; whether it is a picture is judged by its content.
        options: which reader, and how.
        killable: whether this process will be killed if it hangs; only then decord may run.

    Raises:
        UsageError: if the reader is decord and this process is not to be killed; if a package is missing.
        VideoError: if the source cannot be read, or not rightly by the reader named.
    """
    options = options or ReadOptions()
    file = SourceFile.of(source)
    file.check()
    if options.reader == "decord" and not killable:
        raise UsageError(
            "reader='decord' can hang beyond interruption, so it is not opened in this process; "
            "use load_clip(..., reader='decord') or a DecodePool, which run it in one that can be killed"
        )
    if file.is_folder:
        return FolderReader(file, options, "a folder of numbered pictures")
    if options.images_per_second is not None:
        raise UsageError(
            f"{file.name}: images_per_second={options.images_per_second} is for folders of numbered pictures; leave it "
            "out"
        )
    head = file.head(HEAD_BYTES)
    if is_picture(file, head):
        return PictureReader(file, options, "a still picture")
    if is_animated_webp(file, head):
        return AnimationReader(file, options, "FFmpeg cannot read animated WebP")
    if options.reader in ("auto", "pyav"):
        why = "exact for every kind of file"
        if options.tolerance_seconds:
            why = f"takes keyframes within {options.tolerance_seconds:g} s"
        return PyavReader(file, options, "named" if options.reader == "pyav" else why)
    with PyavReader(file, replace(options, num_threads=1)) as video:
        info = video.info
    reader = TorchcodecReader if options.reader == "torchcodec" else DecordReader
    return reader(file, options, info)


def read_clip(
    video: VideoReader,
    sampling: Sampling,
    rng: np.random.Generator | None = None,
    allocate: Allocate = np.empty,
    tolerance_seconds: float = 0.0,
) -> Clip:
    """Sample one clip from an open video; a picture gives its one frame, whatever number was asked for.

    Args:
        rng: where `"random"` and `"window"` sampling draw from.
        allocate: makes the memory for the frames.
        tolerance_seconds: what the video was opened with, to be recorded.

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
    frames, pts_seconds = video.frames_at(times, allocate)
    kept = sampling.kept(info.source, pts_seconds)
    if not kept.all():
        frames, pts_seconds = frames[kept], pts_seconds[kept]
    return Clip(frames, pts_seconds, info.source, video.name, video.reason, tolerance_seconds)
