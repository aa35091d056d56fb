"""Checkpoints are a folder: `config.json` names the frozen parts, `trainable.safetensors` holds what was trained.

No pickles. Loading is strict: one readable report says what is missing, unexpected or misshaped.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videoflamingo.errors import ModelError
from videoflamingo.models.cross_attention import CrossAttentionConfig
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
from videoflamingo.models.language import Quantization
from videoflamingo.models.resampler import ResamplerConfig
from videoflamingo.models.vision import VisionConfig

FORMAT = "videoflamingo-1"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "trainable.safetensors"
# Keys of trained weights.
TOWER, POSITIONS, POOLED = "vision.backbone.", "resampler.position", "resampler.pooled."
WORD_TIMES = ".word_times"
PARTS = {"vision": VisionConfig, "resampler": ResamplerConfig, "cross_attention": CrossAttentionConfig}


def bundled_models() -> dict[str, Path]:
    """Models that come with this package, by name."""
    folder = Path(str(files("videoflamingo"))) / "bundled"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))}


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The folder of a bundled model's name or of a path.

    Raises:
        ModelError: if it is neither.
    """
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)]
    folder = Path(name)
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        known = ", ".join(bundled) or "none is installed"
        raise ModelError(
            f"model {str(name)!r} is neither a bundled model ({known}) nor a checkpoint folder: "
            f"{folder} has no {' and no '.join(missing)}"
        )
    return folder


def read_config(folder: Path) -> FlamingoConfig:
    """`config.json` as a configuration.

    Raises:
        ModelError: naming the file and the key that is unknown or missing.
    """
    path = folder / CONFIG_FILE
    try:
        stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    found = stored.pop("format", None) if isinstance(stored, dict) else None
    if found != FORMAT:
        raise ModelError(f"{path}: format is {found!r}, this version reads {FORMAT!r}")
    try:
        parts = {name: kind(**stored.pop(name)) for name, kind in PARTS.items()}
        return FlamingoConfig(**stored, **parts)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} does not describe a Flamingo: {error}") from error


def save_checkpoint(model: Flamingo, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float16) -> Path:
    """Write `config.json` and `trainable.safetensors`; an older checkpoint there is replaced file by file.

    Args:
        dtype: type the trained weights are stored in.
    """
    return write_checkpoint(model.config, model.trainable_state(), folder, dtype)


