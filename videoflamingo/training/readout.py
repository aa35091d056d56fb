"""A warm-up of resampler and gated blocks: visual tokens name what is seen, without running the language model.

Each part of a medium's visual tokens is given a short text, and each token of the part one word of it: what a gated
block would write into the residual stream for visual token `i` alone must point at the frozen embedding of that word's
token. Not in the paper, whose tower had been trained with text. A step costs a fraction of one through the language
model, every visual token has a word of its own to say, and it leaves blocks that write words.

`matching_loss` binds what is said together: a name of the text is to look at the visual tokens that say what it does,
or when it comes, and a word for that at those that say the name. Likelihood of answers alone hardly teaches this
(docs/decisions/0027).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoflamingo.models.cross_attention import GatedCrossAttentionBlock

LEAST_ATTENTION = 1e-6


def readout_loss(
    visual_tokens: Tensor,
    parts: Sequence[Sequence[Sequence[int]]],
    blocks: Iterable[GatedCrossAttentionBlock],
    embedding: nn.Embedding,
) -> tuple[Tensor, int]:
    """Summed negative log-likelihood, a mean over blocks, and the number of tokens it is over.

    Args:
        visual_tokens: `[B, N, D]`.
        parts: for each of the B rows G texts as token ids, G at least 1 and free for each row. Text `g` is said by the
            visual tokens from `g * N // G` on, one token each; what is longer than its part is cut.
        blocks: the gated blocks, each of which is read out by itself.
        embedding: the language model's; the candidates are all tokens of the batch's texts, by direction only.
    """
    num_tokens = visual_tokens.shape[1]
    said = [
        (row, first + offset, token)
        for row, texts in enumerate(parts)
        for text, (first, end) in zip(texts, _parts(len(texts), num_tokens), strict=True)
        for offset, token in enumerate(text[: end - first])
    ]
    rows, places, targets = torch.tensor(said, device=visual_tokens.device).view(-1, 3).unbind(1)  # [K] each
    candidates, labels = targets.unique(return_inverse=True)
    words = F.normalize(embedding(candidates).float(), dim=-1)  # [C, E]
    chosen = visual_tokens[rows, places]  # [K, D]
    losses = [F.cross_entropy(block.written(chosen).float() @ words.T, labels, reduction="sum") for block in blocks]
    return torch.stack(losses).mean(), len(labels)


def matching_loss(
    visual_tokens: Tensor,
    parts: Sequence[Sequence[Sequence[int]]],
    block: GatedCrossAttentionBlock,
    embedding: nn.Embedding,
    num_latents: int,
) -> Tensor:
    """Summed negative logarithm of how much of its attention a word gives to what goes with it, `[]`.

    A text's first word tells what happens and the others to whom: each of the others is to look at the visual tokens
    that say the first in the texts it is in, and the first at those that say the others. A mean over heads, so that
    some suffice. Rows whose texts are all alike say nothing of it and are left out.

    Args:
        visual_tokens: `[B, N, D]`, all that the text sees.
        parts: as of `readout_loss`, over the first `num_latents`.
        block: the one before the first layer, where a word's hidden state is its embedding.
        embedding: the language model's.
    """
    rows, words, looked_for = [], [], []
    for row, texts in enumerate(parts):
        if len({tuple(text) for text in texts}) == 1:
            continue
        places: dict[int, set[int]] = {}
        for text, (first, end) in zip(texts, _parts(len(texts), num_latents), strict=True):
            others = list(zip(text[1:], range(first + 1, end), strict=False))
            for word, place in others:
                places.setdefault(word, set()).add(first)
                places.setdefault(text[0], set()).add(place)
        for word, own in places.items():
            rows.append(row)
            words.append(word)
            looked_for.append([place in own for place in range(visual_tokens.shape[1])])
    device = visual_tokens.device
    text = embedding(torch.tensor(words, dtype=torch.int64, device=device))  # [J, E]
    attention = block.attention(text, visual_tokens[rows]).mean(1)  # [J, N]
    right = torch.tensor(looked_for, device=device).view(attention.shape)
    return -(attention * right).sum(-1).clamp(min=LEAST_ATTENTION).log().sum()


def num_said(texts: Sequence[Sequence[int]], num_visual_tokens: int) -> int:
    """How many tokens of a row's texts have a visual token to say them.

    Example:
        >>> num_said([[1, 2, 3], [4]], num_visual_tokens=4)
        3
    """
    return sum(
        min(len(text), end - first)
        for text, (first, end) in zip(texts, _parts(len(texts), num_visual_tokens), strict=True)
    )


def _parts(num_texts: int, num_visual_tokens: int) -> list[tuple[int, int]]:
    """Which visual tokens `[first, end)` each text has."""
    edges = [part * num_visual_tokens // num_texts for part in range(num_texts + 1)]
    return list(pairwise(edges))
