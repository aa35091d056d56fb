"""The optimiser and its schedule (Flamingo v2 B.1.2)."""

from collections.abc import Iterable

import torch
from torch import nn

UNDECAYED = "flamingo.resampler."  # prefix of the names that have no weight decay


def adamw(
    named: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    *,
    weight_decay: float,
    resampler_share: float = 1.0,
    fused: bool = True,
) -> torch.optim.AdamW:
    """AdamW over everything trained, decayed but for the resampler; betas and epsilon are torch's (the paper has none).

    Args:
        named: all parameters by name; frozen ones are passed over.
        resampler_share: the resampler's learning rate as a share of the others'.
        fused: one kernel, which needs no temporary copies.
    """
    undecayed: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            (undecayed if name.startswith(UNDECAYED) else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0, "lr": learning_rate * resampler_share},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=fused)


def learning_rate_share(step: int, warmup_steps: int, final_share: float, total_steps: float) -> float:
    """The rate of a step as a share of the peak: rises linearly, then falls linearly to `final_share` at the last step.

    With a final share of 1, the paper's, it stays.

    Example:
        >>> [round(learning_rate_share(step, 2, 0.2, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.8, 0.6, 0.4]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if final_share == 1.0 or total_steps <= warmup_steps:
        return 1.0
    done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return 1.0 + (final_share - 1.0) * done
