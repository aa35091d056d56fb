"""Attention kernels behind one seam: the only file that knows which kernel runs.

A text token looks only at its own medium (Flamingo v1 3.1.3, v2 A.1.3), so text is cut into runs of equal media index
and each run attends to the N latents of its medium: the cost is text x latents, whatever the number of media, and no
row is ever fully masked, because text before any medium is simply in no run.
"""

import functools
import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from videoflamingo.errors import ModelError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "math", "sdpa", "xformers"]
AttendTo = Literal["own", "all_previous"]

# Runs go together whose lengths differ by less than this factor: more groups would cost more calls, fewer more padding.
GROUP_LENGTHS_WITHIN = 2
# On a CPU, runs at least this long on average that are not all equally long are not padded but attended to one by one:
# a call costs less than the copies (33 ragged runs of 1,056 tokens with gradients took 11 ms so, 18 in groups). Where
# exactly it stops paying was not searched for.
ONE_BY_ONE_FROM = 16


@dataclass(frozen=True, eq=False)
class RunGroup:
    """R runs of similar length, S the longest, each of which attends to J media. `None` = these positions, in order.

    Args:
        shape: R and S.
        text: `[R * S]`, int64 into the flattened `[B * L]`; a shorter run repeats its first position.
        real: `[K]`, int64 into `[R * S]`: the entries of `text` that are no repeats.
        num_media: J.
        media: `[R * J]`, int64 into the flattened `[B * M]`.
    """

    shape: tuple[int, int]
    text: Tensor | None
    real: Tensor | None
    num_media: int
    media: Tensor | None


@dataclass(frozen=True, eq=False)
class MediaRuns:
    """Text `[B, L]` cut into runs of equal, non-zero media index. Made by `media_runs`, once per forward.

    Args:
        groups: all runs, in groups of similar length.
        target: int64 into the flattened `[B * L]`: the tokens of all runs, group by group; None = all tokens, in order.
        lengths: of the runs in that order, and
        media_per_run: how many media each attends to, as Python integers (what xformers' mask is built from).
        pieces: where runs are better taken one by one: all of `[B * L]` as (length, medium or None), in order.
    """

    groups: tuple[RunGroup, ...]
    target: Tensor | None
    lengths: tuple[int, ...]
    media_per_run: tuple[int, ...]
    pieces: tuple[tuple[int, int | None], ...] | None = None


def media_runs(
    media_index: Sequence[Sequence[int]],
    num_media: int,
    device: torch.device,
    attend_to: AttendTo = "own",
    *,
    same_media: bool = False,
) -> MediaRuns | None:
    """Cut text into runs; None if no token has a medium. Built once per forward and shared by all blocks.

    Args:
        media_index: `[B, L]` as nested lists, 0 = no medium yet, else 1-based; padding tokens carry 0.
        num_media: M.
        attend_to: a token's `own` medium (the paper), or `all_previous` media up to its own (the paper's ablation, v1
            4.4.2: 7.2 points worse).
        same_media: whether all rows number the same M media, `[1, M, N, H, d]` of keys and values for all B, instead of
            M media each.

    Raises:
        ModelError: if an index is negative or refers past the last medium.

    Example:
        >>> runs = media_runs([[0, 1, 1, 2]], num_media=2, device=torch.device("cpu"))
        >>> runs.target.tolist(), runs.lengths, runs.media_per_run
        ([1, 2, 3], (2, 1), (1, 1))
    """
    found: list[tuple[int, int, range]] = []  # length, first token, media
    for row, indices in enumerate(media_index):
        start, previous = 0, 0
        before = 0 if same_media else row * num_media
        for column, index in enumerate([*indices, -1]):  # -1 ends the last run
            if column < len(indices) and not 0 <= index <= num_media:
                raise ModelError(
                    f"token {column} of row {row} refers to medium {index}, but {num_media} media were given; "
                    "media are numbered from 1"
                )
            if index == previous:
                continue
            if previous != 0:
                first_medium = previous - 1 if attend_to == "own" else 0
                media = range(before + first_medium, before + previous)
                found.append((column - start, row * len(indices) + start, media))
            start, previous = column, index
    if not found:
        return None
    num_tokens = len(media_index) * len(media_index[0])
    similar = _similar(found)
    num_all_media = num_media if same_media else len(media_index) * num_media
    groups = [_group(own, num_tokens, num_all_media, device) for own in similar]
    ordered = [run for own in similar for run in own]
    target = [token for length, first, _ in ordered for token in range(first, first + length)]
    long_runs = len(target) >= ONE_BY_ONE_FROM * len(found)
    equal = len(groups) == 1 and groups[0].real is None
    one_by_one = device.type == "cpu" and attend_to == "own" and long_runs and not equal
    return MediaRuns(
        tuple(groups),
        _positions(target, num_tokens, device),
        tuple(length for length, _, _ in ordered),
        tuple(len(media) for _, _, media in ordered),
        tuple(_pieces(found, num_tokens)) if one_by_one else None,
    )


