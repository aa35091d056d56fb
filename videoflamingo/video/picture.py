"""Still pictures, and the animations that FFmpeg cannot read, through Pillow.

A picture is a video of one frame, shown at 0 seconds. An animated GIF or PNG is a video like any other, which PyAV
reads; FFmpeg has no decoder for animated WebP, so that is read here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pyav import Allocate
from videoflamingo.video.source import SourceFile
from videoflamingo.video.timeline import checked_times, number_shown_at

# First bytes of the formats read here; everything else goes to the video readers.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"GIF8", b"RIFF")

HEAD_BYTES = 12  # enough to tell the formats apart

_ORIENTATION = 0x0112  # the EXIF entry; from 5 on, upright is a quarter turn away from stored

# What browsers and FFmpeg show a frame for that gives no duration.
_SECONDS_OF_A_FRAME_WITHOUT_DURATION = 0.1


@dataclass(frozen=True)
class PictureHeader:
    """What a picture says of itself before it is decoded; `width` and `height` are upright."""

    width: int
    height: int
    codec: str
    pixel_format: str


def is_picture(source: SourceFile, head: bytes) -> bool:
    """Whether the source is a still picture, judged by its content; an animated GIF, PNG or WebP is a video.

    Args:
        head: its first `HEAD_BYTES` bytes, or all if it is shorter.
    """
    if not head.startswith(_SIGNATURES) or (head.startswith(b"RIFF") and head[8:12] != b"WEBP"):
        return False
    try:
        with _image(source) as image:
            return not (image.format in ("GIF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1)
    except UnidentifiedImageError:
        # A video may begin with two letters of a picture format; a damaged PNG is still better explained as a picture.
        return head.startswith(_SIGNATURES[:2])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


def is_animated_webp(source: SourceFile, head: bytes) -> bool:
    """Whether the source is an animated WebP, judged by its content; arguments as for `is_picture`."""
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP" and not is_picture(source, head)


def picture_header(source: SourceFile) -> PictureHeader:
    """Read a picture's size and kind, and decode nothing.

    Raises:
        VideoError: if the picture is damaged or too large to open safely.
    """
    with _opened(source) as image:
        return _header(image)


def read_picture(source: SourceFile, options: ReadOptions) -> tuple[np.ndarray, PictureHeader]:
    """A picture and its header.

    Returns:
        `[height, width, 3]` uint8 RGB: upright by its EXIF orientation, transparency over white, after `short_side`
        (bicubic, antialiased); and the header, with the size before `short_side`.

    Raises:
        VideoError: if the picture is damaged or too large to open safely.
    """
    with _opened(source) as image:
        header = _header(image)
        size = options.scaled_size(header.width, header.height)
        if image.format == "JPEG" and size != (header.width, header.height):
            # A JPEG is decoded at a half, a quarter or an eighth where that leaves at least twice the pixels wanted.
            short, long = 2 * min(size), 2 * max(size)
            image.draft(None, (long, short) if image.width > image.height else (short, long))
        return np.asarray(_scaled(_opaque(ImageOps.exif_transpose(image)), size)), header


class PictureReader:
    """One picture as a video of one frame.

    Raises:
        VideoError: if the picture is damaged or too large to open safely.
    """

    name = "picture"

    def __init__(self, source: SourceFile, options: ReadOptions | None = None, reason: str = "a still picture") -> None:
        self.reason = reason
        self._pixels, header = read_picture(source, options or ReadOptions())  # [height, width, 3]
        self.info = VideoInfo(
            source=source.name,
            width=header.width,
            height=header.height,
            duration_seconds=0.0,
            duration_from="picture",
            last_frame_seconds=0.0,
            start_seconds=0.0,
            frames_per_second=None,
            num_frames_from_header=1,
            variable_frame_rate=False,
            edit_list=False,
            rotation=0,
            codec=header.codec,
            pixel_format=header.pixel_format,
            num_bytes=source.num_bytes(),
        )

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The picture, once for each time asked for, always shown at 0 s; as `PyavReader.frames_at`."""
        times = checked_times(self.info.source, times_seconds)
        memory = allocate((len(times), *self._pixels.shape), np.uint8)  # [T, height, width, 3]
        memory[:] = self._pixels
        return memory.transpose(0, 3, 1, 2), np.zeros(len(times))

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AnimationReader:
    """An animated WebP as a video: each frame as a browser would show it, transparency over white.

    Opening decodes every frame once, because the format has no list of its frames' times.

    Raises:
        VideoError: if the animation is damaged or too large to open safely.
    """

    name = "animation"

    def __init__(
        self, source: SourceFile, options: ReadOptions | None = None, reason: str = "an animation FFmpeg cannot read"
    ) -> None:
        self.reason = reason
        self._source = _with_transparency(source)
        self._options = options or ReadOptions()
        with _opened(self._source) as image:
            header = _header(image)
            durations = list(_durations_seconds(image))
        ends_seconds = np.cumsum(durations)
        self._starts_seconds = np.concatenate([[0.0], ends_seconds[:-1]])  # [frames]
        self.info = VideoInfo(
            source=source.name,
            width=header.width,
            height=header.height,
            duration_seconds=float(ends_seconds[-1]),
            duration_from="frames",
            last_frame_seconds=float(self._starts_seconds[-1]),
            start_seconds=0.0,
            frames_per_second=len(durations) / float(ends_seconds[-1]),
            num_frames_from_header=len(durations),
            variable_frame_rate=len(set(durations)) > 1,
            edit_list=False,
            rotation=0,
            codec=header.codec,
            pixel_format=header.pixel_format,
            num_bytes=source.num_bytes(),
        )

    def frames_at(self, times_seconds: Sequence[float], allocate: Allocate = np.empty) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at these times, as `PyavReader.frames_at`."""
        times = checked_times(self.info.source, times_seconds)
        shown = number_shown_at(times, self._starts_seconds)
        width, height = self._options.scaled_size(self.info.width, self.info.height)
        memory = allocate((len(times), height, width, 3), np.uint8)
        with _opened(self._source) as image:
            for number in np.unique(shown):
                image.seek(int(number))
                memory[shown == number] = np.asarray(_scaled(_opaque(image), (width, height)))
        return memory.transpose(0, 3, 1, 2), self._starts_seconds[shown]

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def scaled_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame `[height, width, 3]` uint8 at another `(width, height)`: bicubic, antialiased."""
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return np.asarray(_scaled(Image.fromarray(frame), size))


