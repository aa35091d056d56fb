"""A folder of numbered pictures as a video: `frame_0001.jpg`, `frame_0002.jpg`, ...

The numbers are the clock: picture n is shown (n - first number) / images_per_second seconds after the first. Where
numbers are missing, the picture before the gap is shown for longer.
"""

import os
import re
from collections.abc import Sequence
from typing import Self

import numpy as np

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.picture import picture_header, read_picture
from videoflamingo.video.pyav import Allocate
from videoflamingo.video.source import SourceFile
from videoflamingo.video.timeline import checked_times, number_shown_at

_NUMBER_AT_THE_END = re.compile(r"[0-9]+$")


class FolderReader:
    """Pictures of one folder by time. Only those asked for are opened, and the first one's header.

    Args:
        source: the folder. Hidden files (`.DS_Store`) are passed over.
        options: `images_per_second` must be given. `short_side` scales by bicubic, antialiased.
        reason: why this reader.

    Raises:
        UsageError: if `images_per_second` is missing.
        VideoError: if the folder holds no pictures, a name without a number at its end, or one number twice; or if the
            first picture is damaged.
    """

    name = "folder"

    def __init__(
        self, source: SourceFile, options: ReadOptions | None = None, reason: str = "a folder of numbered pictures"
    ) -> None:
        self.reason = reason
        self._options = options or ReadOptions()
        rate = self._options.images_per_second
        if rate is None:
            raise UsageError(
                f"{source.name}: is a folder of pictures, which has no clock of its own; say how many are shown a "
                "second: images_per_second=3, or --images-per-second 3"
            )
        source.check()
        numbered = _numbered_pictures(source.name)
        numbers = np.array([number for number, _ in numbered], dtype=np.float64)
        self._pictures = [SourceFile(path) for _, path in numbered]
        self._starts_seconds = (numbers - numbers[0]) / rate  # [pictures]
        self._first = picture_header(self._pictures[0])
        last_frame_seconds = float(self._starts_seconds[-1])
        self.info = VideoInfo(
            source=source.name,
            width=self._first.width,
            height=self._first.height,
            duration_seconds=float(numbers[-1] - numbers[0] + 1) / rate,
            duration_from="folder",
            last_frame_seconds=last_frame_seconds,
            start_seconds=0.0,
            frames_per_second=rate,
            num_frames_from_header=None,
            variable_frame_rate=bool((np.diff(numbers) != 1).any()),
            edit_list=False,
            rotation=0,
            codec=self._first.codec,
            pixel_format=self._first.pixel_format,
            num_bytes=sum(picture.num_bytes() for picture in self._pictures),
        )

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The pictures shown at these times, as `PyavReader.frames_at`.

        Raises:
            SamplingError: if no time is given, or one is not a finite number.
            VideoError: if a picture that is needed is damaged, or has another size than the first.
        """
        times = checked_times(self.info.source, times_seconds)
        shown = number_shown_at(times, self._starts_seconds)
        width, height = self._options.scaled_size(self.info.width, self.info.height)
        memory = allocate((len(times), height, width, 3), np.uint8)
        for number in np.unique(shown):
            pixels, header = read_picture(self._pictures[number], self._options)
            if (header.width, header.height) != (self.info.width, self.info.height):
                raise VideoError(
                    f"{self._pictures[number].name}: is {header.width}x{header.height}, but the folder's first picture "
                    f"{os.path.basename(self._pictures[0].name)} is {self.info.width}x{self.info.height}; pictures of "
                    "one video must have one size"
                )
            memory[shown == number] = pixels
        return memory.transpose(0, 3, 1, 2), self._starts_seconds[shown]

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _numbered_pictures(folder: str) -> list[tuple[int, str]]:
    """`(number, path)` of each picture, by number."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not names:
        raise VideoError(f"{folder}: is a folder without pictures; put pictures named frame_0001.jpg and so on in it")
    by_number: dict[int, str] = {}
    for name in names:
        number = _NUMBER_AT_THE_END.search(os.path.splitext(name)[0])
        path = os.path.join(folder, name)
        if number is None or os.path.isdir(path):
            kind = "is a folder" if os.path.isdir(path) else "has no number at the end of its name"
            raise VideoError(
                f"{path}: {kind}, so the folder is no video of numbered pictures (frame_0001.jpg, 17.png); name a file "
                "to read, or move this one elsewhere"
            )
        first = by_number.setdefault(int(number.group()), name)
        if first != name:
            raise VideoError(
                f"{path}: has the number {int(number.group())}, as {first} has; give each picture its own number"
            )
    return [(number, os.path.join(folder, name)) for number, name in sorted(by_number.items())]
