"""What follows attention in a block, and how a branch is dropped."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.ragged import Ragged


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): what OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class FeedForward(nn.Module):
    """Linear, activation, Linear; the activation is GELU, or one of two approximations of it."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool = False, tanh_gelu: bool = False):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = QuickGELU() if quick_gelu else nn.GELU("tanh" if tanh_gelu else "none")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.fc2(self.act(self.fc1(x)))


class SubNormFeedForward(nn.Module):
    """Linear, GELU, LayerNorm, Linear (Wang et al. 2022, Magneto, section 3)."""

    def __init__(self, width: int, hidden: int, *, eps: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.fc2(self.norm(self.act(self.fc1(x))))


class DropPath(nn.Module):
    """Drops a residual branch for whole samples while training (stochastic depth); the rest is scaled up."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, ragged: Ragged | None = None) -> Tensor:
        """`ragged`: `x` is its packed tokens `[1, N, D]`, dropped by the sample that they belong to."""
        if self.rate == 0.0 or not self.training:
            return x
        rows = x.shape[0] if ragged is None else ragged.batch
        keep = torch.empty(rows, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        if ragged is not None:
            keep = keep[ragged.index // ragged.length].transpose(0, 1)
        return x * keep / (1 - self.rate)
