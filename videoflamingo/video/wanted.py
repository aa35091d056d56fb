"""Which stored frames are shown at which times, found while packets are read: arithmetic, without any video.

Packets are stored in decoding order, which is not the order they are shown in. But no packet is decoded after it is
shown, and decoding times never go back. So once a packet's decoding time lies after a wanted time, no frame shown at or
before that time is still to come: the frame shown then is the last one known until here. This needs to look ahead by
the reordering of the stream only, a handful of packets.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence


class WantedFrames:
    """The frames shown at ascending times, as packets come in stored order.

    >>> wanted = WantedFrames([5])
    >>> for pts, dts in [(0, -2), (6, 0), (2, 2), (4, 4), (8, 6)]:  # 6 is stored before 2 and 4
    ...     wanted.add(pts, dts)
    >>> wanted.positions
    {4: [0]}

    Args:
        ticks: wanted times in the stream's clock, ascending.
    """

    def __init__(self, ticks: Sequence[int]) -> None:
        self.positions: dict[int, list[int]] = {}  # presentation time of a frame -> which of `ticks` show it
        self.disordered = False  # the packets break the rule above, so what was found may be wrong
        self._ticks = ticks
        self._decided = 0
        self._known: list[int] = []  # presentation times until here, ascending
        self._last_dts: int | None = None

    @property
    def all_decided(self) -> bool:
        """Whether every time's frame is known."""
        return self._decided == len(self._ticks)

    @property
    def num_before_last(self) -> int:
        """How many of the times lie before the last frame known."""
        return bisect_left(self._ticks, self._known[-1]) if self._known else 0

    def add(self, pts: int | None, dts: int | None, shown: bool = True) -> None:
        """Take note of the next packet.

        Args:
            pts, dts: presentation and decoding time in ticks; a missing decoding time decides nothing.
            shown: False for a packet that only serves to decode others, as an edit list asks.
        """
        if pts is None or (dts is not None and (dts > pts or (self._last_dts is not None and dts < self._last_dts))):
            self.disordered = True
            return
        if dts is not None:
            self._last_dts = dts
            while not self.all_decided and dts > self._ticks[self._decided]:
                self._decide()
        if shown:
            insort(self._known, pts)

    def finish(self) -> None:
        """No packet comes any more: what is known decides."""
        while not self.all_decided:
            self._decide()

    def is_settled(self, pts: int | None) -> bool:
        """Whether it is known if this frame is wanted; if so, `positions` has it or never will."""
        if self.all_decided or pts is None or pts in self.positions:
            return True
        best = self._best()
        return best is not None and pts < best

    def _best(self) -> int | None:
        place = bisect_right(self._known, self._ticks[self._decided])
        return self._known[place - 1] if place else None

    def _decide(self) -> None:
        best = self._best()
        if best is None and self._known:  # before the first frame the first is shown
            best = self._known[0]
        if best is not None:
            self.positions.setdefault(best, []).append(self._decided)
        self._decided += 1


class SentPackets:
    """Packets sent to a decoder, in stored order, and which of their frames are broken.

    A frame may refer to any that was decoded before it, back to the keyframe it follows; so one broken frame makes the
    rest of its group doubtful.

    >>> sent = SentPackets()
    >>> for pts, is_keyframe in [(0, True), (3, False), (1, False), (6, True), (7, False)]:
    ...     sent.add(pts, is_keyframe)
    >>> sent.mark_broken(3)
    >>> sent.broken_before(0), sent.broken_before(1), sent.broken_before(7)
    (None, 3, None)
    """

    def __init__(self) -> None:
        self._packets: list[tuple[int | None, bool]] = []  # presentation time, whether a keyframe
        self._place: dict[int, int] = {}  # of each presentation time
        self._broken: list[int] = []  # places

    def add(self, pts: int | None, is_keyframe: bool) -> None:
        """Take note of a packet."""
        if pts is not None:
            self._place.setdefault(pts, len(self._packets))
        self._packets.append((pts, is_keyframe))

    def mark_broken(self, pts: int | None) -> None:
        """A frame came out broken, or did not come out; the first of all if it has no time."""
        self._broken.append(0 if pts is None else self._place.get(pts, 0))

    def not_among(self, came_out: set[int]) -> list[int]:
        """Presentation times that were sent and of which no frame came out."""
        return [pts for pts in self._place if pts not in came_out]

    @property
    def first_is_broken(self) -> bool:
        """Whether the frame that decoding began with is broken."""
        return 0 in self._broken

    def broken_before(self, pts: int) -> int | None:
        """Presentation time of a broken frame that this one is or may refer to; None if there is none."""
        place = keyframe = self._place[pts]
        while keyframe > 0:
            keyframe_pts, is_keyframe = self._packets[keyframe]
            if is_keyframe and keyframe_pts is not None and keyframe_pts <= pts:
                break
            keyframe -= 1
        for broken in self._broken:
            if keyframe <= broken <= place:
                return self._packets[broken][0] or 0
        return None
