"""When every frame of a file is shown, from its packets; no frame is decoded.

decord and torchcodec number the frames of a file themselves and seek by those numbers. The timeline is what they are
held against: a file that they number otherwise, or whose keyframes are no safe place to begin, they would read wrongly
without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.packet import Packet

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video.nal_units import nal_length_bytes, only_begins_to_renew
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.probe import MISSING_SECONDS, open_container
from videoflamingo.video.pyav import TIME_TOLERANCE_SECONDS
from videoflamingo.video.source import SourceFile

# How far another decoder's times may be from the packets': decord keeps float32, good to 0.25 ms after an hour.
AGREEMENT_SECONDS = 1e-3


@dataclass(frozen=True, eq=False)
class Timeline:
    """When the frames of one video stream are shown, and what is known of how they are stored.

    Args:
        shown_seconds: `[n]` float64, ascending; when each shown frame is shown, in seconds after the first.
        start_seconds: when the first is shown, in the file's own clock.
        open_gops: whether some packet stored after a keyframe is shown before it.
        hides_frames: whether some stored frames are not to be shown, as an edit list asks.
        disordered: whether some packet is to be decoded after it is shown, or before the packet stored before it.
        refreshes_slowly: whether pictures after some keyframe are not whole at once, because it only begins to renew
            the picture (H.264 intra refresh).
        container: FFmpeg's name of the container's format, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        stream_index: which of the container's streams it is.
        num_video_streams: how many video streams the container has, covers included.
    """

    shown_seconds: np.ndarray
    start_seconds: float
    open_gops: bool
    hides_frames: bool
    disordered: bool
    refreshes_slowly: bool
    container: str
    stream_index: int
    num_video_streams: int

    def numbers_shown_at(self, times_seconds: np.ndarray) -> np.ndarray:
        """`[T]` int, the number of the frame shown at each time; the first before it, the last after it."""
        return number_shown_at(times_seconds, self.shown_seconds)

    def why_not(self, info: VideoInfo) -> str:
        """Why no reader that trusts packets can be held against this timeline; empty if one can.

        Args:
            info: what PyAV found by decoding the first frame and reading the last packets.
        """
        if self.refreshes_slowly:
            return "its keyframes only begin to renew the picture (intra refresh)"
        if self.disordered:
            return "its packets are not stored in the order they are decoded in"
        if abs(self.start_seconds - info.start_seconds) > AGREEMENT_SECONDS:
            return "it holds packets that are not shown, before its first keyframe or by their own flags"
        if info.last_frame_seconds - self.shown_seconds[-1] > MISSING_SECONDS:
            return (
                f"its packets end at {self.shown_seconds[-1]:.2f} s, but its header promises a frame at "
                f"{info.last_frame_seconds:.2f} s, so it was cut off"
            )
        return ""


def read_timeline(source: SourceFile) -> Timeline:
    """Read every packet of the video stream and decode none.

    Raises:
        VideoError: if the source cannot be opened, its packets carry no times, none is shown, or it is damaged.
    """
    container, stream = open_container(source)
    ticks: list[int] = []
    open_gops = hides_frames = disordered = refreshes_slowly = False
    keyframe_pts: int | None = None
    last_dts: int | None = None
    with container:
        time_base = stream.time_base
        length_bytes = nal_length_bytes(stream.codec_context.extradata)
        codec = stream.codec_context.codec.canonical_name
        is_h264, has_nal_units = codec == "h264", codec in ("h264", "hevc")
        try:
            for packet in container.demux(stream):
                if packet.size == 0:  # the demuxer's end, or a repeated frame
                    continue
                # In a transport stream the mark of an incomplete packet also stands where two recordings were joined.
                if (packet.is_corrupt and container.format.name != "mpegts") or (has_nal_units and _is_blank(packet)):
                    raise VideoError(f"{source.name}: is damaged (an incomplete packet); download or copy it again")
                if packet.pts is None:
                    raise VideoError(
                        f"{source.name}: some of its packets carry no times; put it in a container first: "
                        f"ffmpeg -i {source.name} -c copy video.mp4"
                    )
                if packet.dts is not None:
                    disordered |= packet.dts > packet.pts or (last_dts is not None and packet.dts < last_dts)
                    last_dts = packet.dts
                if packet.is_keyframe:
                    keyframe_pts = packet.pts
                    refreshes_slowly |= is_h264 and only_begins_to_renew(packet, length_bytes)
                elif keyframe_pts is not None and packet.pts < keyframe_pts:
                    open_gops = True
                if packet.is_discard:
                    hides_frames = True
                else:
                    ticks.append(packet.pts)
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(
                f"{source.name}: is damaged ({error.strerror or error}); download or copy it again"
            ) from error
        container_name, stream_index = container.format.name, stream.index
        num_video_streams = len(container.streams.video)
    if not ticks or time_base is None:
        raise VideoError(f"{source.name}: holds no packet that is shown; the file has headers without pictures")
    seconds = np.array([float(tick * time_base) for tick in sorted(ticks)])
    return Timeline(
        shown_seconds=seconds - seconds[0],
        start_seconds=float(seconds[0]),
        open_gops=open_gops,
        hides_frames=hides_frames,
        disordered=disordered,
        refreshes_slowly=refreshes_slowly,
        container=container_name,
        stream_index=stream_index,
        num_video_streams=num_video_streams,
    )


def checked_times(name: str, times_seconds: Sequence[float]) -> np.ndarray:
    """`[T]` float64, what was asked for.

    Args:
        name: of the source, for the message.

    Raises:
        SamplingError: if there is no time, or one is not a finite number.
    """
    times = np.asarray(times_seconds, dtype=np.float64)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
        raise SamplingError(f"{name}: times_seconds must be one or more finite numbers, got {times_seconds}")
    return times


def number_shown_at(times_seconds: np.ndarray, shown_seconds: np.ndarray) -> np.ndarray:
    """For each time, which frame is shown: the last that starts at or before it, but the first before that.

    Args:
        times_seconds: `[T]`, in any order.
        shown_seconds: `[n]`, when each frame starts, ascending.

    Returns:
        `[T]` int, in `[0, n)`.
    """
    shown = np.searchsorted(shown_seconds, times_seconds + TIME_TOLERANCE_SECONDS, side="right") - 1
    return np.maximum(shown, 0)


def refuse_tolerance(options: ReadOptions, reader: str) -> None:
    """Only PyAV can take a keyframe instead of the frame asked for.

    Raises:
        UsageError: if the options ask this of another reader.
    """
    if options.tolerance_seconds > 0:
        raise UsageError(
            f"tolerance_seconds={options.tolerance_seconds:g}: the reader {reader!r} always reads exactly; "
            "use the reader 'pyav', or tolerance_seconds=0"
        )


def wrong_frames(source: SourceFile, reader: str, reason: str) -> VideoError:
    """The refusal to return frames that are not those that are shown."""
    return VideoError(
        f"{source.name}: {reader} would return wrong frames of this file, because {reason}; "
        "use the reader 'pyav' or 'auto'"
    )


def refuse_other_size(source: SourceFile, reader: str, frame: np.ndarray, info: VideoInfo) -> None:
    """Refuse a frame `[height, width, 3]` of another upright size than PyAV found: wrongly turned, cropped or chosen.

    Raises:
        VideoError: if the size differs.
    """
    height, width, _ = frame.shape
    if (height, width) != (info.height, info.width):
        reason = f"it gives frames of {width}x{height}, but upright they are {info.width}x{info.height}"
        raise wrong_frames(source, reader, reason)


def _is_blank(packet: Packet) -> bool:
    """Whether a packet begins with zeros where a unit's start or length must be: a hole in a download."""
    return not any(memoryview(packet)[:8])
