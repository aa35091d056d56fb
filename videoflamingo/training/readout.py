"""A warm-up of resampler and gated blocks: visual tokens name a caption's tokens, without running the language model.

What a gated block would write into the residual stream for visual token `i` alone must point at the frozen embedding
of the caption's token `i`. Not in the paper, whose tower had been trained with text. A step costs a fraction of one
through the language model, gives every visual token a word of its own to say, and leaves blocks that write words.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoflamingo.models.cross_attention import GatedCrossAttentionBlock


def readout_loss(
    visual_tokens: Tensor,
    captions: list[list[int]],
    blocks: Iterable[GatedCrossAttentionBlock],
    embedding: nn.Embedding,
) -> tuple[Tensor, int]:
    """Summed negative log-likelihood, a mean over blocks, and the number of tokens it is over.

    Args:
        visual_tokens: `[B, N, D]`.
        captions: B lists of token ids; what is longer than N is cut.
        blocks: the gated blocks, each of which is read out by itself.
        embedding: the language model's; the candidates are all tokens of the batch's captions, by direction only.
    """
    num_tokens = visual_tokens.shape[1]
    kept = [caption[:num_tokens] for caption in captions]
    targets = torch.tensor([token for caption in kept for token in caption], device=visual_tokens.device)  # [K]
    rows = torch.tensor([row for row, caption in enumerate(kept) for _ in caption], device=targets.device)
    places = torch.tensor([place for caption in kept for place in range(len(caption))], device=targets.device)
    candidates, labels = targets.unique(return_inverse=True)
    words = F.normalize(embedding(candidates).float(), dim=-1)  # [C, E]
    chosen = visual_tokens[rows, places]  # [K, D]
    losses = [F.cross_entropy(block.written(chosen).float() @ words.T, labels, reduction="sum") for block in blocks]
    return torch.stack(losses).mean(), len(labels)
