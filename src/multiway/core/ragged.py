"""Unpadded text: only real tokens go through the linear layers; padding exists inside attention alone.

The packed tokens of a batch, `[1, N, D]`, are laid out again for each attention:

    Ragged.of(mask)             self-attention: a row a text
    ragged.by(rows, contexts)   cross-attention: a row a picture, the texts that look at it in a row
    ragged.reading(read)        a last layer: fewer queries, of the tokens that somebody reads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def countable(mask: Int[Tensor, "..."] | Bool[Tensor, "..."]) -> bool:
    """Whether it can be asked which tokens are real: not where sizes alone are known.

    That is on the meta device, and in what `torch.export` traces: there padding goes through the layers.
    """
    return not (mask.is_meta or torch.compiler.is_exporting())


@dataclass(frozen=True)
class Ragged:
    """Where packed tokens lie in a padded `[B, T]` batch.

    Attributes:
        index: their positions among the B * T, each at most once. batch: B. length: T.
    """

    index: Int[Tensor, " N"]
    batch: int
    length: int

    @classmethod
    def of(cls, attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"]) -> Ragged:
        """The real tokens of an attention mask (1 = real)."""
        return cls(attention_mask.flatten().nonzero().squeeze(1), *attention_mask.shape)

    @classmethod
    def grouped(cls, row: Int[Tensor, " N"], batch: int) -> Ragged:
        """Tokens laid out by a row in 0..batch-1 for each; in a row they keep their order."""
        count = row.bincount(minlength=batch)
        order = row.argsort(stable=True)
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row[order]]
        place = torch.empty_like(place).index_copy_(0, order, place)
        length = max(int(count.max()), 1)  # also where nothing is laid out
        return cls(row * length + place, batch, length)

    def by(self, rows: Int[Tensor, " B"], contexts: int) -> Ragged:
        """The same tokens, laid out by the row of a context that their text looks at.

        Queries do not see each other in cross-attention, so texts that look at one picture can be one text.
        """
        return Ragged.grouped(rows[self.index // self.length], contexts)

    def reading(self, read: Bool[Tensor, "B T"]) -> Reading:
        """The tokens that are read, of these."""
        rows = self.pack(read[..., None])[0, :, 0].nonzero().squeeze(1)
        tokens = Ragged(self.index[rows], self.batch, self.length)
        return Reading(rows, tokens, Ragged.grouped(tokens.index // self.length, self.batch))

    def split(self, lengths: Sequence[int]) -> list[Ragged]:
        """Consecutive segments of the packed tokens."""
        return [Ragged(index, self.batch, self.length) for index in self.index.split(list(lengths))]

    def pack(self, x: Tensor) -> Tensor:
        """`[B, T, D]` to `[1, N, D]`: the real tokens in one row."""
        return _Take.apply(x.flatten(0, 1), self.index)[None]

    def pad(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "B T D"]:
        """Every token back in its place, zeros where there was padding."""
        return _Put.apply(x[0], self.index, self.batch * self.length).view(
            self.batch, self.length, x.shape[-1]
        )


@dataclass(frozen=True)
class Reading:
    """The tokens whose last hidden states are read: the last layer computes these alone.

    Attributes:
        rows: which of the packed tokens. tokens: where they lie in the padded batch.
        queries: the same, closed up: the queries of a last attention.
    """

    rows: Int[Tensor, " R"]
    tokens: Ragged
    queries: Ragged

    def take(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "1 R D"]:
        """The read ones of packed tokens."""
        return _Take.apply(x[0], self.rows)[None]

    def of_queries(self, mask: Tensor | None) -> Tensor | None:
        """Of a mask over the padded batch the rows of these queries; one for all queries stays as it is."""
        if mask is None or mask.shape[-2] == 1:
            return mask
        batch, length = self.queries.batch, self.queries.length
        place = self.tokens.index.new_zeros(batch * length)
        place = place.index_copy(0, self.queries.index, self.tokens.index % self.tokens.length)
        if mask.shape[0] == 1:
            return mask[0].index_select(1, place).unflatten(1, (batch, length)).transpose(0, 1)
        return mask.take_along_dim(place.view(batch, 1, length, 1), dim=2)


# No row is taken twice, so gradients are copied where autograd's own backward would add them: slow on CPUs.


class _Take(torch.autograd.Function):
    """Rows `index` of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Put.apply(gradients[0], ctx.saved_tensors[0], ctx.rows), None


class _Put(torch.autograd.Function):
    """Zeros with the rows of x at `index`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(rows, *x.shape[1:]).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Take.apply(gradients[0], ctx.saved_tensors[0]), None, None
