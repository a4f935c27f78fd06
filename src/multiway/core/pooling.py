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


class AttentionPool(nn.Module):
    """One learned query attends to all tokens (CoCa, section 3.2, with one query).

    Used where an image tower has no class token.

    Args:
        context_width: width C of the tokens. width: D of the pooled vector.
    """

    def __init__(self, context_width: int, width: int, *, heads: int = 8):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norm = nn.LayerNorm(context_width)
        self.attention = CrossAttention(width, heads, context_width=context_width)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B D"]:
        query = self.query.expand(len(tokens), -1, -1)
        return self.attention(query, self.attention.context(self.norm(tokens)))[:, 0]
