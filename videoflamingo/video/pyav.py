"""The reader for everything, on PyAV: by time, exact on variable frame rates, and in parallel.

What it does that a plain `container.decode` does not: seeks to keyframes, decodes each group of pictures once for all
times in it and several groups at once, leaves out frames nobody needs, rotates as the file's metadata asks, drops
frames whose references lie before the seek, and fails at damage instead of returning fewer or older frames. (Frames
that an edit list hides are dropped by FFmpeg itself.) Pixels keep their stored aspect; a mirroring display matrix is
not undone.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video import probe
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pyav_decoder import PyavDecoder
from videoflamingo.video.source import Source, SourceFile

# Makes the memory frames are written to, from its shape and type: `np.empty`, or memory shared with another process.
Allocate = Callable[[tuple[int, ...], Any], np.ndarray]

# Containers store times in ticks; a time that went through float seconds must still find its own frame.
TIME_TOLERANCE_SECONDS = 1e-6

# Where no index tells keyframes, times further apart than a usual distance between keyframes are sought for singly.
_BLIND_SEEK_SECONDS = 4.0

# Opening a file once more takes as long as decoding about this many pixels.
_PIXELS_WORTH_A_THREAD = 20_000_000


@dataclass(frozen=True)
class _Group:
    """Times answered in one go: by one pass from a keyframe, or by a keyframe alone if `snap_to` is its stored time."""

    ticks: list[int]
    positions: list[int]  # in the sorted distinct times
    snap_to: int | None = None


class PyavReader:
    """Frames of one video by time. Not for use by two threads at once.

    Args:
        source: what to read.
        options: of which `reader` is ignored here.
        reason: why this reader.

    Raises:
        VideoError: if the source cannot be opened, holds no video, or its first frame cannot be decoded.
    """

    name = "pyav"

    def __init__(self, source: Source, options: ReadOptions | None = None, reason: str = "named") -> None:
        source = SourceFile.of(source)
        source.check()
        self.reason = reason
        self.options = options or ReadOptions()
        self._source = source
        self._num_threads = self.options.num_threads or _num_cores()
        self._decoders = [PyavDecoder(source)]
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        decoder = self._decoders[0]
        first = decoder.first_frame()
        stream = decoder.stream
        if first.pts is None or stream.time_base is None:
            raise VideoError(
                f"{self._source.name}: its frames carry no times; put it in a container first: "
                f"ffmpeg -i {self._source.name} -c copy video.mp4"
            )
        self._time_base = stream.time_base
        self._origin = decoder.origin = first.pts
        start_seconds = float(first.pts * self._time_base)
        self._rotation = -first.rotation % 360
        if self._rotation % 90:
            raise VideoError(
                f"{self._source.name}: asks to be rotated by {self._rotation} degrees, only quarter turns are supported"
            )
        extent = probe.measure_extent(self._source, decoder.container, stream)
        self._seekable = extent.seekable and decoder.can_seek
        self._lists_frames = probe.index_is_complete(stream)
        width, height = first.width, first.height
        self._stored_size = self.options.scaled_size(width, height)
        if self._rotation % 180:
            width, height = height, width
        self.info = VideoInfo(
            source=self._source.name,
            width=width,
            height=height,
            duration_seconds=extent.end_seconds - start_seconds,
            duration_from=extent.duration_from,
            last_frame_seconds=max(0.0, extent.last_frame_seconds - start_seconds),
            start_seconds=start_seconds,
            frames_per_second=float(stream.average_rate) if stream.average_rate else None,
            num_frames_from_header=stream.frames or None,
            variable_frame_rate=probe.frame_rate_varies(stream),
            edit_list=probe.has_edit_list(stream),
            rotation=self._rotation,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            num_bytes=self._source.num_bytes(),
        )

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times: for each, the last frame that starts at or before it.

        Before the first frame that is the first, after the last frame the last.

        Args:
            times_seconds: seconds after the first shown frame, in any order.
            allocate: makes the memory for the frames; called once, with the shape `(T, height, width, 3)`.

        Returns:
            Frames, `[T, 3, height, width]` uint8 RGB upright, in the order asked for (a view of that memory); and `[T]`
            float64, the time each was really shown at.

        Raises:
            SamplingError: if no time is given, or one is not a finite number.
            VideoError: if the file is damaged or cut off where a frame is needed.
        """
        times = np.asarray(times_seconds, dtype=np.float64)
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
            raise SamplingError(
                f"{self._source.name}: times_seconds must be one or more finite numbers, got {times_seconds}"
            )
        distinct, place = np.unique(np.maximum(times, 0.0), return_inverse=True)
        asked = [np.flatnonzero(place == position) for position in range(len(distinct))]
        width, height = self._stored_size if self._rotation % 180 == 0 else self._stored_size[::-1]
        memory = allocate((len(times), height, width, 3), np.uint8)
        pts_seconds = np.empty(len(times))
        queue: SimpleQueue[_Group | None] = SimpleQueue()
        groups = self._groups([self._tick(float(seconds)) for seconds in distinct])
        for group in groups:
            queue.put(group)

        def work(decoder: PyavDecoder) -> None:
            reformatter = VideoReformatter()  # one for each thread: it keeps the tables for a conversion

            def give(positions: Sequence[int], frame: VideoFrame) -> None:
                assert frame.pts is not None
                seconds = float((frame.pts - self._origin) * self._time_base)
                wanted = np.concatenate([asked[position] for position in positions])
                memory[wanted[0]] = self._upright(frame, reformatter)
                memory[wanted[1:]] = memory[wanted[0]]
                pts_seconds[wanted] = seconds

            while (group := queue.get()) is not None:
                self._read_group(decoder, group, give)

        decoders = self._decoders_for(groups)
        for _ in decoders:
            queue.put(None)
        if len(decoders) == 1:
            work(decoders[0])
        else:
            with ThreadPoolExecutor(len(decoders), thread_name_prefix="videoflamingo-decode") as threads:
                for done in [threads.submit(work, decoder) for decoder in decoders]:
                    done.result()
        return memory.transpose(0, 3, 1, 2), pts_seconds

    def close(self) -> None:
        """Close the file; the reader cannot be used after."""
        for decoder in self._decoders:
            decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _tick(self, seconds: float) -> int:
        return self._origin + math.floor((seconds + TIME_TOLERANCE_SECONDS) / self._time_base)

    def _groups(self, ticks: list[int]) -> list[_Group]:
        """Times with the same keyframe before them belong together; where keyframes are not listed, near times do."""
        decoder = self._decoders[0]
        tolerance = math.floor(self.options.tolerance_seconds / self._time_base)
        far = int(_BLIND_SEEK_SECONDS / self._time_base)
        groups: list[_Group] = []
        previous: tuple[int, int | None] | None = None
        for position, tick in enumerate(ticks):
            snap_to = self._keyframe_near(tick, tolerance) if tolerance else None
            if snap_to is not None:
                groups.append(_Group([tick], [position], snap_to))
                previous = None
                continue
            keyframe = decoder.keyframe_at_or_before(tick)
            together = previous is not None and (
                not self._seekable or (previous[1] == keyframe and (self._lists_frames or tick - previous[0] <= far))
            )
            if together:
                groups[-1].ticks.append(tick)
                groups[-1].positions.append(position)
            else:
                groups.append(_Group([tick], [position]))
            previous = tick, keyframe
        return groups

    def _keyframe_near(self, tick: int, tolerance: int) -> int | None:
        """Stored time of the keyframe nearest to a time, if the container lists one that may be near enough."""
        decoder = self._decoders[0]
        listed = [decoder.keyframe_at_or_before(tick), decoder.keyframe_at_or_after(tick)]
        # When it is shown is only known when it was read, and judged then.
        away = {stored: abs(stored + decoder.delay - tick) for stored in listed if stored is not None}
        nearest = min(away, key=away.__getitem__, default=None)
        return nearest if nearest is not None and away[nearest] <= tolerance and self._seekable else None

    def _read_group(
        self, decoder: PyavDecoder, group: _Group, give: Callable[[Sequence[int], VideoFrame], None]
    ) -> None:
        if group.snap_to is not None:
            (tick,) = group.ticks
            tolerance = math.floor(self.options.tolerance_seconds / self._time_base)
            frame = decoder.read_keyframe(group.snap_to, tick - tolerance, tick + tolerance)
            if frame is not None:
                give(group.positions, frame)
                return
        last_end: list[float] = []

        def give_mapped(places: Sequence[int], frame: VideoFrame) -> None:
            last_end[:] = [self._end_seconds(frame)]
            give([group.positions[place] for place in places], frame)

        try:
            decided = decoder.read(group.ticks, give_mapped)
        except VideoError:
            if decoder.num_threads == 1:
                raise
            decided = self._decoders[0].read(group.ticks, give_mapped)  # which knows better what is broken
        if decided < len(group.ticks):
            asked = float((group.ticks[-1] - self._origin) * self._time_base)
            missing = self.info.duration_seconds - last_end[0]
            if asked > last_end[0] and missing > probe.MISSING_SECONDS:
                raise VideoError(
                    f"{self._source.name}: frames end at {last_end[0]:.2f} s, but the header promises "
                    f"{self.info.duration_seconds:.2f} s, so the file was cut off; download or copy it again, or give "
                    f"--end {int(last_end[0] * 100) / 100:.2f}"
                )

    def _end_seconds(self, frame: VideoFrame) -> float:
        assert frame.pts is not None
        rate = self._decoders[0].stream.average_rate
        ticks = frame.duration or (1 / rate / self._time_base if rate else 0)
        return float((frame.pts - self._origin + ticks) * self._time_base)

    def _decoders_for(self, groups: list[_Group]) -> list[PyavDecoder]:
        """As many open files as pay for themselves: one for each group being decoded at a time.

        A single long group gets one whose decoder works on several frames at once.
        """
        pixels = [self._pixels_to_decode(group) for group in groups]
        at_once = min(self._num_threads, len(groups), 1 + int(sum(pixels) / _PIXELS_WORTH_A_THREAD))
        frame_threads = 1
        if at_once == 1 and self._num_threads > 1 and sum(pixels) > _PIXELS_WORTH_A_THREAD:
            frame_threads = self._num_threads + 1
        single = [decoder for decoder in self._decoders if decoder.num_threads == frame_threads]
        while len(single) < at_once:
            decoder = PyavDecoder(self._source, frame_threads)
            decoder.origin, decoder.delay = self._origin, self._decoders[0].delay
            self._decoders.append(decoder)
            single.append(decoder)
        return single[:at_once]

    def _pixels_to_decode(self, group: _Group) -> float:
        stored = self._decoders[0].keyframe_at_or_before(group.ticks[-1])
        if group.snap_to is not None:
            frames = 1.0
        else:
            first = min(self._origin if stored is None else stored, group.ticks[0])
            if not self._seekable:
                first = self._origin
            last = min(group.ticks[-1], self._tick(self.info.duration_seconds))
            seconds = max(0.0, float((last - first) * self._time_base))
            frames = 1 + seconds * (self.info.frames_per_second or 25.0)
        return frames * self.info.width * self.info.height

    def _upright(self, frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        """`[height, width, 3]` uint8; a frame of another size, after a change of resolution, is scaled to the first."""
        width, height = self._stored_size
        rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)  # [height, line]
        pixels = rows[:, : 3 * width].reshape(height, width, 3)
        return np.rot90(pixels, k=-self._rotation // 90)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
