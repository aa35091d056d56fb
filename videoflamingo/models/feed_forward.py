"""The dense half of resampler layers and gated blocks (Flamingo v1 3.1.1 and 3.1.2)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from videoflamingo.errors import ModelError

Activation = Literal["squared_relu", "gelu"]


class FeedForward(nn.Module):
    """Layer norm, expansion, activation, contraction; no bias, no residual."""

    def __init__(self, width: int, multiplier: float, activation: Activation) -> None:
        super().__init__()
        if activation not in ("squared_relu", "gelu"):
            raise ModelError(f"activation is {activation!r}; choose squared_relu or gelu")
        hidden = int(width * multiplier)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden, bias=False)
        self.contract = nn.Linear(hidden, width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(self.norm(x))
        hidden = F.gelu(hidden) if self.activation == "gelu" else F.relu(hidden).square()
        return self.contract(hidden)
