"""What OpenFlamingo's own code computes on small random models: writes `openflamingo.safetensors` beside this file.

    make openflamingo && .venv-openflamingo/bin/python tests/golden/make_openflamingo.py

`make openflamingo` builds the environment: open-flamingo 2.0.1 with the transformers it works with. Nothing of
videoflamingo is imported. Weights are functions of their names (`drawn.py`), so the file holds inputs, outputs and the
names and shapes of what OpenFlamingo's saver would keep, and no weights.
"""

# ruff: noqa: E402  (imports below need torchvision's operators declared first)
import contextlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

for name in ("nms", "qnms"):  # torchvision's CUDA build beside a CPU torch: declare what its import registers fakes for
    with contextlib.suppress(RuntimeError):  # this torchvision brought its operators
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import numpy as np
import transformers
from drawn import drawn
from open_clip.transformer import VisionTransformer
from open_flamingo.src.factory import _infer_decoder_layers_attr_name
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.helpers import GatedCrossAttentionBlock, PerceiverResampler
from open_flamingo.src.utils import extend_instance
from safetensors.torch import save_file

HERE = Path(__file__).parent
VOCABULARY = 40  # tokens of the bare language model; 40 = end of chunk, 41 = image, 42 = padding
END, IMAGE, PAD = 40, 41, 42
VISUAL_WIDTH = 64
TOWER = {
    "image_size": 16,
    "patch_size": 8,
    "width": VISUAL_WIDTH,
    "layers": 2,
    "heads": 2,
    "mlp_ratio": 4.0,
    "output_dim": 16,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": VOCABULARY}
# family -> configuration class, its settings, cross-attention every so many layers
FAMILIES = {
    "llama": ("LlamaConfig", {**SIZES, "intermediate_size": 48, "tie_word_embeddings": True}, 1),
    "opt": (
        "OPTConfig",
        {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64, "dropout": 0.0},
        2,
    ),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "intermediate_size": 48, "tie_word_embeddings": False}, 2),
    "mpt": (
        "MptConfig",
        {"d_model": 32, "n_layers": 4, "n_heads": 4, "expansion_ratio": 2, "vocab_size": VOCABULARY, "max_seq_len": 64},
        4,
    ),
}
# Texts with 0, 1, 2 and 5 media, with text before the first medium, and of different lengths.
TEXTS = [
    [5, 9, 20, 7],
    [IMAGE, 11, 12, 13, END],
    [3, 4, IMAGE, 21, 22, END, IMAGE, 23],
    [8, IMAGE, 1, IMAGE, 2, 3, IMAGE, 4, END, IMAGE, 5, 6, 7, IMAGE, 30, 31],
]
PROMPTS = [[3, 4, IMAGE, 6], [IMAGE, 21, 22, END, IMAGE, 23], [9, 10, 11, 12, 13]]
NEW_TOKENS = 12


