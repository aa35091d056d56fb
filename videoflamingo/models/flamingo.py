"""Flamingo: a frozen tower and a frozen language model, bridged by a resampler and gated cross-attention."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoflamingo.errors import ModelError
from videoflamingo.models.attention import Backend, MediaRuns, cross_attend, media_runs
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock, KeysValues
from videoflamingo.models.feed_forward import FeedForward
from videoflamingo.models.language import (
    NewTokens,
    Quantization,
    decoder_layers,
    load_language_model,
    refuse_scaled_logits,
)
from videoflamingo.models.resampler import PerceiverResampler, ResamplerConfig
from videoflamingo.models.token_loss import vocabulary_loss
from videoflamingo.models.vision import VisionConfig, VisionTower

MediaKeysValues = tuple[KeysValues, ...]  # one per gated block, and with `word_times` that of `Flamingo.words`
WORD_SHARPNESS = 30.0  # of the softmax over cosines between a word and what latents say


@dataclass(frozen=True)
class FlamingoConfig:
    """Everything a checkpoint needs to be built again; defaults are the paper's.

    Args:
        language_model: see `videoflamingo.models.language.load_language_model`.
        vision, resampler, cross_attention: of the parts.
        media_tag: plain text at each medium's place (v1 3.2.1); its tokens already see the medium.
        end_of_chunk: the one new token, learnt (v1 3.2.1).
        more_tokens: further learnt tokens; a media tag among them is that one token and no plain text, as
            OpenFlamingo's `<image>`.
        tied_new_tokens: whether the output row of a new token is its input row.
        vocabulary_size: rows of the language model's embedding that are in use, before the new tokens; None = all.
        own_vocabulary: the checkpoint holds its own copy of those rows, retrained, as OpenFlamingo's do.
        own_tower: the checkpoint holds the tower's weights, too: they were trained (fine-tuning, v1 4.3).
    """

    language_model: str
    vision: VisionConfig = field(default_factory=VisionConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    cross_attention: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)
    media_tag: str = "<image>"
    end_of_chunk: str = "<EOC>"
    more_tokens: tuple[str, ...] = ()
    tied_new_tokens: bool = True
    vocabulary_size: int | None = None
    own_vocabulary: bool = False
    own_tower: bool = False

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """All learnt tokens, in the order of their ids."""
        return (self.end_of_chunk, *self.more_tokens)

    def __post_init__(self) -> None:
        object.__setattr__(self, "more_tokens", tuple(self.more_tokens))  # JSON and YAML have lists only
        if len(set(self.new_tokens)) < len(self.new_tokens) or not all(self.new_tokens):
            raise ModelError(f"new tokens {list(self.new_tokens)} must be different, non-empty texts")


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
    seen_at: Tensor | None


IGNORED_LABEL = -100  # what carries no loss, as in torch's cross-entropy

# Private to each thread and each call; empty outside `Flamingo.forward`.
_visual_state: ContextVar[_VisualState | None] = ContextVar("videoflamingo_visual_state", default=None)


@contextmanager
def _visible(state: _VisualState) -> Iterator[None]:
    token = _visual_state.set(state)
    try:
        yield
    finally:
        _visual_state.reset(token)


class _LayerForward:
    """Stands for a decoder layer's `forward`: inside its own model's scope, the gated block runs before the layer.

    Outside that scope, and for every other model, it is the layer's own `forward`. Here, too, activations are
    checkpointed: block and layer are one unit, recomputed with the media they saw (transformers' own checkpointing
    skips layers in eval mode, which a frozen language model always is).
    """

    def __init__(self, flamingo: "Flamingo", own_forward: Any, position: int | None) -> None:
        self.flamingo, self.own_forward, self.position = flamingo, own_forward, position

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = _visual_state.get()
        if state is None or state.owner is not self.flamingo:
            return self.own_forward(*args, **kwargs)
        rest = {**kwargs}
        hidden, args = (args[0], args[1:]) if args else (rest.pop("hidden_states"), args)

        def block_and_layer(hidden: Tensor) -> Any:
            if self.position is not None:
                media = None if state.media is None else state.media[self.position]
                hidden = self.flamingo.blocks[self.position](hidden, media, state.runs, state.seen_at)
            return self.own_forward(hidden, *args, **rest)

        if self.flamingo.activation_checkpointing and torch.is_grad_enabled() and hidden.requires_grad:
            return checkpoint(block_and_layer, hidden, use_reentrant=False)
        return block_and_layer(hidden)


class Flamingo(nn.Module):
    """p(text | interleaved media), Flamingo v2 section 2.

    Trained are the resampler, the gated blocks and the new tokens; tower and language model are frozen and stay in eval
    mode. The language model keeps its own modules and state-dict keys; only its layers' `forward` is stood for, so that
    gated blocks run before them. They see the media only inside `forward` and `loss`, through a scope that is closed
    even after an error. Nothing is kept between calls.

    Args:
        config: the parts.
        language_model, tokenizer: used instead of loading `config.language_model` (tests, own models); a model given
            without a tokenizer cannot encode text.
        dtype: type of the frozen parts; the trained ones stay float32 until `.to()` says otherwise.
        activation_checkpointing: in training, recompute each gated block with its decoder layer, and each resampler
            layer, in the backward pass instead of keeping their activations. Gradients are the same.
        quantize: `int8` keeps the weights of the language model's layers in 8 bits (needs torchao); a choice of the
            run, not of a checkpoint.

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
        activation_checkpointing: bool = False,
        quantize: Quantization = "none",
    ) -> None:
        super().__init__()
        if language_model is None and tokenizer is not None:
            raise ModelError("a tokenizer was given without its language_model; give both, or neither")
        self.config = config
        self.activation_checkpointing = activation_checkpointing
        if language_model is None:
            language_model, tokenizer = load_language_model(config.language_model, dtype, quantize)
        elif quantize != "none":
            raise ModelError(
                f"quantize is {quantize!r}, but a language_model was given, which stays as it is; quantise it before "
                "with videoflamingo.models.language.quantize_layers, or let it be loaded by its name"
            )
        assert language_model is not None  # one of the two branches made it
        refuse_scaled_logits(language_model)
        self.language_model = language_model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        accepted = inspect.signature(self.language_model.base_model.forward).parameters
        self._takes_positions = "position_ids" in accepted  # MPT and BLOOM have none: their attention is relative
        self.vision = VisionTower(config.vision)
        self.vision.backbone.to(dtype=dtype, memory_format=torch.channels_last)
        embedding = self.language_model.get_input_embeddings()
        self.new_tokens = NewTokens(
            len(config.new_tokens),
            embedding,
            vocabulary_size=config.vocabulary_size,
            tied=config.tied_new_tokens,
            own_vocabulary=config.own_vocabulary,
            head=self.language_model.get_output_embeddings(),
        )
        self.resampler = PerceiverResampler(self.vision.width, self.vision.num_patches, config.resampler)
        layers = decoder_layers(self.language_model)
        cross = config.cross_attention
        self.block_layers = tuple(range(cross.first, len(layers), cross.every))
        if not self.block_layers:
            raise ModelError(
                f"cross_attention.first is {cross.first}, but the language model has {len(layers)} layers; "
                "at least one gated block must sit before a layer"
            )
        width, visual_width = embedding.embedding_dim, config.resampler.width
        num_latents = config.resampler.num_latents
        self.blocks = nn.ModuleList(
            GatedCrossAttentionBlock(width, visual_width, cross, num_latents) for _ in self.block_layers
        )
        for index, layer in enumerate(layers):
            position = self.block_layers.index(index) if index in self.block_layers else None
            layer.forward = _LayerForward(self, layer.forward, position)

    def train(self, mode: bool = True) -> "Flamingo":
        """Frozen parts stay in eval mode."""
        super().train(mode)
        self.language_model.eval()
        return self

    def force_attention(self, backend: Backend) -> "Flamingo":
        """Let gated blocks and resampler attend through one kernel, whatever their configuration says.

        `videoflamingo.models.attention.backends_that_ran` reports which kernels run. With `word_times`, words are
        looked for with PyTorch's on GPUs, whatever is forced.

        Raises:
            ModelError: if the backend is unknown. One that cannot run on the device says so at its first use.
        """
        if backend not in get_args(Backend):
            raise ModelError(f"attention backend {backend!r} is unknown; choose one of {', '.join(get_args(Backend))}")
        for part in (*self.blocks, *self.resampler.layers):
            part.backend = backend
        return self

    def compile_blocks(self) -> "Flamingo":
        """Let torch.compile fuse the dense halves of gated blocks and resampler layers, at their first use.

        Only those: what surrounds them changes with every text (runs, media) and would be compiled again and again.
        Names and values of weights stay. Pays for squared ReLU, hardly for GELU (docs/decisions/0011); needs a C++
        compiler on a CPU.
        """
        for part in self.modules():
            if isinstance(part, FeedForward):
                part.compile(dynamic=True)
        return self

    @property
    def end_of_chunk_id(self) -> int:
        """Token id of the end of chunk: the first after the frozen vocabulary."""
        return self.new_tokens.first_id

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, nothing added.

        Raises:
            ModelError: if the model was made without a tokenizer.
        """
        if self.tokenizer is None:
            raise ModelError(f"this Flamingo was made without a tokenizer and cannot read {text!r}; give it one")
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @property
    def media_tag_ids(self) -> list[int]:
        """Tokens that stand at each medium's place; none where the tag is empty."""
        tag = self.config.media_tag
        if tag in self.config.new_tokens:
            return [self.end_of_chunk_id + self.config.new_tokens.index(tag)]
        return self.tokenize(tag) if tag else []

    @property
    def media_tag_spellings(self) -> list[list[int]]:
        """Token sequences that would read as a media tag, which no generation may produce."""
        tag = self.config.media_tag
        if tag in self.config.new_tokens:
            return [self.media_tag_ids]
        spellings = [self.tokenize(text) for text in (tag, f" {tag}")] if tag else []
        return [spelling for spelling in spellings if spelling]

    @property
    def device(self) -> torch.device:
        return self.new_tokens.weight.device

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint stores: trained parameters, and the feature standardisation if it is used."""
        frozen = ("language_model.",) if self.config.own_tower else ("language_model.", "vision.backbone.")
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
        resampler = self.config.resampler
        tokens = self.resampler.latents.new_zeros(batch * num_media, resampler.num_visual_tokens, resampler.width)
        for count in counts.unique().tolist():
            if count == 0:
                continue
            rows = (counts == count).nonzero().squeeze(1).to(features.device)
            frames = index[rows.cpu(), :count].to(features.device)  # [K, T]
            shown = features[frames]  # [K, T, P, feature width]
            resampled = self.resampler(shown, self.activation_checkpointing, self.vision.standardisation)  # [K, N, D]
            tokens = tokens.to(resampled.dtype).index_copy(0, rows, resampled)
        return tokens.unflatten(0, (batch, num_media))  # [B, M, N, D]

    def encode(self, pixels: Tensor, frame_index: Tensor) -> Tensor:
        """Pixels `[F, 3, size, size]` and frame_index `[B, M, T]` -> visual tokens `[B, M, N, D]`."""
        return self.resample(self.vision(pixels), frame_index)

    def media_keys_values(self, visual_tokens: Tensor) -> MediaKeysValues:
        """Keys and values of `[B, M, N, D]` for every gated block: once per prompt, for all its tokens.

        With `word_times`, those of `words` come last.
        """
        blocks: list[Any] = list(self.blocks)
        media = tuple(block.keys_values(visual_tokens) for block in blocks)
        return (*media, self.words(visual_tokens)) if self.config.cross_attention.word_times else media

    def words(self, visual_tokens: Tensor) -> KeysValues:
        """What each latent says: keys by which text finds those that say it, and values that tell them apart.

        Keys are what the gated blocks would write for a latent alone, on average over blocks and of length 1: the
        readout trains that to be the embedding of a word (`videoflamingo.training.readout`), and nothing else does:
        no gradient goes through them.

        Args:
            visual_tokens: `[B, M, N, D]`; pooled ones, which come after the latents, say nothing.

        Returns:
            Keys `[B, M, num_latents, 1, E]` and values `[B, M, num_latents, 1, num_latents]`, the identity matrix.
        """
        blocks: list[Any] = list(self.blocks)
        latents = visual_tokens[:, :, : self.config.resampler.num_latents]
        said = torch.stack([F.normalize(block.written(latents), dim=-1) for block in blocks])  # [blocks, B, M, n, E]
        # Not under no_grad, inside which older autocast would keep casts of weights that get no gradient afterwards.
        keys = F.normalize(said.sum(0), dim=-1).detach()
        each = torch.eye(latents.shape[2], dtype=keys.dtype, device=keys.device)
        return keys[..., None, :], each[:, None].expand(*keys.shape[:3], 1, -1)

    def _seen_at(self, embeddings: Tensor, media: MediaKeysValues | None, runs: MediaRuns | None) -> Tensor | None:
        """For each text token, the latents of its medium that say it, as shares `[B, L, num_latents]`."""
        if media is None or runs is None or not self.config.cross_attention.word_times:
            return None
        keys, values = media[-1]
        scale = WORD_SHARPNESS * embeddings.shape[-1] ** 0.5  # attention divides by the root
        query = (F.normalize(embeddings.detach(), dim=-1) * scale)[..., None, :].to(keys.dtype)
        # Heads as wide as the language model are more than xformers has kernels for.
        return cross_attend(query, keys, values, runs, "sdpa" if query.is_cuda else "auto").squeeze(2)

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
            media: their keys and values from `media_keys_values`, `[B, M, N, H, d]` each; or `[1, M, N, H, d]`: held
                once, and numbered alike by all rows.
            attention_mask: `[B, past + L]`, 1 = text, 0 = padding.
            position_ids: `[B, L]`.
            past_key_values, use_cache: the language model's cache.
            logits_at: bool `[B, L]`; where given, logits are computed there only, `[K, vocabulary + new]`.

        Raises:
            ModelError: if text refers to a medium that was not given.
        """
        hidden, cache = self._hidden_states(
            input_ids,
            media_index,
            visual_tokens=visual_tokens,
            media=media,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        if logits_at is not None:
            hidden = hidden[logits_at]  # [K, E]
        return FlamingoOutput(self.new_tokens.logits(hidden, self.language_model.get_output_embeddings()), cache)

    def loss(
        self,
        input_ids: Tensor,
        media_index: Tensor,
        labels: Tensor,
        *,
        visual_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of labels, and how many there are.

        Logits are computed only where there is a label, and a few rows at a time: they are never all in memory.

        Args:
            labels: `[B, L]`, int64: the text's own ids where the loss counts (each is predicted from what precedes it),
                -100 elsewhere.
            input_ids, media_index, visual_tokens, attention_mask, position_ids: as in `forward`.

        Returns:
            float32 `[]`, and the number of labels.
        """
        is_labelled = F.pad(labels[:, 1:] != IGNORED_LABEL, (0, 1))  # [B, L]: where the next token has a label
        targets = labels[:, 1:][is_labelled[:, :-1]]  # [K]
        hidden, _ = self._hidden_states(
            input_ids,
            media_index,
            visual_tokens=visual_tokens,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        hidden = hidden[is_labelled]  # [K, E]
        head = self.language_model.get_output_embeddings()
        vocabulary = self.new_tokens.vocabulary_rows(head)
        if vocabulary is None:  # a head with a bias, or quantised
            return F.cross_entropy(self.new_tokens.logits(hidden, head), targets, reduction="sum"), len(targets)
        return vocabulary_loss(hidden, self.new_tokens.output_rows, vocabulary, targets), len(targets)

    def _hidden_states(
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
    ) -> tuple[Tensor, Any]:
        """The language model's last hidden states `[B, L, E]`, and its cache if asked for."""
        same_media = media is not None and len(media[0][0]) == 1
        if visual_tokens is not None:
            if media is not None:
                raise ModelError("give visual_tokens or media, not both")
            media = self.media_keys_values(visual_tokens)
        num_media = 0 if media is None else media[0][0].shape[1]
        runs = media_runs(
            media_index.tolist(),
            num_media,
            input_ids.device,
            self.config.cross_attention.attend_to,
            same_media=same_media,
        )
        embeddings = self.new_tokens.embed(input_ids, self.language_model.get_input_embeddings())  # [B, L, E]
        if num_media == 0 and self.training and torch.is_grad_enabled():
            media = self.media_keys_values(self.unseen_visual_tokens())
        positions = {"position_ids": position_ids} if self._takes_positions else {}
        with _visible(_VisualState(self, media, runs, self._seen_at(embeddings, media, runs))):
            output = self.language_model.base_model(
                inputs_embeds=embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **positions,
            )
        return output.last_hidden_state, output.past_key_values if use_cache else None  # [B, L, E]

    def unseen_visual_tokens(self) -> Tensor:
        """Visual tokens `[1, 1, N, D]` of a frame that no text sees, through all that is trained.

        Without media a batch would give no gradients to some of it, and processes that train together wait for them.
        """
        side = self.vision.image_size
        if self.vision.is_trained:
            features = self.vision(torch.zeros(1, 3, side, side, device=self.device))  # [1, P, feature width]
        else:
            features = torch.zeros(1, self.vision.num_patches, self.vision.width, device=self.device)
        return self.resample(features, torch.zeros(1, 1, 1, dtype=torch.int64))