def write_checkpoint(
    config: FlamingoConfig, state: dict[str, Tensor], folder: str | os.PathLike[str], dtype: torch.dtype
) -> Path:
    """`save_checkpoint` for weights that are in no model, as a converter has them.

    Raises:
        OSError: if they cannot be written, such as on a full disk; what was there before is left as it was.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2)
    _replace(folder / WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
    _replace(folder / CONFIG_FILE, f"{text}\n".encode())
    return folder


def average_checkpoints(
    folders: Sequence[Path], weights: Sequence[float], out: str | os.PathLike[str], dtype: torch.dtype
) -> Path:
    """Write the weighted sum of checkpoints' trained weights, added up in float32, with the first one's configuration.

    What the first was given later, pooled tokens or times of words, the others may lack; it stays the first one's.

    Args:
        folders: checkpoints of one architecture.
        weights: of each.

    Raises:
        ModelError: if one cannot be read, or differs from the first in what it has.
    """
    config, first = read_config(folders[0]), _read_weights(folders[0])
    total = {key: weights[0] * value.float() for key, value in first.items()}
    for folder, weight in zip(folders[1:], weights[1:], strict=True):
        other, lacks = _grown(read_config(folder), config)
        if other != config:
            raise ModelError(f"{folder} is no model like {folders[0]}: their {CONFIG_FILE} differ; average like ones")
        stored = _read_weights(folder)
        stored |= {key: value for key, value in first.items() if any(part in key for part in lacks)}
        if problems := _differences(first, stored):
            raise ModelError(f"{folder} does not have the weights of {folders[0]}:\n  " + "\n  ".join(problems))
        for key, value in stored.items():
            total[key] += weight * value.float()
    return write_checkpoint(config, total, out, dtype)


def _grown(config: FlamingoConfig, other: FlamingoConfig) -> tuple[FlamingoConfig, list[str]]:
    """The configuration with what training can add and the other has, and of which keys the weights for that are."""
    lacks = []
    if not config.resampler.pooled_side and other.resampler.pooled_side:
        lacks.append(POOLED)
        resampler = dataclasses.replace(config.resampler, pooled_side=other.resampler.pooled_side)
        config = dataclasses.replace(config, resampler=resampler)
    if not config.cross_attention.word_times and other.cross_attention.word_times:
        lacks.append(WORD_TIMES)
        blocks = dataclasses.replace(config.cross_attention, word_times=True)
        config = dataclasses.replace(config, cross_attention=blocks)
    return config, lacks


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def load_trainable(model: Flamingo, folder: str | os.PathLike[str], *, as_start: bool = False) -> None:
    """Fill the trained weights of a model from a checkpoint folder or a bundled model's name, strictly.

    Args:
        as_start: of further training, which may change three things: a tower that was frozen may be trained now, so its
            weights may be missing; frames may be larger, so position embeddings are resampled to their grid; and
            there may be pooled tokens, or times of words, which begin as they are made where there were none.

    Raises:
        ModelError: one report of everything missing, unexpected or misshaped.
    """
    found = find_checkpoint(folder)
    stored, path = _read_weights(found), found / WEIGHTS_FILE
    expected = model.trainable_state()
    if as_start:
        for part in (TOWER, POOLED, WORD_TIMES):
            if not any(part in key for key in stored):
                expected = {key: value for key, value in expected.items() if part not in key}
        if POSITIONS in expected and POSITIONS in stored:
            stored[POSITIONS] = _resampled_positions(stored[POSITIONS], len(expected[POSITIONS]))
    problems = _differences(expected, stored)
    if problems:
        raise ModelError(f"{path} does not fit the model:\n  " + "\n  ".join(problems))
    with torch.no_grad():
        for key, target in expected.items():
            target.copy_(stored[key])


def _resampled_positions(table: Tensor, num_patches: int) -> Tensor:
    """A table `[P, D]` of a square grid for another one (bicubic); as it is where P is right or no square."""
    old, new = math.isqrt(len(table)), math.isqrt(num_patches)
    if len(table) == num_patches or old * old != len(table) or new * new != num_patches:
        return table
    grid = table.float().unflatten(0, (old, old)).permute(2, 0, 1)[None]  # [1, D, rows, columns]
    resampled = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)[0]
    return resampled.permute(1, 2, 0).flatten(0, 1).to(table.dtype)  # [P, D]


def _differences(expected: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    problems = [f"missing: {key}" for key in sorted(expected.keys() - stored.keys())]
    problems += [f"unexpected: {key}" for key in sorted(stored.keys() - expected.keys())]
    for key in sorted(expected.keys() & stored.keys()):
        if expected[key].shape != stored[key].shape:
            problems.append(f"misshaped: {key} is {list(stored[key].shape)}, the model has {list(expected[key].shape)}")
    return problems


def load_checkpoint(
    name: str | os.PathLike[str], dtype: torch.dtype = torch.float32, quantize: Quantization = "none"
) -> Flamingo:
    """A model in eval mode, all its weights in `dtype` (means and deviations stay float32), on the CPU.

    Args:
        name: a bundled model's name or a checkpoint folder.
        quantize: of the language model, see `Flamingo`.

    Raises:
        ModelError: if it cannot be found or does not fit.
    """
    folder = find_checkpoint(name)
    model = Flamingo(read_config(folder), dtype=dtype, quantize=quantize)
    load_trainable(model, folder)
    for trained in (model.resampler, model.blocks, model.new_tokens):
        trained.to(dtype)
    return model.eval()