def fill(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Every parameter drawn from its name; `decoder_layer.` is OpenFlamingo's and not part of a model's own name."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            own = name.replace("decoder_layer.", "")
            parameter.copy_(torch.from_numpy(drawn(prefix + own, parameter.shape)))
    return module.eval()


def random_input(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(len(name)).standard_normal(shape).astype(np.float32))


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask `[B, L]`."""
    longest = max(map(len, rows))
    fill_up = [[PAD] * (longest - len(row)) for row in rows]
    ids = [row + pad if side == "right" else pad + row for row, pad in zip(rows, fill_up, strict=True)]
    mask = [[1] * len(row) + [0] * len(pad) if side == "right" else [0] * len(pad) + [1] * len(row)
            for row, pad in zip(rows, fill_up, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(mask)


class Tower(torch.nn.Module):
    """What OpenFlamingo expects of open_clip: a model with `.visual`."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = VisionTransformer(**TOWER, output_tokens=True)


def whole_model(family: str) -> tuple[Flamingo, dict]:
    """As `open_flamingo.create_model_and_transforms` makes it, from parts that need no download."""
    config_class, settings, every = FAMILIES[family]
    config = getattr(transformers, config_class)(**settings)
    language_model = transformers.AutoModelForCausalLM.from_config(config)
    extend_instance(language_model, FlamingoLMMixin)
    language_model.set_decoder_layers_attr_name(_infer_decoder_layers_attr_name(language_model))
    language_model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    model = Flamingo(Tower(), language_model, END, IMAGE, vis_dim=VISUAL_WIDTH, cross_attn_every_n_layers=every)
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
    model.lang_encoder.get_input_embeddings().requires_grad_(True)
    fill(model)
    head = model.lang_encoder.get_output_embeddings().weight
    with torch.no_grad():  # so that answers end
        head[END] *= 2
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = {
        name: list(value.shape)
        for name, value in model.state_dict(keep_vars=False).items()
        if name in trained or "embed" in name
    }
    output_key = next(name for name, value in model.named_parameters() if value is head)
    return model, {
        "every": every,
        "config_class": config_class,
        "settings": settings,
        "saved": saved,
        "output_key": output_key,
    }


@torch.no_grad()
def main() -> None:
    arrays: dict[str, torch.Tensor] = {}
    about: dict = {"texts": TEXTS, "prompts": PROMPTS, "new_tokens": NEW_TOKENS, "tower": TOWER, "families": {}}
    about["versions"] = {"python": platform.python_version()} | {
        package: version(package) for package in ("open-flamingo", "open-clip-torch", "torch", "transformers")
    }

    # The resampler alone: pictures, and (its code allows it, its model does not) media of three frames.
    for name, settings in (("resampler", {}), ("resampler_frames", {"max_num_frames": 4})):
        sizes = {"dim": 24, "depth": 2, "dim_head": 8, "heads": 3, "num_latents": 5, **settings}
        resampler = fill(PerceiverResampler(**sizes), f"{name}.")
        arrays[f"{name}.features"] = random_input(name, 2, 3, 3 if settings else 1, 6, 24)  # [b, T, F, v, D]
        arrays[f"{name}.output"] = resampler(arrays[f"{name}.features"])

    # The gated block alone, with 0 to 5 media in a row, and attending to all previous media.
    text, media = random_input("text", 6, 12, 24), random_input("media", 6, 5, 4, 20)
    places = torch.zeros(6, 12, dtype=torch.bool)
    for row in range(6):
        places[row, [2, 3, 5, 8, 10][:row]] = True  # row r has r media and two tokens before the first
    arrays |= {"block.text": text, "block.media": media, "block.places": places}
    for name, immediate in (("block", True), ("block_all_previous", False)):
        block = GatedCrossAttentionBlock(
            dim=24, dim_visual=20, dim_head=8, heads=3, only_attend_immediate_media=immediate
        )
        arrays[f"{name}.output"] = fill(block, "block.")(text, media, media_locations=places)

    pixels = random_input("pixels", len(TEXTS), 5, 1, 3, TOWER["image_size"], TOWER["image_size"])
    arrays["pixels"] = pixels
    ids, mask = padded(TEXTS, "right")
    prompt_ids, prompt_mask = padded(PROMPTS, "left")
    for family in FAMILIES:
        model, about["families"][family] = whole_model(family)
        about["tower_weights"] = {name: list(value.shape) for name, value in model.vision_encoder.named_parameters()}
        arrays["features"] = model.vision_encoder(pixels.flatten(0, 2))[1]  # [b * T, v, D]; the same for all families
        arrays["visual_tokens"] = model.perceiver(arrays["features"].unflatten(0, (len(TEXTS), 5, 1)))  # likewise
        arrays[f"{family}.logits"] = model(vision_x=pixels, lang_x=ids, attention_mask=mask).logits
        for name, settings in {
            "greedy": {"num_beams": 1},
            "beam3": {"num_beams": 3},
            "beam3_sums": {"num_beams": 3, "length_penalty": 0.0},
            "beam3_short": {"num_beams": 3, "length_penalty": -2.0},
        }.items():
            generated = model.generate(
                pixels[: len(PROMPTS), :2],
                prompt_ids,
                attention_mask=prompt_mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=PAD,
                bad_words_ids=[[IMAGE]],
                **settings,
            )
            arrays[f"{family}.{name}"] = generated[:, prompt_ids.shape[1] :].contiguous()
    arrays = {name: value.contiguous().clone() for name, value in arrays.items()}
    save_file(arrays, HERE / "openflamingo.safetensors", metadata={"about": json.dumps(about)})
    for name, value in arrays.items():
        print(f"{name:32} {list(value.shape)!s:24} {value.dtype}")
        if value.dtype == torch.int64:
            print(value.tolist())


if __name__ == "__main__":
    main()