def _pieces(runs: list[tuple[int, int, range]], num_tokens: int) -> Iterator[tuple[int, int | None]]:
    """Runs and what is between them, in the order of the text."""
    done = 0
    for length, first, media in runs:
        if first > done:
            yield first - done, None
        yield length, media[0]
        done = first + length
    if done < num_tokens:
        yield num_tokens - done, None


def _similar(runs: list[tuple[int, int, range]]) -> list[list[tuple[int, int, range]]]:
    """Runs in groups with one number of media and lengths within the factor, each group in the order of the text."""
    groups: list[list[tuple[int, int, range]]] = []
    for run in sorted(runs, key=lambda run: (len(run[2]), run[0]), reverse=True):
        longest = groups[-1][0] if groups else None
        alike = longest and len(longest[2]) == len(run[2]) and longest[0] < GROUP_LENGTHS_WITHIN * run[0]
        groups[-1].append(run) if alike else groups.append([run])
    return [sorted(group, key=lambda run: run[1]) for group in groups]


def _group(runs: list[tuple[int, int, range]], num_tokens: int, num_all_media: int, device: torch.device) -> RunGroup:
    longest = max(length for length, _, _ in runs)
    text = [first + (place if place < length else 0) for length, first, _ in runs for place in range(longest)]
    real = [row * longest + place for row, (length, _, _) in enumerate(runs) for place in range(length)]
    media = [medium for _, _, media in runs for medium in media]
    return RunGroup(
        (len(runs), longest),
        _positions(text, num_tokens, device),
        _positions(real, len(text), device),
        len(runs[0][2]),
        _positions(media, num_all_media, device),
    )


def _positions(positions: list[int], size: int, device: torch.device) -> Tensor | None:
    return None if positions == list(range(size)) else torch.tensor(positions).to(device, non_blocking=True)


def _take(rows: Tensor, positions: Tensor | None) -> Tensor:
    return rows if positions is None else rows.index_select(0, positions)


def choose_backend(requested: Backend, query: Tensor, query_length: int) -> Backend:
    """The kernel that will run: `"math"`, `"sdpa"` or `"xformers"`.

    `auto` takes, on CUDA, xformers for more than one query token where it has a kernel, else PyTorch's fused kernels;
    on a CPU PyTorch's fused kernels, except that gradients in half precision go through plain arithmetic, which is up
    to twice as fast there for short texts (docs/decisions/0012; `benchmarks/cross_attention.py --kernels`).

    Args:
        query: any tensor of the attention's device, type, head width (last axis) and need of gradients.
        query_length: tokens of the longest run.

    Raises:
        ModelError: if a backend is unknown, or xformers is forced where it cannot run.
    """
    if requested not in get_args(Backend):
        raise ModelError(f"attention backend {requested!r} is unknown; choose one of {', '.join(get_args(Backend))}")
    if requested == "xformers" or (requested == "auto" and query.is_cuda and query_length > 1):
        reason = _xformers_cannot(query.device, query.dtype, query.shape[-1])
        if requested == "xformers" and reason:
            raise ModelError(
                f"attention backend 'xformers' cannot run: {reason}; use --device cuda with the package xformers "
                "(pip install 'videoflamingo[gpu]'), or backend 'auto'"
            )
        return "sdpa" if reason else "xformers"
    if requested != "auto":
        return requested
    trains = torch.is_grad_enabled() and query.requires_grad
    return "math" if query.device.type == "cpu" and trains and query.dtype != torch.float32 else "sdpa"


