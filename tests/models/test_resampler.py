"""The Perceiver Resampler against a slow twin, and its temporal embedding against PyTorch's interpolation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.reference import attention as reference
from tests.tiny import draw_weights
from videoflamingo.errors import ModelError
from videoflamingo.models.attention import Backend
from videoflamingo.models.resampler import (
    MEDIA_TOGETHER,
    FrameCorrelation,
    PerceiverResampler,
    ResamplerConfig,
    initial_positions,
    interpolate_time,
)

FEATURE_WIDTH, PATCHES = 7, 3
CONFIG = ResamplerConfig(
    num_latents=4, depth=2, width=6, num_heads=2, dim_head=5, feed_forward_multiplier=2.0, num_frames=4
)


def made(config: ResamplerConfig, feature_width: int = FEATURE_WIDTH, num_patches: int = PATCHES) -> PerceiverResampler:
    resampler = PerceiverResampler(feature_width, num_patches, config)
    draw_weights(resampler, torch.Generator().manual_seed(0))
    return resampler


def random_features(num_frames: int, feature_width: int = FEATURE_WIDTH, num_patches: int = PATCHES) -> torch.Tensor:
    return torch.randn(2, num_frames, num_patches, feature_width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_frames", [1, 4, 6])
@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_the_resampler_and_its_gradients_equal_the_slow_twin(num_frames: int, backend: Backend) -> None:
    check(replace(CONFIG, backend=backend), FEATURE_WIDTH, num_frames)


@pytest.mark.parametrize(
    ("changes", "feature_width"),
    [
        ({"position_embeddings": True}, FEATURE_WIDTH),
        ({"frame_differences": True}, FEATURE_WIDTH),
        ({"frame_differences": True, "difference_hidden": 5}, FEATURE_WIDTH),
        ({"activation": "gelu"}, FEATURE_WIDTH),
        ({}, CONFIG.width),
    ],
    ids=[
        "position embeddings",
        "frame differences",
        "two maps of differences",
        "gelu",
        "features as wide as the resampler",
    ],
)
def test_the_resamplers_options_equal_the_slow_twin(changes: dict, feature_width: int) -> None:
    check(replace(CONFIG, **changes), feature_width, num_frames=3)


@pytest.mark.parametrize("feature_width", [FEATURE_WIDTH, CONFIG.width])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.float32, False, 1e-5), (torch.bfloat16, False, 0.05), (torch.float32, True, 0.05)],
)
def test_standardising_by_way_of_the_weights_is_standardising(
    feature_width: int, dtype: torch.dtype, autocast: bool, tolerance: float
) -> None:
    resampler = made(CONFIG, feature_width)
    raw = (random_features(3, feature_width) * 3 + 1).half()
    scale, shift = torch.linspace(0.2, 0.5, feature_width), torch.linspace(-0.5, 0.1, feature_width)
    expected = resampler(raw.float() * scale + shift)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = resampler.to(dtype)(raw, standardisation=(scale, shift))
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance * 3)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("num_frames", [2, 3])
def test_the_correlation_equals_the_slow_twin(radius: int, num_frames: int) -> None:
    config = replace(CONFIG, correlation_radius=radius, position_embeddings=True, frame_differences=True)
    check(config, FEATURE_WIDTH, num_frames, num_patches=9)


def test_the_correlation_tells_which_way_something_went() -> None:
    """One marked patch on a plain ground: what it is told depends on the way it came, not on where it is."""
    correlation = FrameCorrelation(6, 25, 1)
    ground, mark = torch.eye(6)[0], torch.eye(6)[1]
    with torch.no_grad():
        correlation.sharpness.fill_(50.0)

    def told(start: tuple[int, int], stop: tuple[int, int]) -> torch.Tensor:
        clip = ground.expand(1, 2, 25, 6).clone()
        for frame, (row, column) in enumerate((start, stop)):
            clip[0, frame, row * 5 + column] = mark
        return correlation(clip)[0, 1, stop[0] * 5 + stop[1]]

    right, also_right, down = told((1, 1), (1, 2)), told((3, 2), (3, 3)), told((1, 1), (2, 1))
    torch.testing.assert_close(right, also_right, rtol=1e-3, atol=1e-3)
    assert (right - down).abs().max() > 0.1
    torch.testing.assert_close(right, correlation.origins[3], rtol=1e-3, atol=1e-3)  # one column to the left


@pytest.mark.parametrize(
    ("settings", "num_patches", "message"),
    [
        ({"correlation_radius": -1}, 9, "correlation_radius is -1; give 0 or more"),
        ({"correlation_radius": 1}, 8, "needs patches of a square grid, but a frame has 8"),
    ],
)
def test_a_correlation_that_cannot_be_is_refused(settings: dict, num_patches: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        made(replace(CONFIG, **settings), FEATURE_WIDTH, num_patches)


def test_a_correlation_refuses_another_number_of_patches() -> None:
    resampler = made(replace(CONFIG, correlation_radius=1), FEATURE_WIDTH, 9)
    with pytest.raises(ModelError, match="frames have 3 patches, but the correlation was made for 9"):
        resampler(random_features(4))


def test_a_model_of_bfloat16_correlates() -> None:
    resampler = made(replace(CONFIG, correlation_radius=1), FEATURE_WIDTH, 9).bfloat16()
    assert resampler(random_features(3, num_patches=9).bfloat16()).dtype == torch.bfloat16


def check(config: ResamplerConfig, feature_width: int, num_frames: int, num_patches: int = PATCHES) -> None:
    resampler = made(config, feature_width, num_patches)
    features = random_features(num_frames, feature_width, num_patches).requires_grad_()
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


@pytest.mark.parametrize("num_frames", [1, 3])
def test_pooled_tokens_are_means_of_patches_of_one_length_over_parts_of_the_frame_and_all_frames(
    num_frames: int,
) -> None:
    plain = replace(CONFIG, width=8)
    resampler = made(replace(plain, pooled_side=2), num_patches=16)
    features = random_features(num_frames, num_patches=16)
    scale, shift = torch.rand(FEATURE_WIDTH) + 0.5, torch.randn(FEATURE_WIDTH)
    tokens = resampler(features, standardisation=(scale, shift))
    assert tokens.shape == (2, plain.num_latents + 4, 8)
    assert resampler.pooled is not None
    seen = features * scale + shift
    grid = (seen / seen.norm(dim=-1, keepdim=True) * FEATURE_WIDTH**0.5).unflatten(2, (4, 4))
    for number in range(4):
        row, column = divmod(number, 2)
        part = grid[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2, 3))
        expected = resampler.pooled.norm(part @ resampler.pooled.project.weight.T) + resampler.pooled.place[number]
        assert torch.allclose(tokens[:, plain.num_latents + number], expected, atol=1e-5)
    without = PerceiverResampler(FEATURE_WIDTH, 16, plain)
    without.load_state_dict(resampler.state_dict(), strict=False)
    latents = without(features, standardisation=(scale, shift))
    assert torch.allclose(tokens[:, : plain.num_latents], latents)


def test_pooled_tokens_of_many_media_are_those_of_each_and_nothing_divides_by_zero() -> None:
    resampler = made(replace(CONFIG, pooled_side=2), num_patches=4)
    features = torch.randn(MEDIA_TOGETHER + 3, 2, 4, FEATURE_WIDTH)
    features[0] = 0  # a black frame, where features are not standardised
    tokens = resampler(features)
    assert bool(tokens.isfinite().all())
    alone = torch.cat([resampler(medium[None]) for medium in features])
    torch.testing.assert_close(tokens, alone, rtol=1e-5, atol=1e-5)


def test_pooled_tokens_need_a_square_grid_that_is_fine_enough() -> None:
    for num_patches, side in ((6, 2), (4, 3)):
        with pytest.raises(
            ModelError, match=f"pooled_side is {side}, which needs .* a frame has {num_patches} patches"
        ):
            PerceiverResampler(FEATURE_WIDTH, num_patches, replace(CONFIG, pooled_side=side))
    with pytest.raises(ModelError, match="pooled_side is -1; give 0 or more"):
        replace(CONFIG, pooled_side=-1)
    with pytest.raises(ModelError, match="pooled tokens were made for 4; use"):
        made(replace(CONFIG, pooled_side=2), num_patches=4)(random_features(1, num_patches=9))


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


@pytest.mark.parametrize("hidden", [0, 5])
def test_frame_differences_add_nothing_to_a_picture_or_to_what_stands_still(hidden: int) -> None:
    resampler = made(replace(CONFIG, frame_differences=True, difference_hidden=hidden))
    without = made(CONFIG)
    without.load_state_dict(resampler.state_dict(), strict=False)
    moving, still = random_features(4), random_features(1).expand(-1, 4, -1, -1)
    for features in (random_features(1), still):
        torch.testing.assert_close(resampler(features), without(features), rtol=1e-5, atol=1e-5)
    assert (resampler(moving) - without(moving)).abs().max() > 0.01


@pytest.mark.parametrize("settings", [{"difference_hidden": 5}, {"frame_differences": True, "difference_hidden": -1}])
def test_a_second_map_of_differences_that_cannot_be_is_refused(settings: dict) -> None:
    with pytest.raises(ModelError, match=r"difference_hidden is -?\d; give 0 or more"):
        ResamplerConfig(**settings)


def test_the_second_map_of_differences_changes_nothing_at_first() -> None:
    resampler = PerceiverResampler(FEATURE_WIDTH, PATCHES, replace(CONFIG, frame_differences=True, difference_hidden=5))
    without = PerceiverResampler(FEATURE_WIDTH, PATCHES, replace(CONFIG, frame_differences=True))
    without.load_state_dict(resampler.state_dict(), strict=False)
    features = random_features(4)
    assert torch.equal(resampler(features), without(features))


def test_positions_start_as_waves_of_a_square_grid_and_random_elsewhere() -> None:
    torch.manual_seed(0)
    grid = initial_positions(36, 384).unflatten(0, (6, 6))
    alike = F.cosine_similarity
    beside, across = alike(grid[2, 2], grid[2, 3], dim=0), alike(grid[2, 2], grid[5, 5], dim=0)
    assert beside > 0.5 > across + 0.2
    assert float(grid.std()) == pytest.approx(1.0, abs=0.1)
    assert initial_positions(35, 384).shape == (35, 384)


def test_a_latent_first_attends_to_its_own_share_of_the_time() -> None:
    """Eight latents, eight frames, all weights as they are drawn: latent i gives frame i most of its attention."""
    torch.manual_seed(0)
    resampler = PerceiverResampler(64, 1, ResamplerConfig(num_latents=8, depth=1, width=384, num_heads=6, dim_head=64))
    layer = resampler.layers[0]
    media = resampler.project(torch.randn(8, 64)) + resampler.time
    query = layer.to_query(layer.norm_latents(resampler.latents)).unflatten(-1, layer.heads_shape)
    keys = layer.to_keys_values(layer.norm_media(media)).chunk(2, dim=-1)[0].unflatten(-1, layer.heads_shape)
    scores = torch.einsum("nhd,thd->hnt", query, keys) / 64**0.5
    assert scores.softmax(-1).mean(0).argmax(-1).tolist() == list(range(8))
