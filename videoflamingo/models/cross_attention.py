"""GATED XATTN-DENSE: the trained block in front of a frozen decoder layer (Flamingo v1 3.1.2, v2 2.2 and A.1.2)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from videoflamingo.errors import ModelError
from videoflamingo.models.attention import AttendTo, Backend, MediaRuns, cross_attend
from videoflamingo.models.feed_forward import Activation, FeedForward

KeysValues = tuple[Tensor, Tensor]
INITIAL_TIMES = 0.15  # root mean square, as a share of the text's where that is relative to it


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Where the gated blocks sit and how wide they are; defaults follow the paper's 3B model.

    Args:
        first, every: blocks sit before decoder layers `first, first + every, ...` (v2 table 5: 0 and 1, 4 or 7).
        num_heads, dim_head: v2 table 5 and v1 table 13.
        feed_forward_multiplier: hidden width of the dense part as a multiple of the language width.
        activation: `squared_relu` in the paper, `gelu` in OpenFlamingo.
        gating: `tanh`, or `none`: the paper's ablation without gates (v2 table 3 iii: 4.2 points worse, and unstable).
        gate_init: initial value of both gates' parameters; 0 in the paper, so that training starts at the bare LM.
        relative_to_text: multiply what a block adds to a token by the root mean square of the token's hidden state.
            Layers differ a hundredfold in its length, and the same gate would drown one and not be heard by another
            (docs/decisions/0020). Not in the paper.
        word_times: tell each text token, in each block, when what it says is seen: a learnt vector for each latent that
            would write it (see `Flamingo.words`). They have no gate and are not zero at first. Not in the paper
            (docs/decisions/0030).
        norm_media: layer norm on the visual tokens, shared by keys and values (v1 3.1.2); OpenFlamingo has none.
        attend_to: a token sees its `own` medium only (v2 2.3), or `all_previous` ones up to it (the paper's ablation).
        backend: attention kernel, see `videoflamingo.models.attention.choose_backend`.
    """

    first: int = 0
    every: int = 1
    num_heads: int = 16
    dim_head: int = 128
    feed_forward_multiplier: float = 4.0
    activation: Activation = "squared_relu"
    gating: Literal["tanh", "none"] = "tanh"
    gate_init: float = 0.0
    relative_to_text: bool = False
    word_times: bool = False
    norm_media: bool = True
    attend_to: AttendTo = "own"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("gating", self.gating, ("tanh", "none")),
            ("attend_to", self.attend_to, ("own", "all_previous")),
        ):
            if value not in known:
                raise ModelError(f"CrossAttentionConfig.{name} is {value!r}; choose {' or '.join(known)}")
        for name, number, least in (("first", self.first, 0), ("every", self.every, 1)):
            if number < least:
                raise ModelError(f"CrossAttentionConfig.{name} is {number}; give {least} or more")


def initial_times(num_latents: int, width: int) -> Tensor:
    """Times `[N, E]` to start from: a ramp and two waves over the latents, which begin in the order of time.

    Their mean over the latents is zero: what is seen all the time, or never, is told nothing.
    """
    time = (torch.arange(num_latents) + 0.5) / num_latents * 2 - 1  # [N], from -1 to 1
    curves = torch.stack([3**0.5 * time, 2**0.5 * (math.pi * time).sin(), 2**0.5 * (math.pi * time).cos()], dim=1)
    return curves @ torch.randn(3, width) * (INITIAL_TIMES / 3**0.5)


