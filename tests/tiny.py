"""A random Flamingo, small enough for tests: every weight is drawn and every gate is open, so each path matters."""

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from videoflamingo.generation import encode_segments
from videoflamingo.models.cross_attention import CrossAttentionConfig
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
from videoflamingo.models.resampler import ResamplerConfig
from videoflamingo.models.vision import VisionConfig
from videoflamingo.prompt import EncodedPrompt, Segment
from videoflamingo.torchvision_operators import declare_missing_operators

PRINTABLE = string.printable[:95]  # letters, digits, punctuation and the space
TINY_CONFIG = FlamingoConfig(
    language_model="(given)",
    vision=VisionConfig("random:test_efficientnet", image_size=64, chunk_size=4),
    resampler=ResamplerConfig(
        num_latents=3, depth=2, width=24, num_heads=2, dim_head=8, feed_forward_multiplier=2.0, num_frames=4
    ),
    cross_attention=CrossAttentionConfig(first=1, every=2, num_heads=2, dim_head=8, feed_forward_multiplier=2.0),
)


def tiny_tokenizer(alphabet: str = PRINTABLE) -> Any:
    """One token a character, after `<s>`, `</s>` and `<unk>`."""
    declare_missing_operators()
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Every parameter random and of a size at which it shows: matrices keep the scale of what goes through them."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("_gate"):
                drawn = 0.5 + 0.2 * drawn
            elif drawn.dim() == 1 and name.endswith("weight"):  # of norms
                drawn = 1 + 0.2 * drawn
            elif "embed" not in name and drawn.dim() >= 2:
                drawn = drawn / math.sqrt(parameter.shape[-1])
            parameter.copy_(drawn)


LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
NEOX_LIKE = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
# family -> its configuration, sizes, and where each layer's attention ends.
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", LLAMA_LIKE, "self_attn.o_proj"),
    "mistral": ("MistralConfig", {**LLAMA_LIKE, "sliding_window": 16}, "self_attn.o_proj"),
    "qwen2": ("Qwen2Config", LLAMA_LIKE, "self_attn.o_proj"),
    "qwen3": ("Qwen3Config", {**LLAMA_LIKE, "head_dim": 8}, "self_attn.o_proj"),
    "gpt_neox": ("GPTNeoXConfig", NEOX_LIKE, "attention.dense"),
    "opt": ("OPTConfig", {**NEOX_LIKE, "ffn_dim": 48, "word_embed_proj_dim": 32}, "self_attn.out_proj"),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}, "attn.c_proj"),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 4, "n_heads": 4, "expansion_ratio": 2}, "attn.out_proj"),
}


def tiny_language_model(vocabulary: int, seed: int = 0, family: str = "llama", **settings: Any) -> Any:
    """A random model of four layers."""
    declare_missing_operators()
    import transformers

    name, sizes, _ = FAMILIES[family]
    config = getattr(transformers, name)(
        **{"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, **sizes, **settings}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    draw_weights(model, torch.Generator().manual_seed(seed))
    return model


def tiny_flamingo(
    seed: int = 0,
    *,
    alphabet: str = PRINTABLE,
    family: str = "llama",
    language_model: Any = None,
    config: FlamingoConfig = TINY_CONFIG,
    **changes: Any,
) -> Flamingo:
    """The model in eval mode; two of one seed are equal.

    Args:
        family: of the random language model.
        language_model: used instead of that.
        changes: fields of the configuration.
    """
    tokenizer = tiny_tokenizer(alphabet)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        language_model = language_model or tiny_language_model(len(tokenizer), seed, family)
        model = Flamingo(replace(config, **changes), language_model, tokenizer)
    generator = torch.Generator().manual_seed(seed + 1)
    for part in (model.resampler, model.blocks, model.new_tokens):
        draw_weights(part, generator)
    return model.eval()


def close_gates(model: Flamingo) -> Flamingo:
    """As at the paper's first step: the gated blocks change nothing."""
    for block in model.blocks:
        nn.init.zeros_(block.attention_gate)
        nn.init.zeros_(block.feed_forward_gate)
    return model


def bigram_flamingo(following: Mapping[str, Mapping[str, float]], **changes: Any) -> Flamingo:
    """A Flamingo whose next token depends on the last one only, with the probabilities given; gates are closed.

    A real Llama whose layers add nothing: embeddings are one-hot and the head holds logarithms of probabilities.

    Args:
        following: character -> next character -> probability; `EOC` and `EOS` are the two ends. What is not listed has
            a probability of about e-30.
    """
    names = {"EOC", "EOS"}
    used = sorted({token for before, after in following.items() for token in (before, *after)} - names)
    idle = [character for character in PRINTABLE if character not in used][:20]  # beams need some to choose among
    characters = "".join([*used, *idle])
    tokenizer = tiny_tokenizer(characters)
    size = len(tokenizer)
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    language_model = tiny_language_model(size, hidden_size=size + size % 2, num_hidden_layers=2, **heads)
    model = close_gates(tiny_flamingo(alphabet=characters, language_model=language_model, **changes))
    width = language_model.config.hidden_size
    with torch.no_grad():
        for layer in language_model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        language_model.model.norm.weight.fill_(1)
        language_model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        head = torch.full((size + 1, width), -30.0)
        ids = {"EOC": model.end_of_chunk_id, "EOS": tokenizer.eos_token_id, **tokenizer.get_vocab()}
        for before, after in following.items():
            for token, probability in after.items():
                head[ids[token], ids[before]] = math.log(probability)
        head /= math.sqrt(width)  # what the norm makes of a one-hot vector
        language_model.lm_head.weight.copy_(head[:size])
        model.new_tokens.weight.copy_(head[size:])
    return model


def encode(model: Flamingo, segments: Sequence[Segment]) -> EncodedPrompt:
    """The prompt in the model's tokens."""
    return encode_segments(model, segments)


def random_pixels(num_frames: int, seed: int = 0, size: int = TINY_CONFIG.vision.image_size) -> Tensor:
    """Frames `[F, 3, size, size]`, as `VisionTower.preprocess` would give them."""
    return torch.randn(num_frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_visual_tokens(model: Flamingo, batch: int, num_media: int, seed: int = 0) -> Tensor:
    """Visual tokens `[B, M, N, D]` without a tower."""
    sizes = model.config.resampler
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_media, sizes.num_latents, sizes.width, generator=generator)


def run(model: Flamingo, prompt: EncodedPrompt, visual_tokens: Tensor | None) -> Tensor:
    """Logits `[L, vocabulary + new]` of one prompt in one pass without cache or padding."""
    ids, index = torch.tensor([prompt.token_ids]), torch.tensor([prompt.media_index])
    with torch.no_grad():
        return model(ids, index, visual_tokens=visual_tokens).logits[0]
