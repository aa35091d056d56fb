"""Frames of any size to the squares a tower takes: resized, then cut or padded about the centre, then normalised."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from videoflamingo.errors import ModelError

Fit = Literal["pad", "crop", "stretch", "model"]
FITS = ("pad", "crop", "stretch", "model")


@dataclass(frozen=True)
class PixelSettings:
    """What a tower was trained on, from its own configuration (timm's `resolve_data_config`).

    Args:
        side: of its square frames.
        mean: of each colour, of pixels in [0, 1].
        std: likewise.
        interpolation: how frames are resized, `bilinear` or `bicubic`.
        crop_pct: the part of a resized frame's side that `fit="model"` keeps, in (0, 1].
        crop_mode: what `fit="model"` does to the aspect: `center`, `squash` or `border`.

    Raises:
        ModelError: if the interpolation or the crop mode is another one.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name, known in (("interpolation", ("bilinear", "bicubic")), ("crop_mode", ("center", "squash", "border"))):
            if getattr(self, name) not in known:
                raise ModelError(
                    f"the tower's {name} is {getattr(self, name)!r}; frames can be resized with "
                    f"{' or '.join(known)} only: choose another tower"
                )


def resized_size(height: int, width: int, size: int, fit: Fit, settings: PixelSettings) -> tuple[int, int]:
    """Height and width to which a frame is resized before it is cut or padded to a square of `size`.

    `model` rounds as timm's evaluation transform does: its `center` as torchvision's `Resize`, its `border` as timm's
    `ResizeKeepRatio`.
    """
    shorter, longer = sorted((height, width))
    target = math.floor(size / settings.crop_pct)
    if fit == "stretch":
        return size, size
    if fit == "model" and settings.crop_mode == "squash":
        return target, target
    if fit == "model" and settings.crop_mode == "center":
        long_side = int(target * longer / shorter)
        return (target, long_side) if height <= width else (long_side, target)
    if fit == "model":  # border
        ratio = longer / target
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    scale = size / (longer if fit == "pad" else shorter)
    return max(1, round(height * scale)), max(1, round(width * scale))


def square_pixels(
    pixels: Tensor, size: int, fit: Fit, settings: PixelSettings, pixel_mean: Tensor, pixel_std: Tensor
) -> Tensor:
    """Frames `[T, 3, height, width]` in [0, 1] -> normalised squares `[T, 3, size, size]`; padding is the mean, 0.

    Args:
        pixel_mean: `[3, 1, 1]`, like `pixel_std`.
    """
    height, width = pixels.shape[-2:]
    new_size = resized_size(height, width, size, fit, settings)
    if new_size != (height, width):
        mode = settings.interpolation
        pixels = F.interpolate(pixels, new_size, mode=mode, align_corners=False, antialias=True).clamp_(0, 1)
    pixels = (pixels - pixel_mean) / pixel_std
    top, left = (_offset(size - side) for side in new_size)
    return F.pad(pixels, (left, size - new_size[1] - left, top, size - new_size[0] - top))


def _offset(gap: int) -> int:
    """Where a side starts in the square, which is `gap` longer than it; rounded as torchvision does where it is cut."""
    return gap // 2 if gap >= 0 else round(gap / 2)
