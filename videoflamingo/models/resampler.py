"""Perceiver Resampler: any number of frames to a fixed number of visual tokens (Flamingo v1 3.1.1, v2 A.1.1)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoflamingo.errors import ModelError
from videoflamingo.models.attention import Backend, attend
from videoflamingo.models.feed_forward import Activation, FeedForward

CORRELATED_WIDTH, INITIAL_CORRELATION_SHARPNESS = 64, 10.0
MEDIA_TOGETHER = 8  # whose features are pooled at once, so that what lies between stays in a CPU's cache
INITIAL_SHARPNESS = 1.5  # of queries and keys, as multiples of PyTorch's initial weights


@dataclass(frozen=True)
class ResamplerConfig:
    """Defaults are the paper's: 64 latents, 6 layers, width 1536, 16 heads (v2 table 5), 8 time embeddings (v2 B.1.2).

    Args:
        num_latents: N.
        depth, width, num_heads, dim_head, feed_forward_multiplier, activation: of the layers; `dim_head` is 96 in v2,
            128 in v1.
        num_frames: entries of the temporal embedding table; other frame counts interpolate it.
        position_embeddings: learnt embedding per patch. Off in the paper, which found no gain at its scale.
        frame_differences: give each patch also how it differs from the same patch one frame earlier, linearly. Not in
            the paper; what moves, and where to, is then seen within one frame (docs/decisions/0007).
        difference_hidden: with `frame_differences`, hidden width of a second map of the same difference, with a ReLU;
            0 = none. Attention scores are linear in what a patch holds, and no linear map tells that it changed at all,
            whichever way (docs/decisions/0010).
        correlation_radius: tell each patch also which patch of the frame before it is like, at most so many rows and
            columns away: what moved is most like the place where it was. 0 = none. Not in the paper; motion is learnt
            many times faster with it (docs/decisions/0021).
        pooled_side: S, for S * S more visual tokens, one for each of S x S equal parts of the frame: the mean of the
            features there, of one length each, over all frames, through one linear map and a norm. 0 = none. Not in the
            paper; latents keep what training asks of them, these also how a place looks (docs/decisions/0026, 0030).
        backend: attention kernel.
    """

    num_latents: int = 64
    depth: int = 6
    width: int = 1536
    num_heads: int = 16
    dim_head: int = 96
    feed_forward_multiplier: float = 4.0
    activation: Activation = "squared_relu"
    num_frames: int = 8
    position_embeddings: bool = False
    frame_differences: bool = False
    difference_hidden: int = 0
    correlation_radius: int = 0
    pooled_side: int = 0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.difference_hidden < 0 or (self.difference_hidden and not self.frame_differences):
            raise ModelError(
                f"ResamplerConfig.difference_hidden is {self.difference_hidden}; give 0 or more, and above 0 only with "
                "frame_differences"
            )
        if self.correlation_radius < 0:
            raise ModelError(f"ResamplerConfig.correlation_radius is {self.correlation_radius}; give 0 or more")
        if self.pooled_side < 0:
            raise ModelError(f"ResamplerConfig.pooled_side is {self.pooled_side}; give 0 or more")

    @property
    def num_visual_tokens(self) -> int:
        """N + S * S, of each medium."""
        return self.num_latents + self.pooled_side**2


def interpolate_time(table: Tensor, num_frames: int) -> Tensor:
    """The table `[K, D]` read at the centres of `num_frames` equal parts of time -> `[num_frames, D]`.

    Linear interpolation with half-sample alignment (as `torch.nn.functional.interpolate(align_corners=False)`), which
    is where `uniform` sampling takes its frames; the paper interpolates 8 to 30 (v1 4.1.4) and names no alignment. A
    picture reads the middle of the table.
    """
    positions = (torch.arange(num_frames, device=table.device) + 0.5) * (len(table) / num_frames) - 0.5
    positions = positions.clamp(0, len(table) - 1)
    below = positions.floor().long()
    above = (below + 1).clamp(max=len(table) - 1)
    share = (positions - below).to(table.dtype)[:, None]
    return table[below] * (1 - share) + table[above] * share


def initial_positions(num_patches: int, width: int) -> Tensor:
    """Position embeddings `[P, D]` to start from, of standard deviation 1: nearby patches of a square grid are alike.

    Random combinations of two waves along each axis; where P is no square number, simply random.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        return torch.randn(num_patches, width)
    places = (torch.arange(side) + 0.5) / side
    angles = 2 * math.pi * torch.cartesian_prod(places, places)[:, :, None] * torch.tensor([1.0, 2.0])  # [P, 2, 2]
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # [P, 8], of mean square 1/2
    return waves @ torch.randn(waves.shape[1], width) * (2 / waves.shape[1]) ** 0.5


