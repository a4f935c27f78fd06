"""Small networks on top of the last hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.init import init_bert


class WordHead(nn.Module):
    """BERT's prediction head: dense, GELU, LayerNorm, then logits over the vocabulary.

    The decoder's matrix is the word-embedding table, handed in at the call, so that the tie is visible there
    and stored once. It may be applied to any selection of positions: masked ones only, in training.
    """

    def __init__(self, width: int, vocab_size: int, *, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Float[Tensor, "*P D"], words: Float[Tensor, "V D"]) -> Float[Tensor, "*P V"]:
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


class PlainWordHead(nn.Linear):
    """Logits over the vocabulary by one linear map of its own (BEiT-3)."""


def classifier(width: int, hidden: int, classes: int) -> nn.Sequential:
    """Linear, LayerNorm (eps 1e-5), GELU, Linear: a choice among classes (ViLT, VLMo)."""
    layers = nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
    )
    init_bert(layers)
    return layers
