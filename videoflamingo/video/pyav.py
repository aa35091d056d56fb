"""The reader for everything, on PyAV: seeks to keyframes, decodes forward, and is exact on variable frame rates.

What it does that a plain `container.decode` does not: rotates as the file's metadata asks, drops frames whose
references lie before the seek, serves many times in one forward pass, and fails at damage instead of returning fewer or
older frames. (Frames that an edit list hides are dropped by FFmpeg itself.) Pixels keep their stored aspect; a
mirroring display matrix is not undone.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video import probe

# Containers store times in ticks; a time that went through float seconds must still find its own frame.
TIME_TOLERANCE_SECONDS = 1e-6

# Where no index says that a keyframe lies ahead, seek only over gaps longer than a usual distance between keyframes.
_BLIND_SEEK_SECONDS = 4.0

# How far before the wanted time to seek, in turn: a keyframe stored before it may be shown after it.
_SEEK_BACK_SECONDS = (0.0, 2.0, 10.0)


@dataclass(frozen=True)
class _Decoded:
    frame: VideoFrame
    seconds: float  # after the first shown frame
    end_seconds: float


class PyavReader:
    """Frames of one video file by time. Not for use by two threads at once.

    Args:
        source: path of a video file.

    Raises:
        VideoError: if the file cannot be opened, holds no video, or its first frame cannot be decoded.
    """

    name = "pyav"

    _container: InputContainer
    _stream: VideoStream
    _frames: Iterator[_Decoded]  # those after _upcoming
    _shown: _Decoded
    _upcoming: _Decoded | None  # None at the end

    def __init__(self, source: str) -> None:
        probe.check_file(source)
        extent = probe.measure_extent(source)
        self._source = source
        self._start_seconds = 0.0  # until the first frame is known
        self._open()
        first = self._shown.frame
        self._start_seconds = self._shown.seconds
        self._rotation = -first.rotation % 360
        if self._rotation % 90:
            self.close()
            raise VideoError(
                f"{source}: asks to be rotated by {self._rotation} degrees, only quarter turns are supported"
            )
        self._stored_size = (first.width, first.height)
        width, height = self._stored_size if self._rotation % 180 == 0 else self._stored_size[::-1]
        stream = self._stream
        self.info = VideoInfo(
            source=source,
            width=width,
            height=height,
            duration_seconds=extent.end_seconds - self._start_seconds,
            duration_from=extent.duration_from,
            last_frame_seconds=max(0.0, extent.last_frame_seconds - self._start_seconds),
            start_seconds=self._start_seconds,
            frames_per_second=float(stream.average_rate) if stream.average_rate else None,
            num_frames_from_header=stream.frames or None,
            variable_frame_rate=probe.frame_rate_varies(stream),
            edit_list=probe.has_edit_list(stream),
            rotation=self._rotation,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            num_bytes=os.path.getsize(source),
        )
        if self._start_seconds:  # what is decoded already carries the file's own clock
            self._rewind()

    def frames_at(self, times_seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times: for each, the last frame that starts at or before it.

        Before the first frame that is the first, after the last frame the last.

        Args:
            times_seconds: seconds after the first shown frame, in any order; served in one forward pass.

        Returns:
            Frames, `[T, 3, height, width]` uint8 RGB upright, in the order asked for; and `[T]` float64, the time each
            was really shown at.

        Raises:
            SamplingError: if no time is given, or one is not a finite number.
            VideoError: if the file is damaged or cut off where a frame is needed.
        """
        times = np.asarray(times_seconds, dtype=np.float64)
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
            raise SamplingError(
                f"{self._source}: times_seconds must be one or more finite numbers, got {times_seconds}"
            )
        frames = np.empty((len(times), 3, self.info.height, self.info.width), np.uint8)  # [T, 3, height, width]
        pts_seconds = np.empty(len(times))
        previous: tuple[_Decoded, int] | None = None
        for position in np.argsort(times, kind="stable"):
            shown = self._shown_at(float(times[position]))
            if previous is not None and previous[0] is shown:
                frames[position] = frames[previous[1]]
            else:
                frames[position] = self._upright(shown.frame)
            pts_seconds[position] = shown.seconds
            previous = shown, int(position)
        return frames, pts_seconds

    def close(self) -> None:
        """Close the file; the reader cannot be used after."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _shown_at(self, seconds: float) -> _Decoded:
        wanted = max(seconds, 0.0) + TIME_TOLERANCE_SECONDS
        if self._shown.seconds > wanted or self._keyframe_lies_before(wanted):
            self._seek(wanted)
        while self._upcoming is not None and self._upcoming.seconds <= wanted:
            self._shown = self._upcoming
            self._upcoming = next(self._frames, None)
        if self._upcoming is None and wanted > self._shown.end_seconds:
            missing = self.info.duration_seconds - self._shown.end_seconds
            if missing > probe.MISSING_SECONDS:
                raise VideoError(
                    f"{self._source}: frames end at {self._shown.end_seconds:.2f} s, but the header promises "
                    f"{self.info.duration_seconds:.2f} s, so the file was cut off; download or copy it again, or give "
                    f"--end {int(self._shown.end_seconds * 100) / 100:.2f}"
                )
        return self._shown

    def _keyframe_lies_before(self, seconds: float) -> bool:
        """Whether seeking to this time skips frames that would otherwise be decoded for nothing."""
        if self._upcoming is None or self._upcoming.seconds > seconds:
            return False
        entries = self._stream.index_entries
        found = entries.search_timestamp(self._to_ticks(seconds)) if len(entries) else -1
        if found >= 0 and entries[found].timestamp > self._to_ticks(self._upcoming.seconds):
            return True
        blind = not probe.index_is_complete(self._stream)
        return blind and seconds - self._upcoming.seconds > _BLIND_SEEK_SECONDS

    def _seek(self, seconds: float) -> None:
        """Go to a keyframe shown at or before this time; to the beginning if no seek finds one."""
        for back in _SEEK_BACK_SECONDS:
            if seconds <= back:
                break
            try:
                self._container.seek(self._to_ticks(seconds - back), stream=self._stream)
            except av.error.FFmpegError:  # not every format can seek
                break
            self._frames = self._decode(sought_seconds=max(0.0, seconds - back))
            landed = next(self._frames, None)
            if landed is not None and landed.seconds <= seconds:
                self._shown = landed
                self._upcoming = next(self._frames, None)
                return
        self._rewind()

    def _rewind(self) -> None:
        """Start over on a newly opened file: the one way back that every format has."""
        self._container.close()
        self._open()

    def _open(self) -> None:
        self._container, self._stream = probe.open_container(self._source)
        try:
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise VideoError(f"{self._source}: no frame could be decoded; the file holds headers without pictures")
            self._shown = first
            self._upcoming = next(self._frames, None)
        except VideoError:
            self._container.close()
            raise

    def _decode(self, sought_seconds: float | None = None) -> Iterator[_Decoded]:
        """Frames from here to the end, in the order they are shown.

        After a seek to `sought_seconds`, frames shown before the first keyframe refer to frames that were not decoded,
        and are left out.
        """
        seconds = sought_seconds or 0.0
        waits_for_keyframe = sought_seconds is not None
        keyframe_pts: int | None = None
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise VideoError(f"{self._source}: {self._damaged_after(seconds)} (an incomplete packet)")
                if waits_for_keyframe:
                    if not packet.is_keyframe:
                        continue
                    waits_for_keyframe, keyframe_pts = False, packet.pts
                for frame in self._stream.decode(packet):
                    if frame.pts is None:
                        raise VideoError(
                            f"{self._source}: its frames carry no times; put it in a container first: "
                            f"ffmpeg -i {self._source} -c copy video.mp4"
                        )
                    if keyframe_pts is None or frame.pts >= keyframe_pts:
                        decoded = self._timed(frame)
                        seconds = decoded.seconds
                        yield decoded
        except (av.error.FFmpegError, OSError) as error:
            cause = getattr(error, "strerror", None) or error
            raise VideoError(f"{self._source}: {self._damaged_after(seconds)} ({cause})") from error

    def _damaged_after(self, seconds: float) -> str:
        return (
            f"is damaged after {seconds:.2f} s and cannot be decoded there; download or re-encode it, or take frames "
            f"elsewhere with --start and --end"
        )

    def _timed(self, frame: VideoFrame) -> _Decoded:
        assert frame.pts is not None
        assert frame.time_base is not None
        seconds = float(frame.pts * frame.time_base) - self._start_seconds
        if frame.duration:
            duration = float(frame.duration * frame.time_base)
        else:
            duration = float(1 / self._stream.average_rate) if self._stream.average_rate else 0.0
        return _Decoded(frame, seconds, seconds + duration)

    def _to_ticks(self, seconds: float) -> int:
        assert self._stream.time_base is not None
        return int((seconds + self._start_seconds) / self._stream.time_base)

    def _upright(self, frame: VideoFrame) -> np.ndarray:
        width, height = self._stored_size  # a frame of another size, after a change of resolution, is scaled to it
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)  # [height, width, 3]
        return np.rot90(pixels, k=-self._rotation // 90).transpose(2, 0, 1)  # [3, height, width]