@contextmanager
def _image(source: SourceFile) -> Iterator[Image.Image]:
    opened = source.open()
    try:
        with Image.open(opened) as image:
            yield image
    finally:
        if not isinstance(opened, str):
            opened.close()


@contextmanager
def _opened(source: SourceFile) -> Iterator[Image.Image]:
    """A picture through Pillow; what goes wrong with it, also while it is decoded, as a `VideoError`."""
    try:
        with _image(source) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise VideoError(
            f"{source.name}: the picture is too large to open safely ({error}); save it smaller"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise VideoError(
            f"{source.name}: the picture cannot be decoded ({error}); save or download it again"
        ) from error


def _header(image: Image.Image) -> PictureHeader:
    width, height = image.size
    if image.getexif().get(_ORIENTATION, 1) >= 5:
        width, height = height, width
    return PictureHeader(width, height, (image.format or "picture").lower(), image.mode.lower())


def _opaque(image: Image.Image) -> Image.Image:
    """The picture as RGB, transparency over white."""
    if image.mode.startswith("I;16"):  # Pillow clips 16-bit greys to 255 instead of scaling them
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _with_transparency(webp: SourceFile) -> SourceFile:
    """An animated WebP, in memory, that says it has transparency: else Pillow shows what no frame covers as black."""
    content = bytearray(webp.head(webp.num_bytes()))
    if content[12:16] == b"VP8X":
        content[20] |= 0x10
    return SourceFile(webp.name, bytes(content))


def _durations_seconds(image: Image.Image) -> Iterator[float]:
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        yield image.info.get("duration", 0) / 1000 or _SECONDS_OF_A_FRAME_WITHOUT_DURATION
