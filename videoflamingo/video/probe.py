"""What is in a video file, from its headers and its last packets; no frame is decoded.

Where the duration comes from, most trusted first:

1. the end of the last packets, found by seeking near the end and reading (not decoding) from there;
2. the stream's header and 3. the container's header, whichever is there first. A header that agrees with the packets to
   within a frame is reported as the source; one that promises more than the file holds, with no longer audio to explain
   it, is kept, because the file was cut off: a reader then fails where frames are missing instead of sampling less.

Headers alone are not enough: variable-rate files with B-frames can declare seconds less than they show, WebM declares
no frame count, and a container's duration may be the audio's.
"""

import contextlib
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from videoflamingo.errors import VideoError
from videoflamingo.video.source import SourceFile

# How much of the end may be missing before a header's promise counts as broken.
MISSING_SECONDS = 0.5

# Read the tail from this far before the end: B-frames are stored out of order, so the last packet may not be the last
# frame.
_TAIL_SECONDS = 2.0

# Larger pictures are refused before memory is taken for them; Pillow refuses pictures at the same size.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Extent:
    """Where a video ends, in the file's own clock.

    Args:
        end_seconds: end of the last frame.
        last_frame_seconds: presentation time of the last frame.
        duration_from: as in `VideoInfo`.
        seekable: whether seeking near the end worked.
    """

    end_seconds: float
    last_frame_seconds: float
    duration_from: str
    seekable: bool


def open_container(source: SourceFile, num_threads: int = 1) -> tuple[InputContainer, VideoStream]:
    """Open a source and choose its video stream.

    Args:
        num_threads: with 1, closing never waits on a decoder's threads; more decode several frames at once. A decoder
            with several sometimes forgets to mark a frame as broken, so it is told to fail at what it would paint over.

    Raises:
        VideoError: if the source is no video, is damaged, or holds no moving picture.
    """
    opened = source.open()
    try:
        container = av.open(opened, metadata_errors="replace")  # a title in another encoding is no reason to fail
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{source.name}: {_why_not_opened(source, error)}") from error
    assert isinstance(container, InputContainer)
    try:
        stream = _video_stream(source, container)
    except VideoError:
        container.close()
        raise
    options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.options = options if num_threads == 1 else {**options, "err_detect": "explode"}
    stream.thread_count = num_threads
    stream.thread_type = "FRAME" if num_threads > 1 else "SLICE"
    return container, stream


def measure_extent(source: SourceFile, container: InputContainer, stream: VideoStream) -> Extent:
    """Find the end of a video by the order of trust above; leaves the container somewhere near its end.

    Raises:
        VideoError: if neither headers nor packets carry a time.
    """
    header = _header_end(container, stream)
    seekable = False
    if header is not None:
        with contextlib.suppress(av.error.FFmpegError):  # a format that cannot seek is read through from here
            container.seek(int((header[0] - _TAIL_SECONDS) * av.time_base))
            seekable = True
    tail = _read_tail(container, stream)
    if tail is None:  # the seek led past the last packet, as it does in a file that was cut off
        again, stream_again = open_container(source)
        with again:
            tail = _read_tail(again, stream_again)
    if header is None:
        if tail is None:
            raise VideoError(
                f"{source.name}: its frames carry no times, as in a raw stream; put it in a container first: "
                f"ffmpeg -i {source.name} -c copy video.mp4"
            )
        return Extent(tail.end_seconds, tail.last_frame_seconds, "frames", seekable)
    header_end, header_name = header
    if tail is None:
        return Extent(header_end, header_end, header_name, seekable)
    frame_seconds = max(tail.end_seconds - tail.last_frame_seconds, 1e-3)
    if abs(header_end - tail.end_seconds) <= frame_seconds:
        return Extent(tail.end_seconds, tail.last_frame_seconds, header_name, seekable)
    longer_than_packets = header_end - max(tail.end_seconds, tail.other_streams_end_seconds) > MISSING_SECONDS
    if longer_than_packets and not (index_is_complete(stream) and _index_fits(container, stream)):
        return Extent(header_end, header_end - frame_seconds, header_name, seekable)
    return Extent(tail.end_seconds, tail.last_frame_seconds, "frames", seekable)


