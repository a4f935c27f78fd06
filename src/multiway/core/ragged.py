"""Unpadded text: only real tokens go through the linear layers; padding exists inside attention alone."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Where the real tokens of a padded `[B, T]` batch lie.

    Attributes:
        index: their positions among the B * T. batch: B. length: T.
    """

    index: Int[Tensor, " N"]
    batch: int
    length: int

    @classmethod
    def of(cls, attention_mask: Int[Tensor, "B T"]) -> Ragged:
        """The real tokens of an attention mask (1 = real)."""
        return cls(attention_mask.flatten().nonzero().squeeze(1), *attention_mask.shape)

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "1 N D"]:
        """The real tokens in one row."""
        return x.flatten(0, 1).index_select(0, self.index)[None]

    def pad(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "B T D"]:
        """Every token back in its place, zeros where there was padding."""
        rows = x.new_zeros(self.batch * self.length, x.shape[-1])
        return rows.index_copy(0, self.index, x[0]).view(self.batch, self.length, -1)
