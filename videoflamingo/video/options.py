"""How frames are read, apart from which: the options every reader shares."""

import math
from dataclasses import dataclass

from videoflamingo.errors import UsageError

READERS = ("auto", "pyav", "decord", "torchcodec")


@dataclass(frozen=True)
class ReadOptions:
    """Which reader decodes, and how.

    Args:
        reader: `"auto"`, or a reader's name, which is then tried and no other.
        short_side: scale frames so that their shorter side has this many pixels, during colour conversion, keeping the
            aspect; never enlarges. None for the file's own size.
        tolerance_seconds: 0 is exact. Above 0, a keyframe this close to an asked time is taken instead of the frame
            shown then, because it needs no other frame; `Clip.pts_seconds` tells the time of what was taken.
        images_per_second: of a folder of numbered pictures, which has no clock of its own.
        num_threads: decoding threads; None for one per core.

    Raises:
        UsageError: if a name does not exist or a number is out of range.
    """

    reader: str = "auto"
    short_side: int | None = None
    tolerance_seconds: float = 0.0
    images_per_second: float | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise UsageError(f"reader={self.reader!r} does not exist; use one of {', '.join(READERS)}")
        if self.short_side is not None and self.short_side < 1:
            raise UsageError(f"short_side={self.short_side}: give a number of pixels, 1 or more")
        if not (math.isfinite(self.tolerance_seconds) and self.tolerance_seconds >= 0):
            raise UsageError(f"tolerance_seconds={self.tolerance_seconds}: give seconds, 0 or more")
        rate = self.images_per_second
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"images_per_second={rate}: give a rate above 0")
        if self.num_threads is not None and self.num_threads < 1:
            raise UsageError(f"num_threads={self.num_threads}: give a number of threads, 1 or more")

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """`(width, height)` of a frame after `short_side`.

        >>> ReadOptions(short_side=90).scaled_size(320, 180)
        (160, 90)
        """
        shorter = min(width, height)
        if self.short_side is None or self.short_side >= shorter:
            return width, height
        scale = self.short_side / shorter
        return max(1, round(width * scale)), max(1, round(height * scale))
