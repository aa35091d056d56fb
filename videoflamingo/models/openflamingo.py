"""OpenFlamingo checkpoints (v1 and v2) as ours: every trained weight under its new name, none silently left out.

Their format, by its saver: a pickled flat state dict, or that under `model_state_dict`, with `module.` prefixes where
it was trained in parallel. Of the language model it holds the token embedding (retrained, and shortened to the
tokenizer's length plus new tokens), and for some families the output layer. No configuration is stored: widths, depth
and schedule follow from the keys, the parts' names must be given.
"""

import os
import pickle
import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videoflamingo.errors import ModelError
from videoflamingo.models.cross_attention import CrossAttentionConfig
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.models.resampler import ResamplerConfig
from videoflamingo.models.vision import VisionConfig

DIM_HEAD = 64  # everywhere in OpenFlamingo, whose code has no other
NEW_TOKENS = ("<|endofchunk|>", "<image>", "<PAD>")  # in the order in which it adds them; the last where none was there

# What its files hold beside what was trained: copies of blocks (v1), frozen parts, buffers.
IGNORED = re.compile(
    r"lang_encoder\.(gated_cross_attn_layers|old_decoder_blocks)\.|vision_encoder\.|.*\.decoder_layer\.|"
    r"lang_encoder\.model\.decoder\.embed_positions\.|.*\.(inv_freq|masked_bias)$"
)
BLOCK = re.compile(r"lang_encoder\.(.+)\.(\d+)\.gated_cross_attn_layer\.(.+)")
EMBEDDING = re.compile(
    r"lang_encoder\.(transformer\.wte|gpt_neox\.embed_in|model\.embed_tokens|model\.decoder\.embed_tokens)\.weight"
)
HEAD = re.compile(r"lang_encoder\.(embed_out|lm_head)\.weight")
BLOCK_NAMES = {
    "attn_gate": "attention_gate",
    "ff_gate": "feed_forward_gate",
    "attn.norm.weight": "norm_text.weight",
    "attn.norm.bias": "norm_text.bias",
    "attn.to_q.weight": "to_query.weight",
    "attn.to_out.weight": "to_output.weight",
    "ff.0.weight": "feed_forward.norm.weight",
    "ff.0.bias": "feed_forward.norm.bias",
    "ff.1.weight": "feed_forward.expand.weight",
    "ff.3.weight": "feed_forward.contract.weight",
}
RESAMPLER_NAMES = {
    "0.norm_media.": "norm_media.",
    "0.norm_latents.": "norm_latents.",
    "0.to_q.": "to_query.",
    "0.to_kv.": "to_keys_values.",
    "0.to_out.": "to_output.",
    "1.0.": "feed_forward.norm.",
    "1.1.": "feed_forward.expand.",
    "1.3.": "feed_forward.contract.",
}


