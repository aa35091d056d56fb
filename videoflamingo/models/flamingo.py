"""Flamingo: a frozen tower and a frozen language model, bridged by a resampler and gated cross-attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videoflamingo.errors import ModelError
from videoflamingo.models.attention import MediaRuns, media_runs
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock, KeysValues
from videoflamingo.models.language import NewTokens, decoder_layers, load_language_model
from videoflamingo.models.resampler import PerceiverResampler, ResamplerConfig
from videoflamingo.models.vision import VisionConfig, VisionTower

MediaKeysValues = tuple[KeysValues, ...]  # one per gated block


@dataclass(frozen=True)
class FlamingoConfig:
    """Everything a checkpoint needs to be built again; defaults are the paper's.

    Args:
        language_model: see `videoflamingo.models.language.load_language_model`.
        vision, resampler, cross_attention: of the parts.
        media_tag: plain text at each medium's place (v1 3.2.1); its tokens already see the medium.
        end_of_chunk: the one new token, learnt (v1 3.2.1).
    """

    language_model: str
    vision: VisionConfig = field(default_factory=VisionConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    cross_attention: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)
    media_tag: str = "<image>"
    end_of_chunk: str = "<EOC>"


@dataclass(frozen=True, eq=False)
class FlamingoOutput:
    """Logits float32 `[B, L, vocabulary + new]`, or `[K, ...]` for the K chosen positions; the LM's cache if asked."""

    logits: Tensor
    past_key_values: Any = None


@dataclass(frozen=True, eq=False)
class _VisualState:
    """What the gated blocks of one forward call see."""

    owner: "Flamingo"
    media: MediaKeysValues | None
    runs: MediaRuns | None


# Private to each thread and each call; empty outside `Flamingo.forward`.
_visual_state: ContextVar[_VisualState | None] = ContextVar("videoflamingo_visual_state", default=None)


@contextmanager
def _visible(state: _VisualState) -> Iterator[None]:
    token = _visual_state.set(state)
    try:
        yield
    finally:
        _visual_state.reset(token)


