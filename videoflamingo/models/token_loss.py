"""Cross-entropy over a large frozen vocabulary without keeping its logits.

The output layer is frozen, so the gradient of the hidden states is all that its backward would compute; it is computed
in the forward pass, some rows at a time, while their logits are at hand. Time and memory of a full logits tensor, its
softmax and their gradients (K x 49,153 numbers each for SmolLM2) are saved.
"""

from typing import Any

import torch
from torch import Tensor

ROWS_AT_A_TIME = 256  # 50 MB of logits for 49,153 tokens in float32; fewer would read the vocabulary more often


class _VocabularyLoss(torch.autograd.Function):
    """Summed negative log-likelihood; gradients of hidden states and new rows come from the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, new_rows: Tensor, vocabulary: Tensor, targets: Tensor) -> Tensor:
        """Hidden `[K, E]`, new_rows `[n, E]`, vocabulary `[V, E]`, targets int64 `[K]` -> float32 `[]`."""
        size = len(vocabulary)
        wants_gradients = any(ctx.needs_input_grad[:2])
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_gradients else None
        grad_new = torch.zeros_like(new_rows, dtype=torch.float32) if wants_gradients else None
        rows = min(ROWS_AT_A_TIME, len(hidden))
        buffer = hidden.new_empty(rows, size + len(new_rows), dtype=torch.float32)
        for start in range(0, len(hidden), ROWS_AT_A_TIME):
            part = hidden[start : start + ROWS_AT_A_TIME]  # [k, E]
            logits = buffer[: len(part)]  # [k, V + n], float32
            if part.dtype == vocabulary.dtype == torch.float32:
                torch.mm(part, vocabulary.T, out=logits[:, :size])
            else:
                logits[:, :size] = part.to(vocabulary.dtype) @ vocabulary.T
            logits[:, size:] = part.to(new_rows.dtype) @ new_rows.T
            chosen = targets[start : start + ROWS_AT_A_TIME, None]
            largest = logits.amax(1, keepdim=True)
            said = logits.gather(1, chosen) - largest
            weights = logits.sub_(largest).exp_()
            sums = weights.sum(1, keepdim=True)
            total += (sums.log() - said).sum()
            if grad_hidden is not None and grad_new is not None:
                probabilities = weights.div_(sums)
                probabilities.scatter_add_(1, chosen, probabilities.new_full(chosen.shape, -1.0))
                known, new = probabilities[:, :size].to(vocabulary.dtype), probabilities[:, size:]
                grad = (known @ vocabulary).to(hidden.dtype)
                grad_hidden[start : start + ROWS_AT_A_TIME] = grad + (new @ new_rows.float()).to(hidden.dtype)
                grad_new += new.T @ part.float()
        if grad_hidden is not None and grad_new is not None:
            ctx.save_for_backward(grad_hidden, grad_new.to(new_rows.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_new = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), grad_new * grad.to(grad_new.dtype), None, None


def vocabulary_loss(hidden: Tensor, new_rows: Tensor, vocabulary: Tensor, targets: Tensor) -> Tensor:
    """Summed negative log-likelihood of the targets under `softmax(hidden @ [vocabulary ; new_rows].T)`.

    Once differentiable: in `hidden` and `new_rows`; the vocabulary is frozen.

    Args:
        hidden: `[K, E]`.
        new_rows: `[n, E]`, trained.
        vocabulary: `[V, E]`, frozen.
        targets: int64 `[K]`, each less than V + n.

    Returns:
        float32 `[]`.

    Example:
        >>> hidden, rows, vocabulary = torch.eye(3), torch.zeros(1, 3), torch.zeros(7, 3)
        >>> float(vocabulary_loss(hidden, rows, vocabulary, torch.tensor([0, 6, 7])).exp())  # 3 tokens out of 8
        512.0
    """
    with torch.autocast(hidden.device.type, enabled=False):  # the types are those of the arguments
        return _VocabularyLoss.apply(hidden, new_rows, vocabulary.detach(), targets)
