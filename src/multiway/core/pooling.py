"""From token vectors to one vector a sample."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.attention import CrossAttention


def mean_pool(x: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Mean over the real tokens."""
    weights = attention_mask.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(1) / weights.sum(1).clamp_min(1)


def pool_text(
    x: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"], how: Literal["cls", "mean"]
) -> Float[Tensor, "B D"]:
    """A text's vector: its first token, or the mean of its real ones."""
    return x[:, 0] if how == "cls" else mean_pool(x, attention_mask)


def pooled_positions(attention_mask: Int[Tensor, "B T"], how: Literal["cls", "mean"]) -> Bool[Tensor, "B T"]:
    """Which tokens `pool_text` reads."""
    real = attention_mask.bool()
    return real if how == "mean" else real & (torch.arange(real.shape[1], device=real.device) == 0)


class MeanPool(nn.Module):
    """The mean of all tokens, a class token among them (FLIP)."""

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        return tokens.mean(1)


class AttentionPool(nn.Module):
    """Learned queries attend to all tokens (CoCa, section 3.2).

    One of them is used where an image tower has no class token.

    Args:
        context_width: width C of the tokens. width: D of the pooled vectors.
        queries: Q of them, with a LayerNorm of their own; None: one, without it.
    """

    def __init__(self, context_width: int, width: int, *, heads: int = 8, queries: int | None = None):
        super().__init__()
        std = 0.02 if queries is None else 1.0
        self.query = nn.Parameter(torch.randn(1, queries or 1, width) * std)
        self.norm_query = None if queries is None else nn.LayerNorm(width)
        self.norm = nn.LayerNorm(context_width)
        self.attention = CrossAttention(width, heads, context_width=context_width)

    def vectors(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B Q D"]:
        """What each query found."""
        query = self.query if self.norm_query is None else self.norm_query(self.query)
        return self.attention(query, self.attention.context(self.norm(tokens)))

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B D"]:
        """What the first query found."""
        return self.vectors(tokens)[:, 0]