class _BeforeLayer:
    """Forward pre-hook of one decoder layer: runs the gated block before it while its own model's scope is open."""

    def __init__(self, flamingo: "Flamingo", position: int) -> None:
        self.flamingo, self.position = flamingo, position

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = _visual_state.get()
        if state is None or state.owner is not self.flamingo:
            return None
        media = None if state.media is None else state.media[self.position]
        block = self.flamingo.blocks[self.position]
        if args:
            return (block(args[0], media, state.runs), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": block(kwargs["hidden_states"], media, state.runs)}


class Flamingo(nn.Module):
    """p(text | interleaved media), Flamingo v2 section 2.

    Trained are the resampler, the gated blocks and the new tokens; tower and language model are frozen and stay in eval
    mode. The language model keeps its own modules and state-dict keys: gated blocks run in forward pre-hooks, and see
    the media only inside `forward`, through a scope that is closed even after an error. Nothing is kept between calls.

    Args:
        config: the parts.
        language_model, tokenizer: given together, used instead of loading `config.language_model` (tests, own models).
        dtype: type of the frozen parts; the trained ones stay float32 until `.to()` says otherwise.

    Raises:
        ModelError: if a part cannot be found or does not fit.
    """

    language_model: Any

    def __init__(
        self,
        config: FlamingoConfig,
        language_model: nn.Module | None = None,
        tokenizer: Any = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if (language_model is None) != (tokenizer is None):
            raise ModelError("give language_model and tokenizer together, or neither")
        self.config = config
        if language_model is None:
            language_model, tokenizer = load_language_model(config.language_model, dtype)
        assert language_model is not None  # one of the two branches made it
        self.language_model = language_model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.vision = VisionTower(config.vision)
        self.vision.backbone.to(dtype=dtype, memory_format=torch.channels_last)
        embedding = self.language_model.get_input_embeddings()
        self.new_tokens = NewTokens(1, embedding)
        self.resampler = PerceiverResampler(self.vision.width, self.vision.num_patches, config.resampler)
        layers = decoder_layers(self.language_model)
        cross = config.cross_attention
        self.block_layers = tuple(range(cross.first, len(layers), cross.every))
        if not self.block_layers:
            raise ModelError(
                f"cross_attention.first is {cross.first}, but the language model has {len(layers)} layers; "
                "at least one gated block must sit before a layer"
            )
        self.blocks = nn.ModuleList(
            [
                GatedCrossAttentionBlock(embedding.embedding_dim, config.resampler.width, cross)
                for _ in self.block_layers
            ]
        )
        for position, index in enumerate(self.block_layers):
            layers[index].register_forward_pre_hook(_BeforeLayer(self, position), with_kwargs=True)

    def train(self, mode: bool = True) -> "Flamingo":
        """Frozen parts stay in eval mode."""
        super().train(mode)
        self.language_model.eval()
        return self

    @property
    def end_of_chunk_id(self) -> int:
        """Token id of the end of chunk: the first after the frozen vocabulary."""
        return self.new_tokens.first_id

    @property
    def device(self) -> torch.device:
        return self.new_tokens.weight.device

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint stores: trained parameters, and the feature standardisation if it is used."""
        frozen = ("language_model.", "vision.backbone.")
        return {key: value for key, value in self.state_dict().items() if not key.startswith(frozen)}

    def resample(self, features: Tensor, frame_index: Tensor) -> Tensor:
        """Features of distinct frames to the visual tokens of each medium.

        Each medium's own number of frames is used: padding is never computed, so it cannot vote.

        Args:
            features: `[F, P, feature width]`, raw, as `vision` gives them (or as a cache kept them).
            frame_index: `[B, M, T]`, int64 into F, -1 = padding, at the end of each medium; all -1 = no such medium.

        Returns:
            `[B, M, N, D]`; zeros for media that do not exist.

        Raises:
            ModelError: if padding comes before a frame, or an index is out of range.
        """
        batch, num_media, _ = frame_index.shape
        index = frame_index.flatten(0, 1).cpu()  # [B*M, T]
        counts = (index >= 0).sum(1)  # [B*M]
        expected = torch.arange(index.shape[1])[None, :] < counts[:, None]
        if not torch.equal(index >= 0, expected) or bool((index >= len(features)).any()):
            raise ModelError(
                f"frame_index must hold frames 0 to {len(features) - 1} first and padding (-1) after them, for each "
                f"medium; got {frame_index.tolist()}"
            )
        latents = self.config.resampler.num_latents
        tokens = self.resampler.latents.new_zeros(batch * num_media, latents, self.config.resampler.width)
        for count in counts.unique().tolist():
            if count == 0:
                continue
            rows = (counts == count).nonzero().squeeze(1).to(features.device)
            frames = index[rows.cpu(), :count].to(features.device)  # [K, T]
            resampled = self.resampler(self.vision.standardise(features[frames]))  # [K, N, D]
            tokens = tokens.to(resampled.dtype).index_copy(0, rows, resampled)
        return tokens.unflatten(0, (batch, num_media))  # [B, M, N, D]

    def encode(self, pixels: Tensor, frame_index: Tensor) -> Tensor:
        """Pixels `[F, 3, size, size]` and frame_index `[B, M, T]` -> visual tokens `[B, M, N, D]`."""
        return self.resample(self.vision(pixels), frame_index)

    def media_keys_values(self, visual_tokens: Tensor) -> MediaKeysValues:
        """Keys and values of `[B, M, N, D]` for every gated block: once per prompt, for all its tokens."""
        blocks: list[Any] = list(self.blocks)
        return tuple(block.keys_values(visual_tokens) for block in blocks)

    def forward(
        self,
        input_ids: Tensor,
        media_index: Tensor,
        *,
        visual_tokens: Tensor | None = None,
        media: MediaKeysValues | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_at: Tensor | None = None,
    ) -> FlamingoOutput:
        """One pass over text, given its media.

        Args:
            input_ids: `[B, L]`, int64.
            media_index: `[B, L]`, int64; 0 = no medium yet, else 1-based.
            visual_tokens: `[B, M, N, D]`; or
            media: their keys and values from `media_keys_values`, `[B, M, N, H, d]` each.
            attention_mask: `[B, past + L]`, 1 = text, 0 = padding.
            position_ids: `[B, L]`.
            past_key_values, use_cache: the language model's cache.
            logits_at: bool `[B, L]`; where given, logits are computed there only, `[K, vocabulary + new]`.

        Raises:
            ModelError: if text refers to a medium that was not given.
        """
        if visual_tokens is not None:
            if media is not None:
                raise ModelError("give visual_tokens or media, not both")
            media = self.media_keys_values(visual_tokens)
        num_media = 0 if media is None else media[0][0].shape[1]
        runs = media_runs(media_index.tolist(), num_media, input_ids.device)
        embeddings = self.new_tokens.embed(input_ids, self.language_model.get_input_embeddings())  # [B, L, E]
        with _visible(_VisualState(self, media, runs)):
            output = self.language_model.base_model(
                inputs_embeds=embeddings,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
        hidden = output.last_hidden_state  # [B, L, E]
        if logits_at is not None:
            hidden = hidden[logits_at]  # [K, E]
        logits = self.new_tokens.logits(hidden, self.language_model.get_output_embeddings())
        return FlamingoOutput(logits, output.past_key_values if use_cache else None)
