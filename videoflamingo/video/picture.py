"""Still pictures: a picture is a video of one frame, shown at 0 seconds."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import VideoError

# First bytes of the formats read here; everything else goes to the video readers.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"GIF8", b"RIFF")


def is_picture(source: str) -> bool:
    """Whether the file is a still picture, judged by its content; an animated GIF, PNG or WebP is a video."""
    with open(source, "rb") as file:
        head = file.read(12)
    if not head.startswith(_SIGNATURES) or (head.startswith(b"RIFF") and head[8:12] != b"WEBP"):
        return False
    try:
        with Image.open(source) as image:
            return not (image.format in ("GIF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1)
    except UnidentifiedImageError:
        # A video may begin with two letters of a picture format; a damaged PNG is still better explained as a picture.
        return head.startswith(_SIGNATURES[:2])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


class PictureReader:
    """One picture as a video of one frame: upright by its EXIF orientation, transparency over white.

    Raises:
        VideoError: if the picture is damaged or too large to open safely.
    """

    name = "picture"

    def __init__(self, source: str) -> None:
        try:
            with Image.open(source) as image:
                pixel_format, codec = image.mode, (image.format or "picture").lower()
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I;16"):  # Pillow clips 16-bit greys to 255 instead of scaling them
                    upright = Image.fromarray((np.asarray(upright, np.uint16) >> 8).astype(np.uint8))
                rgba = upright.convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoError(f"{source}: the picture cannot be decoded ({error}); save or download it again") from error
        white = Image.new("RGBA", rgba.size, "white")
        frame = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))  # [height, width, 3]
        self._frame = np.ascontiguousarray(frame.transpose(2, 0, 1))  # [3, height, width]
        self.info = VideoInfo(
            source=source,
            width=rgba.width,
            height=rgba.height,
            duration_seconds=0.0,
            duration_from="picture",
            last_frame_seconds=0.0,
            start_seconds=0.0,
            frames_per_second=None,
            num_frames_from_header=1,
            variable_frame_rate=False,
            edit_list=False,
            rotation=0,
            codec=codec,
            pixel_format=pixel_format.lower(),
            num_bytes=os.path.getsize(source),
        )

    def frames_at(self, times_seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """The picture, once for each time asked for, always shown at 0 s."""
        count = len(times_seconds)
        return np.repeat(self._frame[None], count, axis=0), np.zeros(count)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> "PictureReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
