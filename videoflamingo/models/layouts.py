"""The paper's three models, 3B, 9B and 80B: their configurations, and the models themselves without weights.

Flamingo's weights are closed, and so is Chinchilla, the language model inside. What is left are the sizes (v2 tables 4
and 5). The models built here stand on the meta device: they have shapes and no data, so that even 80B is there in
seconds. docs/paper_layouts.md compares their parameters with the published numbers.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from videoflamingo.errors import ModelError
from videoflamingo.models.cross_attention import CrossAttentionConfig
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
from videoflamingo.models.resampler import ResamplerConfig
from videoflamingo.models.vision import VisionConfig
from videoflamingo.torchvision_operators import declare_missing_operators

PaperModel = Literal["3B", "9B", "80B"]
PaperVersion = Literal["v1", "v2"]

VOCABULARY = 32_000  # SentencePiece (v1 model card)
CONTEXT_TOKENS = 2048  # v1 6.1
RESAMPLER_DIM_HEAD = {"v1": 128, "v2": 96}  # v1 table 13; v2 A.1.4: width / heads = 1536 / 16


@dataclass(frozen=True)
class PaperSizes:
    """One row of v2 tables 4 and 5.

    Args:
        language_model: the frozen Chinchilla, as the paper calls it.
        layers, width, heads: of the language model; the gated blocks have its width and heads.
        every: a gated block sits before layers 0, `every`, 2 `every`, ...
    """

    language_model: str
    layers: int
    width: int
    heads: int
    every: int


PAPER_SIZES: dict[str, PaperSizes] = {
    "3B": PaperSizes("Chinchilla 1.4B", layers=24, width=2048, heads=16, every=1),
    "9B": PaperSizes("Chinchilla 7.1B", layers=40, width=4096, heads=32, every=4),
    "80B": PaperSizes("Chinchilla 70B", layers=80, width=8192, heads=64, every=7),
}


def paper_layout(name: PaperModel, version: PaperVersion = "v2") -> FlamingoConfig:
    """The configuration of one of the paper's models (v2 tables 4 and 5).

    All three have the same resampler and tower. The versions of the paper differ in one number: heads of the resampler
    are 128 wide in v1 (table 13) and 96 in v2 (A.1.4). The tower is NFNet-F6 at 320 pixels, with the weights that timm
    has (ImageNet), since the paper's own (contrastive) are closed; its 3072 channels are projected to 1536, which the
    paper does not say and its parameter count suggests (docs/paper_layouts.md).

    Args:
        name: the paper's.
        version: of arXiv:2204.14198.

    Returns:
        A configuration whose `language_model` cannot be loaded: build it as
        `Flamingo(paper_layout("3B"), language_model, tokenizer)` with a model of your own, or without weights by
        `untrained_flamingo`.

    Raises:
        ModelError: if there is no such model or version.

    Example:
        >>> layout = paper_layout("9B")
        >>> layout.cross_attention.every, layout.cross_attention.num_heads, layout.resampler.dim_head
        (4, 32, 96)
    """
    sizes = paper_sizes(name)
    if version not in RESAMPLER_DIM_HEAD:
        raise ModelError(f"version is {version!r}; the paper's are {', '.join(RESAMPLER_DIM_HEAD)}")
    return FlamingoConfig(
        language_model=f"({sizes.language_model}, closed: give language_model and tokenizer)",
        vision=VisionConfig("dm_nfnet_f6.dm_in1k", image_size=320, fit="pad"),
        resampler=ResamplerConfig(
            num_latents=64,
            depth=6,
            width=1536,
            num_heads=16,
            dim_head=RESAMPLER_DIM_HEAD[version],
            feed_forward_multiplier=4.0,
            activation="squared_relu",
            num_frames=8,
        ),
        cross_attention=CrossAttentionConfig(
            first=0,
            every=sizes.every,
            num_heads=sizes.heads,
            dim_head=128,
            feed_forward_multiplier=4.0,
            activation="squared_relu",
        ),
    )


def paper_sizes(name: PaperModel) -> PaperSizes:
    """The row of `PAPER_SIZES`.

    Raises:
        ModelError: if there is no such model.
    """
    if name not in PAPER_SIZES:
        raise ModelError(f"model is {name!r}; the paper's are {', '.join(PAPER_SIZES)}")
    return PAPER_SIZES[name]


def untrained_language_model(name: PaperModel) -> Any:
    """A language model of the published sizes, on the meta device: `GPTNeoXForCausalLM`, the nearest open architecture.

    As in Chinchilla: layers, width, heads, 4 x width in the feed-forward, GELU, attention before feed-forward, 32,000
    tokens, 2048 positions, one matrix for input and output embeddings. Unlike it: rotary positions, which have no
    parameters, instead of relative ones, which project positions (width x width in each layer); layer norms with biases
    instead of RMS norms; biases on the linear maps.

    Raises:
        ModelError: if there is no such model.
    """
    sizes = paper_sizes(name)
    declare_missing_operators()
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.device("meta"):
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=VOCABULARY,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=4 * sizes.width,
                hidden_act="gelu",
                max_position_embeddings=CONTEXT_TOKENS,
                tie_word_embeddings=True,
                use_parallel_residual=False,
            )
        )


def untrained_flamingo(name: PaperModel, version: PaperVersion = "v2") -> Flamingo:
    """One of the paper's models with shapes and no data: every tensor is on the meta device.

    Raises:
        ModelError: if there is no such model or version.

    Example:
        >>> count_parameters(untrained_flamingo("3B")).gated_blocks
        1157898288
    """
    layout = paper_layout(name, version)
    layout = replace(layout, vision=replace(layout.vision, tower="random:dm_nfnet_f6"))  # no weights are fetched
    language_model = untrained_language_model(name)
    with torch.device("meta"):
        return Flamingo(layout, language_model)


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters; a matrix used twice (tied embeddings) counts once.

    Args:
        language_model: frozen.
        gated_blocks: all of them together.
        resampler: with the projection of the tower's features.
        tower: frozen; it has no classifier.
        new_tokens: rows for the end of chunk.
    """

    language_model: int
    gated_blocks: int
    resampler: int
    tower: int
    new_tokens: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.language_model + self.gated_blocks + self.resampler + self.tower + self.new_tokens


def count_parameters(model: Flamingo) -> ParameterCounts:
    """Parameters of each part of any Flamingo, with weights or without."""
    return ParameterCounts(
        language_model=_count(model.language_model),
        gated_blocks=_count(model.blocks),
        resampler=_count(model.resampler),
        tower=_count(model.vision),
        new_tokens=_count(model.new_tokens),
    )


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