def read_openflamingo(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The flat state dict of a checkpoint file, without wrappers and prefixes; nothing in it is executed.

    Raises:
        ModelError: if the file is no pickle of tensors.
    """
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words would advise to execute what is in it
            reason = "it is no pickle, or holds more than tensors, which is not loaded because it could run code"
        raise ModelError(f"{path} cannot be read as a file of tensors: {reason}") from error
    if isinstance(stored, dict) and "model_state_dict" in stored:
        stored = stored["model_state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ModelError(f"{path} holds no state dict of tensors; give OpenFlamingo's checkpoint.pt")
    return {str(name).removeprefix("module."): value for name, value in stored.items()}


def convert_openflamingo(
    state: dict[str, Tensor],
    language_model: str,
    *,
    vocabulary_size: int | None = None,
    vision: VisionConfig | None = None,
    source: str = "the checkpoint",
) -> tuple[FlamingoConfig, dict[str, Tensor]]:
    """A configuration and the trained state that `load_trainable` takes.

    Logits equal OpenFlamingo's: its vocabulary, retrained rows included, replaces the language model's. It was trained
    on single pictures; a temporal embedding of zeros keeps it so, and frames of a video are a bag to it.

    Where no output layer is stored and the language model's is not tied (LLaMA, v1), the new tokens' output rows are
    their input rows; OpenFlamingo draws them anew at each load.

    Args:
        state: from `read_openflamingo`.
        language_model: name or folder of the frozen language model it was trained with.
        vocabulary_size: length of that model's own tokenizer, the id of `<|endofchunk|>`; None = the stored rows less
            the tokens that OpenFlamingo adds: two to OPT, whose tokenizer has a padding token, three to the others.
        vision: the tower, and which of its features; default: OpenAI's CLIP ViT-L/14 as open_clip up to 2.22 gave them
            (QuickGELU, patch tokens before the final norm), which every released checkpoint was trained with.
        source: for messages.

    Raises:
        ModelError: one report of everything missing, unexpected or of a shape that does not fit.
    """
    state = {name: value for name, value in state.items() if not IGNORED.match(name)}
    layers = sorted({int(block[2]) for block in map(BLOCK.fullmatch, state) if block})
    converted: dict[str, Tensor] = {}
    unexpected: list[str] = []
    embedding = head = None
    num_new = len(NEW_TOKENS)
    for name, value in state.items():
        block = BLOCK.fullmatch(name)
        if block and (block[3] in BLOCK_NAMES or block[3] == "attn.to_kv.weight"):
            prefix = f"blocks.{layers.index(int(block[2]))}."
            if block[3] == "attn.to_kv.weight":
                converted[f"{prefix}to_keys.weight"], converted[f"{prefix}to_values.weight"] = value.chunk(2)
            else:
                converted[prefix + BLOCK_NAMES[block[3]]] = value
        elif EMBEDDING.fullmatch(name):
            embedding = value
            num_new -= "decoder" in name
        elif HEAD.fullmatch(name):
            head = value
        elif (ours := _resampler_name(name)) is not None:
            converted[ours] = value
        else:
            unexpected.append(name)
    if unexpected or embedding is None or not layers or "resampler.latents" not in converted:
        missing = [what for what, found in (
            ("a token embedding", embedding is not None),
            ("gated_cross_attn_layer weights", bool(layers)),
            ("perceiver.latents", "resampler.latents" in converted),
        ) if not found]  # fmt: skip
        raise ModelError(
            f"{source} is no OpenFlamingo checkpoint: missing {', '.join(missing) or 'nothing'}; unexpected "
            f"{', '.join(sorted(unexpected)[:5]) or 'nothing'}{' ...' if len(unexpected) > 5 else ''}"
        )
    absent = [name for name in _expected(converted, len(layers)) if name not in converted]
    if absent:
        raise ModelError(f"{source} is incomplete; missing:\n  " + "\n  ".join(absent))
    config = _configuration(converted, layers, language_model, vision or default_vision(), source)
    converted.setdefault("resampler.time", torch.zeros(config.resampler.num_frames, config.resampler.width))
    size = len(embedding) - num_new if vocabulary_size is None else vocabulary_size
    config, rows = _vocabulary(config, embedding, head, size, source)
    return config, {**converted, **rows}


def default_vision() -> VisionConfig:
    """The tower of every released checkpoint, with the features and the preprocessing it was trained on."""
    return VisionConfig(
        "vit_large_patch14_clip_quickgelu_224.openai", image_size=224, fit="model", features="before_norm"
    )


def _expected(state: dict[str, Tensor], num_blocks: int) -> list[str]:
    """Names that every block, every layer and the resampler itself must have."""
    depth = 1 + max((int(name.split(".")[2]) for name in state if name.startswith("resampler.layers.")), default=0)
    norms, maps = ("feed_forward.norm.",), ("feed_forward.expand.", "feed_forward.contract.")
    of_layer = [f"{part}weight" for part in ("to_query.", "to_keys_values.", "to_output.", *maps)]
    of_layer += [f"{part}{kind}" for part in ("norm_media.", "norm_latents.", *norms) for kind in ("weight", "bias")]
    of_block = [*BLOCK_NAMES.values(), "to_keys.weight", "to_values.weight"]
    return [
        *(f"resampler.{name}" for name in ("latents", "norm.weight", "norm.bias")),
        *(f"resampler.layers.{layer}.{name}" for layer in range(depth) for name in of_layer),
        *(f"blocks.{block}.{name}" for block in range(num_blocks) for name in of_block),
    ]


def _resampler_name(name: str) -> str | None:
    if name in ("perceiver.latents", "perceiver.norm.weight", "perceiver.norm.bias"):
        return name.replace("perceiver.", "resampler.", 1)
    if name == "perceiver.frame_embs":
        return "resampler.time"
    layer = re.fullmatch(r"perceiver\.layers\.(\d+)\.(\d\.\w+\.)(\w+)", name)
    if layer and layer[2] in RESAMPLER_NAMES:
        return f"resampler.layers.{layer[1]}.{RESAMPLER_NAMES[layer[2]]}{layer[3]}"
    return None


def _configuration(
    state: dict[str, Tensor], layers: list[int], language_model: str, vision: VisionConfig, source: str
) -> FlamingoConfig:
    every = layers[1] - layers[0] if len(layers) > 1 else layers[0] + 1
    if layers != list(range(layers[0], layers[-1] + 1, every)):
        raise ModelError(
            f"{source} has gated blocks before layers {layers}, which follow no schedule first + n * every"
        )
    num_latents, width = state["resampler.latents"].shape
    resampler = ResamplerConfig(
        num_latents=num_latents,
        depth=1 + max(int(name.split(".")[2]) for name in state if name.startswith("resampler.layers.")),
        width=width,
        num_heads=len(state["resampler.layers.0.to_query.weight"]) // DIM_HEAD,
        dim_head=DIM_HEAD,
        feed_forward_multiplier=len(state["resampler.layers.0.feed_forward.expand.weight"]) / width,
        activation="gelu",
        num_frames=len(state.get("resampler.time", torch.zeros(8, 1))),
    )
    cross_attention = CrossAttentionConfig(
        first=layers[0],
        every=every,
        num_heads=len(state["blocks.0.to_query.weight"]) // DIM_HEAD,
        dim_head=DIM_HEAD,
        feed_forward_multiplier=len(state["blocks.0.feed_forward.expand.weight"])
        / len(state["blocks.0.norm_text.weight"]),
        activation="gelu",
        norm_media=False,
    )
    return FlamingoConfig(
        language_model, vision, resampler, cross_attention, media_tag="<image>", end_of_chunk="<|endofchunk|>"
    )


def _vocabulary(
    config: FlamingoConfig, embedding: Tensor, head: Tensor | None, size: int, source: str
) -> tuple[FlamingoConfig, dict[str, Tensor]]:
    """The stored rows, cut into the known vocabulary and the new tokens."""
    num_new = len(embedding) - size
    if not 2 <= num_new <= len(NEW_TOKENS):
        raise ModelError(
            f"{source} has {len(embedding)} embedding rows and vocabulary_size is {size}: that leaves {num_new} new "
            f"tokens, but OpenFlamingo adds 2 or 3 ({', '.join(NEW_TOKENS)}); give the length of the tokenizer"
        )
    config = replace(
        config,
        more_tokens=NEW_TOKENS[1:num_new],
        tied_new_tokens=head is None or head is embedding or torch.equal(head, embedding),
        vocabulary_size=size,
        own_vocabulary=True,
    )
    rows = {"new_tokens.embedding_weight": embedding[:size], "new_tokens.weight": embedding[size:]}
    if not config.tied_new_tokens:
        assert head is not None  # tied otherwise
        rows |= {"new_tokens.head_weight": head[:size], "new_tokens.output_weight": head[size:]}
    return config, rows
