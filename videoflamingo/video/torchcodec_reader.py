"""The reader on torchcodec, for comparison; PyAV is faster and reads more files.

torchcodec rotates frames itself. Its frames are asked for by number, ascending, and each must come back with the time
that the file's packets give that number. Files in which it has returned other frames are refused at opening.
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

# Its seeks were right in these; in MPEG-TS, MPEG-PS, AVI and animated PNG they fail or lead to other frames.
_SAFE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "gif", "flv", "asf")

# What it raises at files it cannot read, and at frames it cannot decode.
_ERRORS = (RuntimeError, ValueError, IndexError)


class TorchcodecReader:
    """Frames of one video by time, through torchcodec; with the contract of `PyavReader`.

    With `short_side`, frames are scaled by Pillow after decoding (bicubic, antialiased), not during colour conversion
    as in `PyavReader`, so pixels at edges differ a little. Where a picture is damaged inside, it may return what its
    FFmpeg painted over the damage, where `PyavReader` raises: it does not pass on which frames are broken.

    Args:
        source: what to read.
        options: of which `reader` is ignored here.
        info: what PyAV found in it.
        reason: why this reader.

    Raises:
        UsageError: if torchcodec or FFmpeg's libraries are missing, or a tolerance is asked for.
        VideoError: if torchcodec cannot open the file, or would return wrong frames.
    """

    name = "torchcodec"

    _decoder: Any
    _next_number: int  # the first frame not yet decoded on the way forward

    def __init__(self, source: SourceFile, options: ReadOptions | None, info: VideoInfo, reason: str = "named") -> None:
        self._options = options or ReadOptions()
        refuse_tolerance(self._options, self.name)
        self.info = info
        self.reason = reason
        self._source = source
        self._decoder_class = _video_decoder()
        self._timeline = read_timeline(source)
        refused = _why_refused(self._timeline, info)
        if refused:
            raise wrong_frames(source, self.name, refused)
        self._open()
        if len(self._decoder) != len(self._timeline.shown_seconds):
            raise wrong_frames(
                source,
                self.name,
                f"it counts {len(self._decoder)} frames where {len(self._timeline.shown_seconds)} are shown",
            )

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times, as `PyavReader.frames_at`."""
        times = checked_times(self._source.name, times_seconds)
        shown = self._timeline.numbers_shown_at(times)  # [T]
        numbers = np.unique(shown)
        if numbers[0] < self._next_number:  # going back, torchcodec has returned stale frames of HEVC
            self._open()
        width, height = self._options.scaled_size(self.info.width, self.info.height)
        memory = allocate((len(times), height, width, 3), np.uint8)
        for number in numbers:
            memory[shown == number] = scaled_frame(self._frame(int(number)), (width, height))
        self._next_number = int(numbers[-1]) + 1
        return memory.transpose(0, 3, 1, 2), self._timeline.shown_seconds[shown]

    def close(self) -> None:
        """Free the decoder; the reader cannot be used after."""
        self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            self._decoder = self._decoder_class(
                self._source.open(),
                stream_index=self._timeline.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=self._options.num_threads or 1,
                seek_mode="exact",
                device="cpu",
            )
        except _ERRORS as error:
            raise self._failed(error) from error
        self._next_number = 0

    def _frame(self, number: int) -> np.ndarray:
        """`[height, width, 3]`, checked to be the frame of this number."""
        try:
            frame = self._decoder.get_frame_at(number)
        except _ERRORS as error:
            raise self._failed(error) from error
        seconds = frame.pts_seconds - self._timeline.start_seconds
        expected = float(self._timeline.shown_seconds[number])
        if abs(seconds - expected) > AGREEMENT_SECONDS:
            raise wrong_frames(
                self._source, self.name, f"for the frame at {expected:.3f} s it gives the one at {seconds:.3f} s"
            )
        pixels: np.ndarray = frame.data.numpy()
        refuse_other_size(self._source, self.name, pixels, self.info)
        return pixels

    def _failed(self, error: Exception) -> VideoError:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        # Some messages begin with a place in its source, "function, path.cpp:12, ".
        sentence = cause[0].rsplit(".cpp:", 1)[-1].lstrip("0123456789, ").rstrip(": ")
        return VideoError(
            f"{self._source.name}: torchcodec cannot read it ({sentence}); use the reader 'pyav' or 'auto'"
        )


def _why_refused(timeline: Timeline, info: VideoInfo) -> str:
    """What in this file torchcodec is known to read wrongly; empty if nothing."""
    if timeline.hides_frames:
        return "an edit list hides some of its frames"
    if timeline.container not in _SAFE_CONTAINERS:
        return f"its seeks go astray in this kind of container ({timeline.container})"
    return timeline.why_not(info)


def _video_decoder() -> Any:
    """torchcodec's decoder class; imported here because it brings torch, which other readers do without."""
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # it lists no exports
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: no FFmpeg library that it can load
        raise UsageError(
            "reader 'torchcodec' needs the torchcodec package in a release that fits torch (pip install torchcodec) "
            "and FFmpeg's shared libraries (for instance Debian's package ffmpeg)"
        ) from error
    return VideoDecoder
