"""The reader on decord: fast on plain files, but it can hang while it holds the interpreter lock.

So it only runs in a process that can be killed (see `worker`). decord rotates frames itself and gives times after the
stream's start. What the file is, duration and clock included, comes from PyAV for every reader, so that all readers
mean the same by the same time.

decord 0.6 numbers frames by storage order after a seek. Where that is not the order they are shown in (open GOPs, which
x265 writes by default, and edit lists) it silently returns frames some places off, so such files are refused here.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video import probe

# decord keeps times as float32: after an hour they are good to a quarter of a millisecond.
_TIME_TOLERANCE_SECONDS = 1e-3

_SAFE_CODECS = ("h264", "hevc", "vp9")


def decord_suits(info: VideoInfo) -> bool:
    """Whether `"auto"` opens decord here: installed, a codec it knows, constant rate, no edit list, starting at 0."""
    return (
        find_spec("decord") is not None
        and info.codec in _SAFE_CODECS
        and info.variable_frame_rate is False
        and info.edit_list is False
        and info.start_seconds == 0
    )


class DecordReader:
    """Frames of one video file by time, through decord; with the contract of `PyavReader`.

    Args:
        source: path of a video file.
        info: what PyAV found in it.

    Raises:
        UsageError: if decord is not installed.
        VideoError: if decord cannot open the file, or would return wrong frames.
    """

    name = "decord"

    def __init__(self, source: str, info: VideoInfo) -> None:
        try:
            import decord
        except ImportError as error:
            raise UsageError("reader 'decord' needs the decord package: pip install decord") from error
        if info.edit_list:
            raise _wrong_frames(source, "an edit list hides some of its frames")
        if probe.has_open_gops(source):
            raise _wrong_frames(source, "it has frames that are stored after a keyframe and shown before it")
        self.info = info
        self._source = source
        # What its Python and its library raise at damaged files.
        self._errors = (decord.base.DECORDError, RuntimeError, AssertionError, IndexError)
        try:
            self._decord: Any = decord.VideoReader(source, num_threads=1)
            spans = self._decord.get_frame_timestamp(range(len(self._decord)))  # [frames, 2], start and end
        except self._errors as error:
            raise self._failed(error) from error
        self._starts = spans[:, 0].astype(np.float64)  # [frames]

    def frames_at(self, times_seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times, as `PyavReader.frames_at`; times got are good to 0.5 ms after an hour."""
        times = np.asarray(times_seconds, dtype=np.float64)
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
            raise SamplingError(
                f"{self._source}: times_seconds must be one or more finite numbers, got {times_seconds}"
            )
        shown = np.searchsorted(self._starts, times + _TIME_TOLERANCE_SECONDS, side="right") - 1
        shown = np.maximum(shown, 0)
        try:
            frames = self._decord.get_batch(shown.tolist()).asnumpy()  # [T, height, width, 3]
        except self._errors as error:
            raise self._failed(error) from error
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), self._starts[shown]

    def close(self) -> None:
        """Free the decoder; the reader cannot be used after."""
        self._decord = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _failed(self, error: Exception) -> VideoError:
        cause = str(error).strip().splitlines()
        # decord puts the location first and its stack after: the sentence follows the last "] " of the first line.
        sentence = cause[0].rsplit("] ", 1)[-1] if cause else type(error).__name__
        return VideoError(f"{self._source}: decord cannot read it ({sentence}); use the reader 'pyav' or 'auto'")


def _wrong_frames(source: str, reason: str) -> VideoError:
    return VideoError(
        f"{source}: decord would return wrong frames of this file, because {reason}; use the reader 'pyav' or 'auto'"
    )
