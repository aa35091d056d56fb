"""Attention kernels behind one seam: the only file that knows which kernel runs.

A text token looks only at its own medium (Flamingo v1 3.1.3, v2 A.1.3), so text is cut into runs of equal media index
and each run attends to the N latents of its medium: the cost is text x latents, whatever the number of media, and no
row is ever fully masked, because text before any medium is simply in no run.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from videoflamingo.errors import ModelError

Backend = Literal["auto", "math", "sdpa", "xformers"]

# Below this many scores per head the backward of PyTorch's fused CPU kernel costs more than the arithmetic.
MATH_WINS_BELOW_SCORES = 1 << 20


@dataclass(frozen=True)
class MediaRuns:
    """Text `[B, L]` cut into R runs of equal, non-zero media index; S is the longest run.

    Args:
        text: `[R, S]`, int64 into the flattened `[B * L]`; a shorter run repeats its first position.
        real: `[K]`, int64 into the flattened `[R * S]`: the entries of `text` that are not repeats.
        media: `[R]`, int64 into the flattened `[B * M]`.
        lengths: the R run lengths, as Python integers (what xformers' mask is built from).
    """

    text: Tensor
    real: Tensor
    media: Tensor
    lengths: tuple[int, ...]


def media_runs(media_index: Sequence[Sequence[int]], num_media: int, device: torch.device) -> MediaRuns | None:
    """Cut text into runs; None if no token has a medium. Built once per forward and shared by all blocks.

    Args:
        media_index: `[B, L]` as nested lists, 0 = no medium yet, else 1-based; padding tokens carry 0.
        num_media: M.

    Raises:
        ModelError: if an index is negative or refers past the last medium.

    Example:
        >>> runs = media_runs([[0, 1, 1, 2]], num_media=2, device=torch.device("cpu"))
        >>> runs.text.tolist(), runs.media.tolist(), runs.lengths
        ([[1, 2], [3, 3]], [0, 1], (2, 1))
    """
    starts: list[int] = []
    lengths: list[int] = []
    media: list[int] = []
    for row, indices in enumerate(media_index):
        previous = 0
        for column, index in enumerate(indices):
            if not 0 <= index <= num_media:
                raise ModelError(
                    f"token {column} of row {row} refers to medium {index}, but {num_media} media were given; "
                    "media are numbered from 1"
                )
            if index != 0 and index == previous:
                lengths[-1] += 1
            elif index != 0:
                starts.append(row * len(indices) + column)
                lengths.append(1)
                media.append(row * num_media + index - 1)
            previous = index
    if not starts:
        return None
    longest = max(lengths)
    offsets = torch.arange(longest)[None, :]  # [1, S]
    is_real = offsets < torch.tensor(lengths)[:, None]  # [R, S]
    text = torch.tensor(starts)[:, None] + torch.where(is_real, offsets, torch.zeros_like(offsets))  # [R, S]
    real = is_real.flatten().nonzero().squeeze(1)  # [K]
    return MediaRuns(text.to(device), real.to(device), torch.tensor(media).to(device), tuple(lengths))


def choose_backend(requested: Backend, query: Tensor, num_keys: int, query_length: int) -> Backend:
    """The kernel that will run: `"math"`, `"sdpa"` or `"xformers"`.

    `auto` takes xformers on CUDA for more than one query token where it is installed, plain arithmetic for short
    sequences on CPU, PyTorch's fused kernels everywhere else.

    Raises:
        ModelError: if a backend is unknown, or xformers is forced where it cannot run.
    """
    if requested not in get_args(Backend):
        raise ModelError(f"attention backend {requested!r} is unknown; choose one of {', '.join(get_args(Backend))}")
    xformers_runs = query.is_cuda and importlib.util.find_spec("xformers") is not None
    if requested == "xformers" and not xformers_runs:
        raise ModelError(
            f"attention backend 'xformers' needs CUDA and the xformers package, but the tensors are on "
            f"{query.device.type}; use --device cuda, or backend 'auto'"
        )
    if requested != "auto":
        return requested
    if query.is_cuda:
        return "xformers" if xformers_runs and query_length > 1 else "sdpa"
    return "math" if query.shape[0] * query_length * num_keys < MATH_WINS_BELOW_SCORES else "sdpa"


def attend(query: Tensor, keys: Tensor, values: Tensor, backend: Backend = "auto") -> Tensor:
    """Plain attention without a mask: query `[R, S, H, d]`, keys and values `[R, N, H, d]` -> `[R, S, H, d]`."""
    chosen = choose_backend(backend, query, keys.shape[1], query.shape[1])
    if chosen == "xformers":
        return _xformers_attention(query, keys, values, None)
    query, keys, values = query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)  # [R, H, S | N, d]
    if chosen == "sdpa":
        return F.scaled_dot_product_attention(query, keys, values).transpose(1, 2)
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(2, 3)  # [R, H, S, N]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).transpose(1, 2)  # [R, S, H, d]


def cross_attend(
    query: Tensor, keys: Tensor, values: Tensor, runs: MediaRuns | None, backend: Backend = "auto"
) -> Tensor:
    """Each text token attends to the latents of its own medium; text without a medium gets exactly zero.

    Args:
        query: `[B, L, H, d]`.
        keys, values: `[B, M, N, H, d]`.
        runs: from `media_runs` for the same `[B, L]` and M; None where no token has a medium.
        backend: see `choose_backend`.

    Returns:
        `[B, L, H, d]` of query's type.
    """
    batch, length, heads, width = query.shape
    if runs is None:
        return torch.zeros_like(query)
    flat = query.reshape(batch * length, heads, width)  # [B*L, H, d]
    run_keys = keys.flatten(0, 1)[runs.media]  # [R, N, H, d]
    run_values = values.flatten(0, 1)[runs.media]
    chosen = choose_backend(backend, query, keys.shape[2], max(runs.lengths))
    target = runs.text.flatten()[runs.real]  # [K]
    if chosen == "xformers":
        attended = _xformers_attention(flat[target][None], run_keys, run_values, runs.lengths)[0]  # [K, H, d]
    else:
        padded = attend(flat[runs.text], run_keys, run_values, chosen)  # [R, S, H, d]
        attended = padded.flatten(0, 1)[runs.real]  # [K, H, d]
    output = torch.zeros_like(flat).index_put((target,), attended.to(flat.dtype))
    return output.reshape(batch, length, heads, width)


def _xformers_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: tuple[int, ...] | None) -> Tensor:
    """xformers' memory-efficient attention; with lengths, a block-diagonal mask over one row of all runs."""
    from xformers.ops import fmha, memory_efficient_attention

    if lengths is None:
        return memory_efficient_attention(query, keys, values)
    mask = fmha.attn_bias.BlockDiagonalMask.from_seqlens(list(lengths), [keys.shape[1]] * keys.shape[0])
    return memory_efficient_attention(
        query, keys.flatten(0, 1)[None], values.flatten(0, 1)[None], attn_bias=mask
    )  # [1, K, H, d]
