"""A text computed once and continued by many rows, without a copy for each: a cache that forks, and its attention.

Keys and values of the shared text are held once; each row holds only those of its own tokens. Scores against the shared
part are one matrix product for all rows together, and one softmax runs over both parts: nothing is approximated.

`transformers` looks attention up by the name in a model's configuration. That name is ours only while a pass over such
a cache runs; whatever else runs at that time, in other threads, gets the attention that it would get otherwise.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer  # noqa: E402

LayersKeysValues = tuple[tuple[Tensor, Tensor], ...]  # [G, H, P, d] each, one pair a decoder layer
PrefixReuse = Literal["shared", "copied", "none"]

# Families whose attention is plain softmax attention with positions given from outside: a row's own tokens may stand
# anywhere in the batch. Of other families (MPT, BLOOM: ALiBi counts places) the cache is copied.
SHARING_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox", "opt", "gpt2")
# On a CPU, scores are computed in pieces that stay in its caches: 800 queries of 9 heads to 680 keys took 15 ms so and
# 140 ms at once, beside other work (2 cores).
SCORES_TOGETHER = 2**18

ATTENTION_NAME = "videoflamingo_shared_prefix"
PLAIN_ATTENTION = "sdpa"


def prefix_reuse(language_model: Any) -> PrefixReuse:
    """How a text's cache may be continued by several rows.

    `shared`: held once, with rows of any lengths. `copied`: a copy for each row, and all rows' own texts must have one
    length, because padding between the shared text and theirs would shift ALiBi. `none`: some layers keep a window or a
    running state instead of keys and values, so whole prompts are computed.
    """
    config = language_model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    layers = DynamicCache(config=config).layers
    if kinds != {"full_attention"} or any(type(layer) is not DynamicLayer for layer in layers):
        return "none"
    is_plain = language_model.config._attn_implementation in (PLAIN_ATTENTION, ATTENTION_NAME)
    return "shared" if is_plain and config.model_type in SHARING_FAMILIES else "copied"


def cache_contents(filled: Any) -> LayersKeysValues:
    """Keys and values of every layer of a `transformers` cache."""
    return tuple((layer.keys, layer.values) for layer in filled.layers)


def copied_cache(contents: LayersKeysValues, num_rows: int) -> DynamicCache:
    """An ordinary cache of that many rows, from contents of one."""
    copied = DynamicCache()
    for number, (keys, values) in enumerate(contents):
        copied.update(keys.expand(num_rows, -1, -1, -1), values.expand(num_rows, -1, -1, -1), number)
    return copied


class _SharedLayer(DynamicLayer):
    """One layer: what is shared `[G, H, P, d]`, and as an ordinary layer the rows' own `[R, H, S, d]`."""

    def __init__(self, shared_keys: Tensor, shared_values: Tensor) -> None:
        super().__init__()
        self.shared_keys, self.shared_values = shared_keys, shared_values

    @property
    def shared_length(self) -> int:
        return self.shared_keys.shape[2]

    @property
    def own_length(self) -> int:
        return 0 if self.keys is None or self.keys.numel() == 0 else self.keys.shape[2]

    def get_seq_length(self, *_: Any) -> int:
        return self.shared_length + self.own_length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Length and offset of the keys that the mask is about: a row's own."""
        added = query_length if isinstance(query_length, int) else query_length.shape[0]  # 5.1 gives positions
        return self.own_length + added, self.shared_length

    def select(self, rows: Tensor, groups: Tensor | None) -> None:
        if self.keys is not None and self.values is not None and self.own_length:
            self.keys, self.values = self.keys[rows], self.values[rows]
        if groups is not None:
            self.shared_keys, self.shared_values = self.shared_keys[groups], self.shared_values[groups]


