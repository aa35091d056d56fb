"""A warm-up of resampler and gated blocks: visual tokens name what is seen, without running the language model.

Each part of a medium's visual tokens is given a short text, and each token of the part one word of it: what a gated
block would write into the residual stream for visual token `i` alone must point at the frozen embedding of that word's
token. Not in the paper, whose tower had been trained with text. A step costs a fraction of one through the language
model, every visual token has a word of its own to say, and it leaves blocks that write words.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoflamingo.models.cross_attention import GatedCrossAttentionBlock


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
