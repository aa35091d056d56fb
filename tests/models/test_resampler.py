"""The Perceiver Resampler against a slow twin, and its temporal embedding against PyTorch's interpolation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.reference import attention as reference
from tests.tiny import draw_weights
from videoflamingo.errors import ModelError
from videoflamingo.models.attention import Backend
from videoflamingo.models.resampler import PerceiverResampler, ResamplerConfig, interpolate_time

FEATURE_WIDTH, PATCHES = 7, 3
CONFIG = ResamplerConfig(
    num_latents=4, depth=2, width=6, num_heads=2, dim_head=5, feed_forward_multiplier=2.0, num_frames=4
)


def made(config: ResamplerConfig, feature_width: int = FEATURE_WIDTH) -> PerceiverResampler:
    resampler = PerceiverResampler(feature_width, PATCHES, config)
    draw_weights(resampler, torch.Generator().manual_seed(0))
    return resampler


def random_features(num_frames: int, feature_width: int = FEATURE_WIDTH) -> torch.Tensor:
    return torch.randn(2, num_frames, PATCHES, feature_width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_frames", [1, 4, 6])
@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_the_resampler_and_its_gradients_equal_the_slow_twin(num_frames: int, backend: Backend) -> None:
    check(replace(CONFIG, backend=backend), FEATURE_WIDTH, num_frames)


@pytest.mark.parametrize(
    ("changes", "feature_width"),
    [({"position_embeddings": True}, FEATURE_WIDTH), ({"activation": "gelu"}, FEATURE_WIDTH), ({}, CONFIG.width)],
    ids=["position embeddings", "gelu", "features as wide as the resampler"],
)
def test_the_resamplers_options_equal_the_slow_twin(changes: dict, feature_width: int) -> None:
    check(replace(CONFIG, **changes), feature_width, num_frames=3)


def check(config: ResamplerConfig, feature_width: int, num_frames: int) -> None:
    resampler = made(config, feature_width)
    features = random_features(num_frames, feature_width).requires_grad_()
    output = resampler(features)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((output * weights).sum(), [features, *resampler.parameters()])

    resampler.double()
    exact = features.detach().double().requires_grad_()
    expected = reference.resampler(exact, resampler)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    slow = torch.autograd.grad((expected * weights).sum(), [exact, *resampler.parameters()])
    for mine, theirs in zip(found, slow, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 3, 8, 30, 31])
def test_time_is_interpolated_as_torch_does_with_half_samples(num_frames: int) -> None:
    table = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(table.T[None], num_frames, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(interpolate_time(table, num_frames), expected, rtol=1e-5, atol=1e-6)


def test_as_many_frames_as_entries_read_the_table_itself() -> None:
    table = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate_time(table, 8), table)


def test_a_picture_reads_the_middle_of_the_table() -> None:
    assert interpolate_time(torch.tensor([[0.0], [1.0], [3.0], [100.0]]), 1).tolist() == [[2.0]]


def test_the_order_of_frames_counts() -> None:
    resampler, features = made(CONFIG), random_features(4)
    assert (resampler(features) - resampler(features.flip(1))).abs().max() > 0.01


def test_the_order_of_patches_counts_only_with_position_embeddings() -> None:
    features = random_features(4)
    without, with_them = made(CONFIG), made(replace(CONFIG, position_embeddings=True))
    torch.testing.assert_close(without(features), without(features.flip(2)), rtol=1e-5, atol=1e-5)
    assert (with_them(features) - with_them(features.flip(2))).abs().max() > 0.01


def test_position_embeddings_refuse_another_number_of_patches() -> None:
    resampler = made(replace(CONFIG, position_embeddings=True))
    with pytest.raises(ModelError, match="frames have 2 patches, but the position embeddings were made for 3"):
        resampler(random_features(4)[:, :, :2])