@functools.lru_cache(maxsize=64)
def _xformers_cannot(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Why xformers cannot attend there, forward and backward; empty if it can. Tried once, and a refusal is logged."""
    if device.type != "cuda":
        return f"it needs CUDA, but the tensors are on {device.type}"
    if importlib.util.find_spec("xformers") is None:
        return "the package xformers is not installed"
    try:
        with torch.enable_grad(), torch.inference_mode(False):
            tokens = torch.zeros(1, 8, 1, width, device=device, dtype=dtype, requires_grad=True)
            _xformers_attention(tokens, tokens, tokens, (3, 5), (4, 4)).sum().backward()
    except torch.OutOfMemoryError:
        raise  # says nothing about kernels
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = f"it has no kernel for {dtype} with heads of {width} on {torch.cuda.get_device_name(device)} ({error})"
        logger.warning("attention goes through PyTorch instead of xformers: %s", reason)
        return reason
    return ""


# Counts the kernels that ran inside `backends_that_ran`; private to each thread.
_ran: ContextVar[Counter[Backend] | None] = ContextVar("videoflamingo_backends_that_ran", default=None)


@contextmanager
def backends_that_ran() -> Iterator[Counter[Backend]]:
    """Which kernels run inside, in this thread's forward passes, and how often.

    Example:
        >>> with backends_that_ran() as ran:
        ...     _ = attend(*torch.zeros(3, 1, 2, 4, 8))
        >>> ran
        Counter({'sdpa': 1})
    """
    counter: Counter[Backend] = Counter()
    token = _ran.set(counter)
    try:
        yield counter
    finally:
        _ran.reset(token)


def _note(backend: Backend) -> None:
    counter = _ran.get()
    if counter is not None:
        counter[backend] += 1


def attend(query: Tensor, keys: Tensor, values: Tensor, backend: Backend = "auto") -> Tensor:
    """Plain attention without a mask: query `[R, S, H, d]`, keys and values `[R, N, H, d]` -> `[R, S, H, d]`."""
    chosen = choose_backend(backend, query, query.shape[1])
    _note(chosen)
    return _attend(query, keys, values, chosen)


def _attend(query: Tensor, keys: Tensor, values: Tensor, chosen: Backend) -> Tensor:
    if chosen == "xformers":
        return _xformers_attention(query, keys, values)
    query, keys, values = query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)  # [R, H, S | N, d]
    if chosen == "sdpa":
        return F.scaled_dot_product_attention(query, keys, values).transpose(1, 2)
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(2, 3)  # [R, H, S, N]
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(values.dtype)
    return (weights @ values).transpose(1, 2)  # [R, S, H, d]


def cross_attend(
    query: Tensor, keys: Tensor, values: Tensor, runs: MediaRuns | None, backend: Backend = "auto"
) -> Tensor:
    """Each text token attends to the latents of the media of its run; text without a medium gets exactly zero.

    Args:
        query: `[B, L, H, d]`.
        keys, values: `[B, M, N, H, d]`, or `[1, M, N, H, d]` where all rows have the same media. Values may be of
            another width than query and keys, but not for xformers.
        runs: from `media_runs` for the same `[B, L]` and media; None where no token has a medium.
        backend: see `choose_backend`.

    Returns:
        `[B, L, H, d]` of query's type, d of the values.
    """
    if runs is None:
        return query.new_zeros(*query.shape[:3], values.shape[-1])
    flat = query.flatten(0, 1)  # [B*L, H, d]
    all_keys, all_values = keys.flatten(0, 1), values.flatten(0, 1)  # [B*M, N, H, d]
    chosen = choose_backend(backend, query, max(runs.lengths))
    _note(chosen)
    if chosen == "xformers":
        attended = _cross_attend_xformers(flat, all_keys, all_values, runs)
    elif runs.pieces is not None:
        return _attend_one_by_one(flat, all_keys, all_values, runs.pieces, chosen).unflatten(0, query.shape[:2])
    else:
        parts = [_attend_group(flat, all_keys, all_values, group, chosen) for group in runs.groups]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)  # [K, H, d]
    attended = attended.to(flat.dtype)
    if runs.target is not None:
        attended = attended.new_zeros(len(flat), *attended.shape[1:]).index_copy(0, runs.target, attended)
    return attended.unflatten(0, query.shape[:2])


def _attend_group(flat: Tensor, all_keys: Tensor, all_values: Tensor, group: RunGroup, chosen: Backend) -> Tensor:
    """Query `[B*L, H, d]`, keys and values `[B*M, N, H, d]` -> `[K, H, d]`, the group's real tokens."""
    queries = _take(flat, group.text).unflatten(0, group.shape)  # [R, S, H, d]
    per_run = (group.shape[0], group.num_media)
    run_keys, run_values = (
        _take(tensor, group.media).unflatten(0, per_run).flatten(1, 2)  # [R, J*N, H, d]
        for tensor in (all_keys, all_values)
    )
    return _take(_attend(queries, run_keys, run_values, chosen).flatten(0, 1), group.real)


def _attend_one_by_one(
    flat: Tensor, all_keys: Tensor, all_values: Tensor, pieces: tuple[tuple[int, int | None], ...], chosen: Backend
) -> Tensor:
    """Every run by itself, without copies: query `[B*L, H, d]`, keys and values `[B*M, N, H, d]` -> `[B*L, H, d]`."""
    keys, values = all_keys.unbind(0), all_values.unbind(0)
    parts = [
        own.new_zeros(*own.shape[:2], values[0].shape[-1])
        if medium is None
        else _attend(own[None], keys[medium][None], values[medium][None], chosen)[0]
        for own, (_, medium) in zip(flat.split([length for length, _ in pieces]), pieces, strict=True)
    ]
    return torch.cat([part.to(flat.dtype) for part in parts])


def _cross_attend_xformers(flat: Tensor, all_keys: Tensor, all_values: Tensor, runs: MediaRuns) -> Tensor:
    """All runs in one call, without padding: query `[B*L, H, d]` -> `[K, H, d]`."""
    latents = all_keys.shape[1]
    run_keys, run_values = (
        torch.cat([_take(tensor, group.media) for group in runs.groups]).flatten(0, 1)[None]  # [1, (all J)*N, H, d]
        for tensor in (all_keys, all_values)
    )
    key_lengths = tuple(media * latents for media in runs.media_per_run)
    return _xformers_attention(_take(flat, runs.target)[None], run_keys, run_values, runs.lengths, key_lengths)[0]


def _xformers_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int] = (), key_lengths: Sequence[int] = ()
) -> Tensor:
    """xformers' memory-efficient attention; with lengths, a block-diagonal mask over one row `[1, K, H, d]` of runs."""
    from xformers.ops import fmha, memory_efficient_attention

    if not lengths:
        return memory_efficient_attention(query, keys, values)
    mask = fmha.attn_bias.BlockDiagonalMask.from_seqlens(list(lengths), list(key_lengths))
    return memory_efficient_attention(query, keys, values, attn_bias=mask)