class GatedCrossAttentionBlock(nn.Module):
    """`y + tanh(a) * attention(y, media)`, then `y + tanh(b) * feed_forward(y)`; see `relative_to_text` for more.

    Runs in its own parameters' type and returns its input's type, so float32 blocks fit a bfloat16 language model.

    Args:
        width: E, the language width.
        visual_width: D, the width of visual tokens.
        num_latents: N, for `word_times`.
    """

    def __init__(self, width: int, visual_width: int, config: CrossAttentionConfig, num_latents: int = 0) -> None:
        super().__init__()
        inner = config.num_heads * config.dim_head
        self.heads_shape = (config.num_heads, config.dim_head)
        self.backend = config.backend
        self.relative_to_text = config.relative_to_text
        self.norm_text = nn.LayerNorm(width)
        self.norm_media = nn.LayerNorm(visual_width) if config.norm_media else nn.Identity()
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_keys = nn.Linear(visual_width, inner, bias=False)
        self.to_values = nn.Linear(visual_width, inner, bias=False)
        self.to_output = nn.Linear(inner, width, bias=False)
        self.feed_forward = FeedForward(width, config.feed_forward_multiplier, config.activation)
        self.word_times = nn.Parameter(initial_times(num_latents, width)) if config.word_times else None
        self.attention_gate, self.feed_forward_gate = (
            nn.Parameter(torch.full((1,), config.gate_init)) if config.gating == "tanh" else None for _ in range(2)
        )

    def keys_values(self, visual_tokens: Tensor) -> KeysValues:
        """`[B, M, N, D]` -> keys and values `[B, M, N, H, d]`: computed once per prompt, reused by every token."""
        normed = self.norm_media(visual_tokens.to(self.to_keys.weight.dtype))
        keys = self.to_keys(normed).unflatten(-1, self.heads_shape)
        return keys, self.to_values(normed).unflatten(-1, self.heads_shape)

    def written(self, visual_tokens: Tensor) -> Tensor:
        """`[..., D]` -> `[..., E]`: what text that attended to one visual token alone would get, before the gate."""
        return self.to_output(self.to_values(self.norm_media(visual_tokens.to(self.to_values.weight.dtype))))

    def forward(
        self, text: Tensor, media: KeysValues | None, runs: MediaRuns | None, seen_at: Tensor | None = None
    ) -> Tensor:
        """`[B, L, E]` -> `[B, L, E]`; without media, or where no text has one, only the gated feed-forward applies.

        In training everything gets a gradient all the same, if only zero: processes that train together wait for it.

        Args:
            seen_at: for each text token the latents that say it, as shares `[B, L, N]`; needed for `word_times`.
        """
        y = text.to(self.to_query.weight.dtype)
        if media is not None and runs is not None:
            if self.word_times is not None and seen_at is not None:
                y = y + self._gated(seen_at.to(y.dtype) @ self.word_times, None, y)
            query = self.to_query(self.norm_text(y)).unflatten(-1, self.heads_shape)  # [B, L, H, d]
            attended = cross_attend(query, *media, runs, self.backend).flatten(2)  # [B, L, H*d]
            y = y + self._gated(self.to_output(attended), self.attention_gate, y)
        elif self.training and torch.is_grad_enabled():
            y = y + self._zero(media)
        y = y + self._gated(self.feed_forward(y), self.feed_forward_gate, y)
        return y.to(text.dtype)

    def _gated(self, x: Tensor, gate: Tensor | None, y: Tensor) -> Tensor:
        if self.relative_to_text:
            wide = torch.promote_types(y.dtype, torch.float32)
            length = torch.linalg.vector_norm(y, dim=-1, keepdim=True, dtype=wide)
            x = x * (length * y.shape[-1] ** -0.5).to(x.dtype)
        return x if gate is None else gate.tanh() * x

    def _zero(self, media: KeysValues | None) -> Tensor:
        """Zero `[]`, with a gradient path to what attention would have used."""
        used = [*self.norm_text.parameters(), *self.to_query.parameters(), *self.to_output.parameters()]
        if self.attention_gate is not None:
            used.append(self.attention_gate)
        if self.word_times is not None:
            used.append(self.word_times)
        of_media = (self.norm_media, self.to_keys, self.to_values)
        reached = media or [parameter for part in of_media for parameter in part.parameters()]
        return torch.stack([(tensor * 0).sum() for tensor in (*used, *reached)]).sum()
