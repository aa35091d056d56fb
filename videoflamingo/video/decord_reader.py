"""The reader on decord, for comparison: it can hang while it holds the interpreter lock, and reads few kinds of files.

So it only runs in a process that can be killed (see `pool`). What the file is, duration and clock included, comes from
PyAV for every reader, so that all readers mean the same by the same time; which frame is shown when comes from the
file's packets, and decord only decodes frames by number.

decord 0.6 numbers frames by storage order after a seek. Where that is not the order they are shown in (open GOPs, which
x265 writes by default, and edit lists), or where the container has no list of frames to seek by, it silently returns
frames some places off. Such files are refused here.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.picture import scaled_frame
from videoflamingo.video.pyav import Allocate
from videoflamingo.video.source import SourceFile
from videoflamingo.video.timeline import (
    AGREEMENT_SECONDS,
    Timeline,
    checked_times,
    read_timeline,
    refuse_other_size,
    refuse_tolerance,
    wrong_frames,
)

# Its seeks were right in these; in MPEG-TS, MPEG-PS and ASF they lead elsewhere than it believes, and in AVI its times
# are wrong where frames are stored out of order.
_MATROSKA = "matroska,webm"
_SAFE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", _MATROSKA)


class DecordReader:
    """Frames of one video by time, through decord; with the contract of `PyavReader`.

    With `short_side`, frames are scaled by Pillow after decoding (bicubic, antialiased), not during colour conversion
    as in `PyavReader`, so pixels at edges differ a little. Where a picture is damaged inside, it may return what its
    FFmpeg painted over the damage, where `PyavReader` raises: it does not pass on which frames are broken.

    Args:
        source: what to read; all of it is read into memory if it is not a local file.
        options: of which `reader` is ignored here.
        info: what PyAV found in it.
        reason: why this reader.

    Raises:
        UsageError: if decord is not installed, or a tolerance is asked for.
        VideoError: if decord cannot open the file, or would return wrong frames.
    """

    name = "decord"

    def __init__(self, source: SourceFile, options: ReadOptions | None, info: VideoInfo, reason: str = "named") -> None:
        self._options = options or ReadOptions()
        refuse_tolerance(self._options, self.name)
        try:
            import decord
        except (ImportError, OSError) as error:  # OSError: its library does not fit this machine
            raise UsageError("reader 'decord' needs the decord package: pip install decord") from error
        self.info = info
        self.reason = reason
        self._source = source
        self._timeline = read_timeline(source)
        refused = _why_refused(self._timeline, info)
        if refused:
            raise wrong_frames(source, self.name, refused)
        # What its Python and its library raise at damaged files.
        self._errors = (decord.base.DECORDError, RuntimeError, AssertionError, IndexError)
        try:
            self._decord: Any = decord.VideoReader(source.open(), num_threads=self._options.num_threads or 1)
            starts = self._decord.get_frame_timestamp(range(len(self._decord)))[:, 0]  # [frames]
        except self._errors as error:
            raise self._failed(error) from error
        expected = self._timeline.shown_seconds
        if len(starts) != len(expected):
            raise wrong_frames(source, self.name, f"it counts {len(starts)} frames where {len(expected)} are shown")
        if not np.abs(starts.astype(np.float64) - expected).max() <= AGREEMENT_SECONDS:
            raise wrong_frames(source, self.name, "it gives its frames other times than the file's packets do")

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times, as `PyavReader.frames_at`."""
        times = checked_times(self._source.name, times_seconds)
        shown = self._timeline.numbers_shown_at(times)  # [T]
        numbers = np.unique(shown)
        try:
            frames = self._decord.get_batch(numbers.tolist()).asnumpy()  # [numbers, height, width, 3]
        except self._errors as error:
            raise self._failed(error) from error
        refuse_other_size(self._source, self.name, frames[0], self.info)
        width, height = self._options.scaled_size(self.info.width, self.info.height)
        memory = allocate((len(times), height, width, 3), np.uint8)
        for number, frame in zip(numbers, frames, strict=True):
            memory[shown == number] = scaled_frame(frame, (width, height))
        return memory.transpose(0, 3, 1, 2), self._timeline.shown_seconds[shown]

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
        if "cannot find video stream" in sentence:  # its words for a codec it does not know
            sentence = f"its FFmpeg has no decoder for {self.info.codec}"
        elif "duration/frame-count" in sentence:
            sentence = f"the {self._timeline.container} file does not say how long it is"
        return VideoError(f"{self._source.name}: decord cannot read it ({sentence}); use the reader 'pyav' or 'auto'")


def _why_refused(timeline: Timeline, info: VideoInfo) -> str:
    """What in this file decord is known to read wrongly; empty if nothing."""
    if timeline.hides_frames:
        return "an edit list hides some of its frames"
    if timeline.open_gops:
        return "it has frames that are stored after a keyframe and shown before it"
    if timeline.container not in _SAFE_CONTAINERS:
        return f"its seeks go astray in this kind of container ({timeline.container})"
    if timeline.container == _MATROSKA and info.rotation:
        return "it does not turn pictures as Matroska asks"
    if timeline.num_video_streams > 1:
        return "it may choose another of the file's video streams"
    return timeline.why_not(info)