class SharedPrefixCache(Cache):
    """A cache whose rows continue shared texts; a pass over it must run inside `attending_to`.

    Args:
        contents: of the shared texts, G of them: the first R/G rows continue the first, the next ones the second, ...
        mask: bool `[G, P]`, False = padding in a shared text; None = none.
    """

    layers: list[Any]

    def __init__(self, contents: LayersKeysValues, mask: Tensor | None = None) -> None:
        super().__init__(layers=[_SharedLayer(keys, values) for keys, values in contents])
        self.mask = mask

    @property
    def num_shared(self) -> int:
        """G."""
        return len(self.layers[0].shared_keys)

    def select(self, rows: Sequence[int], num_rows: int) -> None:
        """Continue with these of the present rows, of which there are `num_rows`."""
        device = self.layers[0].shared_keys.device
        groups = self._groups_of(rows, num_rows)
        taken = torch.tensor(rows, device=device)
        taken_groups = None if groups is None else torch.tensor(groups, device=device)
        for layer in self.layers:
            layer.select(taken, taken_groups)
        if self.mask is not None and taken_groups is not None:
            self.mask = self.mask[taken_groups]

    def _groups_of(self, rows: Sequence[int], num_rows: int) -> list[int] | None:
        """The shared texts that are still continued, as many as can be without a row out of place; None = all."""
        if self.num_shared == 1:
            return None
        of_rows = [row * self.num_shared // num_rows for row in rows]
        present = list(dict.fromkeys(of_rows))
        width = len(rows) // len(present)
        if [group for group in present for _ in range(width)] != of_rows:
            return of_rows  # rows are no longer side by side in equal numbers: from now on each has its own
        return None if present == list(range(self.num_shared)) else present


# The cache that attention looks into; private to each thread and each call.
_in_scope: ContextVar[SharedPrefixCache | None] = ContextVar("videoflamingo_shared_prefix", default=None)
_counting = threading.Lock()
_passes_of: dict[int, int] = {}  # id of a configuration -> passes that run now


@contextmanager
def attending_to(language_model: Any, used: Any) -> Iterator[None]:
    """Inside, passes of this model over this cache attend to its shared part too; nothing if it has none."""
    if not isinstance(used, SharedPrefixCache):
        yield
        return
    _register()
    config = language_model.config
    with _counting:
        _passes_of[id(config)] = _passes_of.get(id(config), 0) + 1
        config._attn_implementation = ATTENTION_NAME
    token = _in_scope.set(used)
    try:
        yield
    finally:
        _in_scope.reset(token)
        with _counting:
            _passes_of[id(config)] -= 1
            if not _passes_of[id(config)]:
                del _passes_of[id(config)]
                config._attn_implementation = PLAIN_ATTENTION


@cache
def _register() -> None:
    """Make the name known to transformers: a further entry in its tables, which no other model asks for."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    AttentionInterface.register(ATTENTION_NAME, _attention)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Query `[R, Hq, L, d]` -> `[R, L, Hq, d]`, in the form in which transformers' layers ask for it.

    A pass outside any scope, such as one of another thread, gets plain attention.
    """
    used = _in_scope.get()
    if used is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    layer = used.layers[module.layer_idx]
    assert key is layer.keys  # in every family of SHARING_FAMILIES, the layer's own keys come straight from the cache
    scaling = settings.get("scaling")
    attended = attend_in_pieces(
        query * (query.shape[-1] ** -0.5 if scaling is None else scaling),
        (layer.shared_keys, layer.shared_values),
        (key, value),
        used.mask,
        _own_mask(attention_mask, query.shape[2], key),
    )
    return attended.transpose(1, 2).contiguous(), None


def _own_mask(given: Tensor | None, length: int, key: Tensor) -> Tensor | None:
    """What is added to scores against a row's own keys, `[R | 1, 1, L, S]`; None = nothing.

    Given is a bool mask of the own keys, or (OPT of transformers 5.1) numbers to add for shared and own ones; None
    means that each token sees the own ones up to itself.
    """
    own_length = key.shape[2]
    if given is None:
        if length == 1:
            return None
        given = torch.ones(length, own_length, dtype=torch.bool, device=key.device).tril(own_length - length)[
            None, None
        ]
    given = given[..., -own_length:]
    if given.dtype != torch.bool:
        return given
    return torch.zeros(given.shape, dtype=key.dtype, device=key.device).masked_fill(~given, -torch.inf)


def attend_in_pieces(
    query: Tensor,
    shared: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    shared_mask: Tensor | None = None,
    own_mask: Tensor | None = None,
) -> Tensor:
    """`attend_to_both`, on a CPU a few rows or groups at a time."""
    (shared_keys, shared_values), (own_keys, own_values) = shared, own
    num_groups, rows = len(shared_keys), len(query)
    scores_of_row = query[0, ..., 0].numel() * (shared_keys.shape[2] + own_keys.shape[2])
    if query.device.type != "cpu" or rows * scores_of_row <= SCORES_TOGETHER:
        return attend_to_both(query, shared, own, shared_mask, own_mask)
    per_group = rows // num_groups
    step = per_group if num_groups > 1 else max(1, SCORES_TOGETHER // scores_of_row)
    pieces = []
    for first in range(0, rows, step):
        piece = slice(first, first + step)
        group = slice(first // per_group, first // per_group + 1)
        mask = own_mask if own_mask is None or len(own_mask) == 1 else own_mask[piece]
        pieces.append(
            attend_to_both(
                query[piece],
                (shared_keys[group], shared_values[group]),
                (own_keys[piece], own_values[piece]),
                None if shared_mask is None else shared_mask[group],
                mask,
            )
        )
    return torch.cat(pieces)


def attend_to_both(
    query: Tensor,
    shared: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    shared_mask: Tensor | None = None,
    own_mask: Tensor | None = None,
) -> Tensor:
    """Softmax attention of each row to its group's shared keys and to its own, in one softmax.

    Args:
        query: `[R, Hq, L, d]`, scaled; R = G * W rows, group by group.
        shared: keys and values `[G, H, P, d]`; H divides Hq.
        own: keys and values `[R, H, S, d]`.
        shared_mask: bool `[G, P]`, False = not seen.
        own_mask: added to the own scores, `[R | 1, 1, L, S]`.

    Returns:
        `[R, Hq, L, d]`.
    """
    returned = query.dtype
    if returned in (torch.bfloat16, torch.float16):  # scores rounded to 8 bits would be worse than plain attention's
        query, shared, own = query.float(), (shared[0].float(), shared[1].float()), (own[0].float(), own[1].float())
    (shared_keys, shared_values), (own_keys, own_values) = shared, own
    num_groups, heads, shared_length, _ = shared_keys.shape
    rows, _, length, width = query.shape
    own_length = own_keys.shape[2]
    by_row = query.reshape(rows, heads, -1, width)  # [R, H, Q, d]; Q = L for each query head of a key head
    per_row = by_row.shape[2]
    own_scores = by_row @ own_keys.transpose(2, 3)  # [R, H, Q, S]
    if own_mask is not None:
        own_scores = (own_scores.unflatten(2, (-1, length)) + own_mask[:, :, None]).flatten(2, 3)
    shared_scores = _by_group(by_row, num_groups) @ shared_keys.transpose(2, 3)  # [G, H, W*Q, P]
    if shared_mask is not None:
        shared_scores = shared_scores.masked_fill(~shared_mask[:, None, None], -torch.inf)
    scores = torch.cat([shared_scores, _by_group(own_scores, num_groups)], dim=-1)  # [G, H, W*Q, P + S]
    weights = scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(scores.dtype)
    of_shared, of_own = weights.split([shared_length, own_length], dim=-1)
    attended = _by_row(of_shared @ shared_values, rows, per_row)  # [R, H, Q, d]
    attended = attended + _by_row(of_own, rows, per_row) @ own_values
    return attended.reshape(rows, -1, length, own_values.shape[-1]).to(returned)


def _by_group(by_row: Tensor, num_groups: int) -> Tensor:
    """`[G*W, H, Q, n]` -> `[G, H, W*Q, n]`."""
    return by_row.unflatten(0, (num_groups, -1)).transpose(1, 2).flatten(2, 3)


def _by_row(by_group: Tensor, rows: int, per_row: int) -> Tensor:
    """`[G, H, W*Q, n]` -> `[G*W, H, Q, n]`."""
    return by_group.unflatten(2, (-1, per_row)).transpose(1, 2).reshape(rows, -1, per_row, by_group.shape[-1])