def index_is_complete(stream: VideoStream) -> bool:
    """Whether the container lists every frame (MP4, MOV, AVI), and not just some of the keyframes (WebM, TS)."""
    return stream.frames > 0 and len(stream.index_entries) == stream.frames


def frame_rate_varies(stream: VideoStream) -> bool | None:
    """Whether frame durations differ by more than the clock's rounding; None where no index tells."""
    if not index_is_complete(stream):
        return None
    ticks = np.array([entry.timestamp for entry in stream.index_entries], dtype=np.float64)
    if len(ticks) < 3:
        return False
    even = np.linspace(ticks[0], ticks[-1], len(ticks))
    return bool(np.abs(ticks - even).max() > 1.0)


def has_edit_list(stream: VideoStream) -> bool | None:
    """Whether some stored frames must not be shown, as after a cut without re-encoding; None where no index tells."""
    if not index_is_complete(stream):
        return None
    return any(entry.is_discard for entry in stream.index_entries)


@dataclass(frozen=True)
class _Tail:
    end_seconds: float
    last_frame_seconds: float
    other_streams_end_seconds: float


def _header_end(container: InputContainer, stream: VideoStream) -> tuple[float, str] | None:
    if stream.duration is not None and stream.duration > 0 and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base), "stream"
    if container.duration is not None and container.duration > 0:
        # Matroska and FLV declare the end of the last frame, not its distance from the first.
        return container.duration / av.time_base, "container"
    return None


def _read_tail(container: InputContainer, stream: VideoStream) -> _Tail | None:
    """The last frame's time and end from here to the end of the file, or None if no packet of the video has a time."""
    last, end, others_end = -np.inf, -np.inf, -np.inf
    fallback_duration = float(1 / stream.average_rate) if stream.average_rate else 0.0
    try:
        for packet in container.demux():
            if packet.pts is None or packet.is_discard:
                continue
            time_base = packet.time_base or Fraction(1, av.time_base)
            start_seconds = float(packet.pts * time_base)
            stop_seconds = float((packet.pts + (packet.duration or 0)) * time_base)
            if packet.stream_index != stream.index:
                others_end = max(others_end, stop_seconds)
            elif start_seconds > last:
                last = start_seconds
                end = stop_seconds if packet.duration else start_seconds + fallback_duration
    except av.error.FFmpegError:  # damage in the tail: what was read until here still holds
        pass
    return None if last == -np.inf else _Tail(end, last, others_end)


def _index_fits(container: InputContainer, stream: VideoStream) -> bool:
    return all(entry.pos + entry.size <= container.size for entry in stream.index_entries)


def _video_stream(source: SourceFile, container: InputContainer) -> VideoStream:
    streams = container.streams.video
    moving = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        others = ", ".join(sorted({stream.type for stream in container.streams}))
        holds = f"no video stream, only {others}" if others else "no stream at all"
        raise VideoError(f"{source.name}: holds {holds}; give a file with a video track")
    if not moving:
        raise VideoError(
            f"{source.name}: holds only an attached cover picture, no video; give a file with a video track"
        )
    best = container.streams.best("video")
    chosen = best if best in moving else moving[0]
    assert isinstance(chosen, VideoStream)
    if chosen.codec_context is None:
        raise VideoError(f"{source.name}: PyAV has no decoder for its video codec; convert it to H.264")
    width, height = chosen.codec_context.width, chosen.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{source.name}: its pictures are {width}x{height}, and more than {MAX_PIXELS:,} pixels are not opened; "
            "scale it down"
        )
    return chosen


def _why_not_opened(source: SourceFile, error: BaseException) -> str:
    head = source.head(4096)
    if head[4:8] == b"ftyp":
        return (
            "is an MP4 without its index (the moov atom is missing or damaged), so the recording or download was cut "
            "off; download or copy it again"
        )
    if head and b"\x00" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return f"is a text file, not a video (it begins {head[:20].decode('utf-8', 'replace')!r}); check the path"
    cause = getattr(error, "strerror", None) or error
    return f"is not a video or picture that can be opened ({cause}); check the file, or convert it to MP4"