def _changes(config: ResamplerConfig) -> nn.Sequential:
    """Differences `[..., D]` -> `[..., D]`, zero to start with."""
    last = nn.Linear(config.difference_hidden, config.width, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Linear(config.width, config.difference_hidden, bias=False), nn.ReLU(), last)


class FrameCorrelation(nn.Module):
    """Where each patch was one frame earlier, as far as likeness tells: a soft choice among the patches around it.

    Cosines between learnt maps of a patch and of those around it in the frame before (the cost volume of optical flow),
    a softmax over them, and the so weighted mean of a learnt vector for each way to come. What looks alike everywhere
    gets the mean of all; what moved gets the vector of where it came from. The first frame gets zeros.

    Args:
        num_patches: of a square grid.

    Raises:
        ModelError: if P is no square number.
    """

    near: Tensor  # [P, S], int64: the patches around each
    inside: Tensor  # [P, S], which of them there are

    def __init__(self, width: int, num_patches: int, radius: int) -> None:
        super().__init__()
        side = math.isqrt(num_patches)
        if side * side != num_patches:
            raise ModelError(
                f"ResamplerConfig.correlation_radius needs patches of a square grid, but a frame has {num_patches}; "
                "set it to 0, or use another image size"
            )
        around = torch.arange(-radius, radius + 1)
        rows = (torch.arange(side)[:, None] + around)[:, None, :, None].expand(side, side, -1, len(around))
        columns = (torch.arange(side)[:, None] + around)[None, :, None, :].expand(side, side, len(around), -1)
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        near = rows.clamp(0, side - 1) * side + columns.clamp(0, side - 1)
        self.register_buffer("near", near.reshape(num_patches, -1), persistent=False)
        self.register_buffer("inside", inside.reshape(num_patches, -1), persistent=False)
        self.compare = nn.Linear(width, CORRELATED_WIDTH, bias=False)
        self.sharpness = nn.Parameter(torch.full((1,), INITIAL_CORRELATION_SHARPNESS))
        self.origins = nn.Parameter(torch.randn(len(around) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[K, T, P, D]` -> `[K, T, P, D]`."""
        compared = F.normalize(self.compare(x), dim=-1)
        alike = compared[:, 1:] @ compared[:, :-1].transpose(-1, -2)  # [K, T-1, P, P]
        near = alike.gather(-1, self.near.expand(*alike.shape[:2], -1, -1)).float()  # [K, T-1, P, S]
        share = (near * self.sharpness).masked_fill(~self.inside, -math.inf).softmax(-1)
        return F.pad(share.to(self.origins.dtype) @ self.origins, (0, 0, 0, 0, 1, 0))


class ResamplerLayer(nn.Module):
    """Latents attend to `[media ; latents]` (the paper's concatenation), then a feed-forward; pre-norm."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.dim_head
        self.heads_shape = (config.num_heads, config.dim_head)
        self.backend = config.backend
        self.norm_media = nn.LayerNorm(config.width)
        self.norm_latents = nn.LayerNorm(config.width)
        self.to_query = nn.Linear(config.width, inner, bias=False)
        self.to_keys_values = nn.Linear(config.width, 2 * inner, bias=False)
        with torch.no_grad():  # like attends to like at first, so that a latent begins with what resembles it
            keys = self.to_keys_values.weight[:inner].mul_(INITIAL_SHARPNESS)
            self.to_query.weight.copy_(keys)
        self.to_output = nn.Linear(inner, config.width, bias=False)
        self.feed_forward = FeedForward(config.width, config.feed_forward_multiplier, config.activation)

    def forward(self, latents: Tensor, media: Tensor) -> Tensor:
        """Latents `[K, N, D]` and media `[K, T*P, D]` -> latents `[K, N, D]`."""
        normed = self.norm_latents(latents)
        keys, values = self.to_keys_values(torch.cat([self.norm_media(media), normed], dim=1)).chunk(2, dim=-1)
        query = self.to_query(normed).unflatten(-1, self.heads_shape)  # [K, N, H, d]
        keys, values = keys.unflatten(-1, self.heads_shape), values.unflatten(-1, self.heads_shape)
        latents = latents + self.to_output(attend(query, keys, values, self.backend).flatten(2))
        return latents + self.feed_forward(latents)


class PooledTokens(nn.Module):
    """How each part of a medium's frames looks: means of the tower's features over it and over time, one token each.

    A patch's features are brought to one length first, so that each patch has one vote (docs/decisions/0030). A random
    linear map keeps likeness, so these are of use for what was never trained on (docs/decisions/0026).

    Args:
        num_patches: of a square grid.

    Raises:
        ModelError: if P is no square number, or its side is below `pooled_side`.
    """

    def __init__(self, feature_width: int, num_patches: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.side, self.grid_side = config.pooled_side, math.isqrt(num_patches)
        if self.grid_side**2 != num_patches or self.side > self.grid_side:
            raise ModelError(
                f"ResamplerConfig.pooled_side is {self.side}, which needs patches of a square grid with as many rows "
                f"or more, but a frame has {num_patches} patches; set it to 0, or use another image size"
            )
        self.project = nn.Linear(feature_width, config.width, bias=False)
        nn.init.normal_(self.project.weight, std=feature_width**-0.5)
        self.norm = nn.LayerNorm(config.width)
        self.place = nn.Parameter(torch.randn(self.side**2, config.width))

    def forward(self, features: Tensor, standardisation: tuple[Tensor, Tensor] | None) -> Tensor:
        """`[K, T, P, feature_width]` -> `[K, S*S, D]`."""
        votes = torch.cat([self._votes(some, standardisation) for some in features.split(MEDIA_TOGETHER)])
        grid = votes.transpose(1, 2).unflatten(2, (self.grid_side, self.grid_side))
        means = F.adaptive_avg_pool2d(grid, self.side).flatten(2).transpose(1, 2)  # [K, S*S, feature_width]
        return self.norm(self.project(means.to(self.project.weight.dtype))) + self.place

    @staticmethod
    def _votes(features: Tensor, standardisation: tuple[Tensor, Tensor] | None) -> Tensor:
        """`[K, T, P, feature_width]` -> float32 `[K, P, feature_width]`: means over frames of vectors of one length."""
        seen = features.float()
        if standardisation is not None:
            scale, shift = standardisation
            seen = torch.addcmul(shift, seen, scale)
        lengths = torch.linalg.vector_norm(seen, dim=-1, keepdim=True).clamp(min=1e-6)
        return (seen * (seen.shape[-1] ** 0.5 / lengths)).mean(1)


class PerceiverResampler(nn.Module):
    """Features of K media with T frames each to N visual tokens each, and S * S more where they are pooled as well.

    Features are projected to the resampler's width (only where the widths differ), the temporal embedding of each
    frame is added to all its patches, and the latents read them layer by layer. Media with other numbers of frames are
    other calls, so there is no padding here and nothing to mask.

    Args:
        feature_width: width of the tower's features.
        num_patches: P, needed for position embeddings only.
    """

    def __init__(self, feature_width: int, num_patches: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.num_patches = num_patches
        self.project = (
            nn.Identity() if feature_width == config.width else nn.Linear(feature_width, config.width, bias=True)
        )
        self.differences = nn.Linear(config.width, config.width, bias=False) if config.frame_differences else None
        if self.differences is not None:
            nn.init.normal_(self.differences.weight, std=config.width**-0.5)
        self.changes = _changes(config) if config.difference_hidden else None
        self.correlation = (
            FrameCorrelation(config.width, num_patches, config.correlation_radius)
            if config.correlation_radius
            else None
        )
        # As large as projected features: smaller ones are not told from each other, and latents end as one average.
        self.time = nn.Parameter(torch.randn(config.num_frames, config.width) * 1.5)
        self.position = (
            nn.Parameter(2 * initial_positions(num_patches, config.width)) if config.position_embeddings else None
        )
        own_time = self.time.detach()[torch.arange(config.num_latents) * config.num_frames // config.num_latents]
        self.latents = nn.Parameter(torch.randn(config.num_latents, config.width) + own_time)  # each begins in its time
        self.layers = nn.ModuleList([ResamplerLayer(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width)
        self.pooled = PooledTokens(feature_width, num_patches, config) if config.pooled_side else None

    def forward(
        self,
        features: Tensor,
        activation_checkpointing: bool = False,
        standardisation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """`[K, T, P, feature_width]` -> visual tokens `[K, N, D]`, those of the latents first; `[K, N + S*S, D]` with
        pooled ones.

        Args:
            activation_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
            standardisation: scale and shift of each channel of raw features, see `VisionTower.standardisation`.

        Raises:
            ModelError: if there are position embeddings, a correlation or pooled tokens, and P is not what they were
                made for.
        """
        for part, name in (
            (self.position, "position embeddings were"),
            (self.correlation, "correlation was"),
            (self.pooled, "pooled tokens were"),
        ):
            if part is not None and features.shape[2] != self.num_patches:
                raise ModelError(
                    f"frames have {features.shape[2]} patches, but the {name} made for {self.num_patches}; use the "
                    "image size of the configuration"
                )
        x = self._projected(features, standardisation)  # [K, T, P, D]
        correlated = None if self.correlation is None else self.correlation(x)
        if self.differences is not None:
            difference = x[:, 1:] - x[:, :-1]  # [K, T-1, P, D]
            seen = self.differences(difference)
            if self.changes is not None:
                seen = seen + self.changes(difference)
            x = x + F.pad(seen, (0, 0, 0, 0, 1, 0))  # the first frame has none
        if correlated is not None:
            x = x + correlated
        x = x + interpolate_time(self.time, features.shape[1])[:, None, :]  # [T, 1, D]
        if self.position is not None:
            x = x + self.position
        x = x.flatten(1, 2)  # [K, T*P, D]
        latents = self.latents.expand(len(x), -1, -1)  # [K, N, D]
        recompute = activation_checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            latents = checkpoint(layer, latents, x, use_reentrant=False) if recompute else layer(latents, x)
        tokens = self.norm(latents)
        if self.pooled is None:
            return tokens
        pooled = self.pooled(features, standardisation)
        return torch.cat([tokens, pooled.to(tokens.dtype)], dim=1)

    def _projected(self, features: Tensor, standardisation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Features at the resampler's width.

        Standardised by way of the projection's weights, not of the features: on a CPU each pass over the features of a
        video costs as much as the projection itself.
        """
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.latents.dtype)
        if standardisation is None:
            return self.project(features)
        scale, shift = standardisation
        if not isinstance(self.project, nn.Linear):
            return (features.float() * scale + shift).to(self.latents.dtype)
        dtype = self.project.weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        weight, bias = self.project.weight.to(exact), self.project.bias.to(exact)
        with torch.autocast(features.device.type, enabled=False):
            folded, added = weight * scale, torch.addmv(bias, weight, shift.to(exact))
        return F.linear(features, folded.to(dtype), added.to(dtype))
