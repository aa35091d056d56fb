"""One open file and its decoder: goes to a keyframe and decodes what a few wanted frames need, and no more.

Left out: frames after the last wanted one, and frames that no other refers to, where the codec marks them so that the
result stays exact. Frames are handed out as FFmpeg made them, not converted.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from videoflamingo.errors import VideoError
from videoflamingo.video import probe
from videoflamingo.video.nal_units import nal_length_bytes, only_begins_to_renew
from videoflamingo.video.source import SourceFile
from videoflamingo.video.wanted import SentPackets, WantedFrames

# Takes a frame and the positions of the wanted times that show it; later calls for a position replace earlier ones.
Give = Callable[[Sequence[int], VideoFrame], None]

# Codecs that mark frames no other refers to, and whose decoder leaves out exactly those when told. HEVC is not among
# them: frames of higher temporal layers may refer to what it marks.
_UNREFERENCED_IS_MARKED = ("h264", "mpeg4", "mpeg2video", "mpeg1video")

# Each picture is a change to the one before, though it calls itself a keyframe.
_NO_KEYFRAMES = ("gif", "apng")

# How far before a wanted time to seek, in turn: a keyframe stored before it may be shown after it.
_SEEK_BACK_SECONDS = (0.0, 2.0, 10.0)

# Packets read, not decoded, beyond those that decide, to see that their times are in order.
_PACKETS_TO_TRUST = 16

# Containers in which only some packets carry a time; after a seek FFmpeg guesses the others.
_NO_TIMES_AFTER_SEEK = ("mpeg",)

# Containers that may store when frames are decoded, and nothing of when they are shown; with frames that are stored out
# of order, only the decoder's first frames tell.
_NO_TIMES_OF_SHOWING = ("avi", "mxf")
_FRAMES_TO_TRUST = 16

# Containers that call a packet incomplete where a recording was joined; these decoders tell a broken frame themselves.
_JOINED_STREAMS = ("mpegts",)
_TELL_BROKEN_FRAMES = ("h264", "hevc")

# Codecs of which each shown packet gives one frame, and whose decoder drops broken ones without a word.
_DROP_BROKEN_FRAMES = ("hevc",)

# In AVI the time of a frame is its number; its index says where each number lies, up to this header.
_AVI_CHUNK_HEADER_BYTES = 8

_BEGINNING = object()


class PyavDecoder:
    """An open file. Not for use by two threads at once.

    Args:
        source: what to open.
        num_threads: how many frames FFmpeg may decode at once. With more than 1, an error may mean only that something
            is odd in the stream: ask a decoder with 1.
    """

    def __init__(self, source: SourceFile, num_threads: int = 1) -> None:
        self.source = source
        self.num_threads = num_threads
        self.origin = 0  # ticks of the first shown frame, for messages
        self.delay = 0  # ticks from when a keyframe is decoded to when it is shown
        self._plain = False  # frames do not carry the times of their packets: watch frames, not packets
        self._disordered = False  # times go back: only the whole file tells what is shown when
        self._open()

    def _open(self) -> None:
        self.container, self.stream = probe.open_container(self.source, self.num_threads)
        self._from_beginning = True
        self._reached = self.origin  # ticks until which reading went well

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def restart(self) -> None:
        """Start over on a newly opened file: the one way back that every format has."""
        self.close()
        self._open()

    @property
    def can_seek(self) -> bool:
        """Whether a seek leads to a picture that can be decoded without the one before, with its right time."""
        return (
            self.stream.codec_context.name not in _NO_KEYFRAMES
            and self.container.format.name not in _NO_TIMES_AFTER_SEEK
        )

    def first_frame(self) -> VideoFrame:
        """The first frame a player shows; the file must be at its beginning.

        Raises:
            VideoError: if there is none.
        """
        first: VideoFrame | None = None
        latest = 0
        num_to_see = _FRAMES_TO_TRUST if self.container.format.name in _NO_TIMES_OF_SHOWING else 1
        for frame in self._first_frames(num_to_see):
            if frame.pts is not None:
                if first is not None and frame.pts < latest:
                    raise self._out_of_order()
                latest = frame.pts
            first = first or frame
        if first is not None:
            return first
        raise VideoError(
            f"{self.source.name}: no frame could be decoded; the file holds headers without pictures; download or copy "
            "it again"
        )

    def _first_frames(self, num_frames: int) -> Iterator[VideoFrame]:
        num_seen = 0
        for packet in self._packets():
            if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                self.delay = packet.pts - packet.dts
            for frame in self._decode(packet):
                yield frame
                num_seen += 1
                if num_seen == num_frames:
                    return
        yield from self._decode(None)

    def keyframe_at_or_before(self, tick: int) -> int | None:
        """Stored time of the last keyframe that the container lists there; None where it lists none."""
        return self._listed(tick, backward=True)

    def keyframe_at_or_after(self, tick: int) -> int | None:
        """Stored time of the first keyframe that the container lists there; None where it lists none."""
        return self._listed(tick, backward=False)

    def _listed(self, tick: int, backward: bool) -> int | None:
        entries = self.stream.index_entries
        found = entries.search_timestamp(tick, backward=backward) if len(entries) else -1
        return entries[found].timestamp if found >= 0 else None

    def read_keyframe(self, stored: int, first: int, last: int) -> VideoFrame | None:
        """The keyframe stored at this time if it is shown within `[first, last]` and can be decoded alone, else None.

        Raises:
            VideoError: if it is damaged.
        """
        if not self._go_to(stored + self.delay):
            return None
        for packet in self._packets():
            if packet.is_keyframe:
                if packet.pts is None or not first <= packet.pts <= last or packet.is_discard:
                    return None
                if self._only_begins_to_renew(packet):
                    return None
                for frame in [*self._decode(packet), *self._decode(None)]:
                    if frame.pts == packet.pts and not frame.is_corrupt:
                        return frame
                return None
        return None

    def read(self, ticks: Sequence[int], give: Give) -> int:
        """Decode the frames shown at these times.

        Args:
            ticks: in the stream's clock, ascending, none before the first frame.
            give: called for each distinct frame, in the order they are decoded in.

        Returns:
            How many of `ticks` lie before the start of a later frame; the rest got the file's last frame.

        Raises:
            VideoError: if the file is damaged or cut off where a frame is needed.
        """
        for place in self._places_before(ticks[0]):
            if self._plain or self._disordered:
                break
            if self._go_to(place):
                decided = self._read_wanted_packets(ticks, give)
                if decided is not None:
                    return decided
        for place in [_BEGINNING] if self._disordered else self._places_before(ticks[0]):
            if self._go_to(place):
                decided = self._read_frames(ticks, give)
                if decided is not None:
                    return decided
        raise VideoError(f"{self.source.name}: {self._damage('no frame can be decoded from any keyframe')}")

    def _places_before(self, tick: int) -> Iterator[object]:
        """Where to start decoding from, the nearest first: times to seek, and the beginning at last."""
        if self.can_seek:
            assert self.stream.time_base is not None
            for back in _SEEK_BACK_SECONDS:
                yield tick - int(back / self.stream.time_base)
        yield _BEGINNING

    def _go_to(self, place: object) -> bool:
        if place is _BEGINNING:
            self.restart()
            return True
        assert isinstance(place, int)
        try:
            self.container.seek(place, stream=self.stream)
        except av.error.FFmpegError:  # not every format can seek
            return False
        self._from_beginning = False
        return True

    def _read_wanted_packets(self, ticks: Sequence[int], give: Give) -> int | None:
        """As `read`, by the times of packets: what is not needed is not decoded. None if that does not work here."""
        wanted = WantedFrames(ticks)
        waiting: deque[Packet] = deque()  # read, but not yet known whether wanted
        sent = SentPackets()
        given: set[int] = set()
        came_out: set[int] = set()
        leaves_out = self.stream.codec_context.name in _UNREFERENCED_IS_MARKED
        latest: int | None = None

        def decode(packet: Packet | None) -> None:
            nonlocal latest
            if packet is not None:
                sent.add(packet.pts, packet.is_keyframe)
                needed = packet.pts in wanted.positions or not leaves_out
                self.stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in self._decode(packet):
                if frame.is_corrupt:
                    sent.mark_broken(frame.pts)
                if frame.pts is not None:
                    came_out.add(frame.pts)
                    if latest is not None and frame.pts < latest:
                        raise self._out_of_order()
                    latest = frame.pts
                if frame.pts in wanted.positions and frame.pts not in given:
                    given.add(frame.pts)
                    give(wanted.positions[frame.pts], frame)

        keyframe_pts: int | None = None
        num_after = 0
        for packet in self._packets(may_end=lambda: wanted.all_decided):
            if not self._from_beginning and keyframe_pts is None:
                if not packet.is_keyframe:
                    continue
                if packet.pts is None or packet.pts > ticks[0] or self._only_begins_to_renew(packet):
                    return None
                keyframe_pts = packet.pts
            leading = keyframe_pts is not None and packet.pts is not None and packet.pts < keyframe_pts
            if packet.is_corrupt and self._loses_frames and not wanted.all_decided:
                raise VideoError(f"{self.source.name}: {self._damage('an incomplete packet')}")
            wanted.add(packet.pts, packet.dts, shown=not packet.is_discard and not leading)
            if wanted.disordered:
                self._disordered = True
                return None
            if wanted.all_decided:
                num_after += 1
                if num_after == _PACKETS_TO_TRUST:
                    break
            elif not leading:  # leading frames refer to some that were not decoded
                waiting.append(packet)
                while waiting and wanted.is_settled(waiting[0].pts):
                    decode(waiting.popleft())
        wanted.finish()
        last = max((place for place, packet in enumerate(waiting) if packet.pts in wanted.positions), default=-1)
        for packet in [*waiting][: last + 1]:
            decode(packet)
        decode(None)
        if keyframe_pts is None and not self._from_beginning:  # sought past the last keyframe
            return None
        if self.stream.codec_context.name in _DROP_BROKEN_FRAMES:
            for pts in sent.not_among(came_out):
                if pts >= self.origin:
                    sent.mark_broken(pts)
                    given |= {pts} & wanted.positions.keys()
        if not wanted.positions or len(given) < len(wanted.positions):
            self._plain = True
            return None
        if sent.first_is_broken and not self._from_beginning:  # this keyframe does not stand for itself
            return None
        for pts in wanted.positions:
            if (corrupt := sent.broken_before(pts)) is not None:
                raise self._broken(corrupt)
        return wanted.num_before_last

    def _read_frames(self, ticks: Sequence[int], give: Give) -> int | None:
        """As `read`, by the times of decoded frames, all of them. None if the first is shown only after `ticks[0]`."""
        self.stream.codec_context.skip_frame = "DEFAULT"
        shown: list[VideoFrame | None] = [None] * len(ticks)
        broken_before: list[int | None] = [None] * len(ticks)
        latest: int | None = None
        broken: int | None = None  # when a broken frame was shown that the following may refer to
        for frame in self._frames_from_keyframe():
            pts = frame.pts
            if pts is None:
                raise VideoError(
                    f"{self.source.name}: its frames carry no times; put it in a container first: "
                    f"ffmpeg -i {self.source.name} -c copy video.mp4"
                )
            if not self._disordered and latest is not None and pts < latest:
                raise self._out_of_order()
            if latest is None and not self._from_beginning and (pts > ticks[0] or frame.is_corrupt):
                return None
            if not self._disordered and pts > ticks[-1] and latest is not None:
                latest = pts
                break
            if frame.is_corrupt:
                broken = pts
            elif frame.key_frame:
                broken = None
            for position, tick in enumerate(ticks):
                before = shown[position]
                # The last that starts at or before the time; before the first frame, the first.
                if before is None or before.pts is None or (before.pts < pts <= tick):
                    shown[position], broken_before[position] = frame, broken
            latest = pts if latest is None else max(latest, pts)
        if latest is None:
            return None
        for position, found in enumerate(shown):
            if (corrupt := broken_before[position]) is not None:
                raise self._broken(corrupt)
            assert found is not None
            give([position], found)
        return sum(tick < latest for tick in ticks)

    def _frames_from_keyframe(self) -> Iterator[VideoFrame]:
        """Frames in the order they are shown.

        After a seek without those shown before the first keyframe, which refer to frames that were not decoded.
        """
        keyframe_pts: int | None = None
        begun = self._from_beginning
        for packet in self._packets():
            if not begun:
                if not packet.is_keyframe or self._only_begins_to_renew(packet):
                    continue
                begun, keyframe_pts = True, packet.pts
            for frame in self._decode(packet):
                if keyframe_pts is None or frame.pts is None or frame.pts >= keyframe_pts:
                    yield frame
        for frame in self._decode(None):
            if keyframe_pts is None or frame.pts is None or frame.pts >= keyframe_pts:
                yield frame

    @property
    def _lists_sizes(self) -> bool:
        """Whether a packet of nothing is damage: in MP4 it means a broken list of sizes, elsewhere a repeated frame."""
        return self.container.format.name.startswith("mov,")

    @property
    def _loses_frames(self) -> bool:
        """Whether frames may be missing around an incomplete packet, so that not even what is shown when is known."""
        return self.container.format.name in _JOINED_STREAMS and not self._tells_broken_frames

    @property
    def _tells_broken_frames(self) -> bool:
        return self.container.format.name in _JOINED_STREAMS and self.stream.codec_context.name in _TELL_BROKEN_FRAMES

    def _is_misplaced(self, packet: Packet) -> bool:
        """Whether an AVI's packet lies elsewhere than its index says, and so got the time of another."""
        entries = self.stream.index_entries
        if self.container.format.name != "avi" or packet.dts is None or len(entries) != self.stream.frames:
            return False
        entry = entries[max(0, entries.search_timestamp(packet.dts, any_frame=True))]
        return entry.timestamp != packet.dts or packet.pos != entry.pos + _AVI_CHUNK_HEADER_BYTES

    def _only_begins_to_renew(self, packet: Packet) -> bool:
        context = self.stream.codec_context
        return context.name == "h264" and only_begins_to_renew(packet, nal_length_bytes(context.extradata))

    def _packets(self, may_end: Callable[[], bool] = lambda: False) -> Iterator[Packet]:
        """Packets from here to the end.

        Args:
            may_end: whether no more are needed, so that what cannot be read is taken for the end.
        """
        try:
            for packet in self.container.demux(self.stream):
                if packet.size == 0 and packet.pts is None:  # PyAV's mark of the end
                    return
                if packet.size == 0 and not self._lists_sizes:  # the frame before is shown on
                    continue
                yield packet
                if packet.pts is not None:
                    self._reached = packet.pts
        except (av.error.FFmpegError, OSError) as error:
            if not may_end():
                raise VideoError(f"{self.source.name}: {self._damage(_cause(error))}") from error

    def _decode(self, packet: Packet | None) -> Sequence[VideoFrame]:
        """Frames that come out when a packet goes in; None for the end of what goes in."""
        if packet is not None and (packet.size == 0 or (packet.is_corrupt and not self._tells_broken_frames)):
            raise VideoError(f"{self.source.name}: {self._damage('an incomplete packet')}")
        if packet is not None and self._is_misplaced(packet):
            raise VideoError(f"{self.source.name}: {self._damage('frames are missing')}")
        try:
            return self.stream.codec_context.decode(packet)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.source.name}: {self._damage(_cause(error))}") from error

    def _out_of_order(self) -> VideoError:
        if self.container.format.name not in _NO_TIMES_OF_SHOWING:
            return VideoError(
                f"{self.source.name}: {self._damage('frames come out in another order than their times')}"
            )
        return VideoError(
            f"{self.source.name}: its container ({self.container.format.name}) keeps no times at which frames are "
            f"shown, and they are not stored in that order; convert it: ffmpeg -i {self.source.name} video.mp4"
        )

    def _broken(self, pts: int) -> VideoError:
        self._reached = pts
        return VideoError(f"{self.source.name}: {self._damage('a frame, or one that it refers to, is broken')}")

    def _damage(self, cause: str) -> str:
        assert self.stream.time_base is not None
        seconds = max(0.0, float((self._reached - self.origin) * self.stream.time_base))
        return (
            f"is damaged after {seconds:.2f} s and cannot be decoded there ({cause}); download or re-encode it, or "
            "take frames elsewhere with --start and --end"
        )


def _cause(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
