"""Who may attend to whom.

A mask is a bool tensor broadcastable to `[B, H, Tq, Tk]`, True where the query may attend to the key.
A bias is a float tensor of the same shape that is added to the scores. `combine` makes one of both.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def padding(attention_mask: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 1 T"]:
    """Every query sees the real tokens."""
    return attention_mask.bool()[:, None, None, :]


def causal(length: int, device: torch.device | None = None) -> Bool[Tensor, "1 1 T T"]:
    """Every query sees itself and what came before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def prefix(prefix_length: Int[Tensor, " B"], length: int) -> Bool[Tensor, "B 1 T T"]:
    """The first `prefix_length[b]` tokens see each other; the rest is causal (SimVLM, section 3)."""
    seen = torch.arange(length, device=prefix_length.device) < prefix_length[:, None]
    return causal(length, prefix_length.device) | seen[:, None, None, :]


def semi_causal(span: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Tokens of a span see each other and what came before it; tokens of none are causal (MetaLM, 2.2).

    Args:
        span: the number of each token's span, 0 = none; a span is a run of tokens.
    """
    same = (span[:, :, None] == span[:, None, :]) & (span > 0)[:, :, None]
    return causal(span.shape[1], span.device) | same[:, None]


def combine(mask: Bool[Tensor, "..."] | None, bias: Float[Tensor, "..."] | None) -> Tensor | None:
    """One tensor for attention: the bias where the mask allows, -inf elsewhere."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, float("-inf"))
