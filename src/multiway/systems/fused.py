"""What a fusion encoder continues from: a picture's embedded tokens, where ALBEF's has keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Embedded pictures, to be read together with texts; the face is that of `core.block.Context`.

    Attributes:
        tokens: of B pictures.
        rows: the picture that text p belongs to; None: picture p.
        mask: which tokens are a picture's own, where pictures differ in size; None: all.
    """

    tokens: Float[Tensor, "B N D"]
    rows: Int[Tensor, " P"] | None = None
    mask: Bool[Tensor, "B N"] | None = None

    def __len__(self) -> int:
        """B, the pictures."""
        return len(self.tokens)

    def shared_by(self, rows: Int[Tensor, " P"]) -> Tokens:
        """Text p belongs to picture `rows[p]`."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def select(self, index: Int[Tensor, " P"]) -> Tokens:
        """Rows `index`."""
        if self.rows is not None:
            return self.shared_by(index)
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return Tokens(self.tokens.index_select(0, index), mask=mask)

    def copied(self) -> Float[Tensor, "P N D"]:
        """The tokens of each text's picture."""
        return self.tokens if self.rows is None else self.tokens.index_select(0, self.rows)

    def copied_mask(self) -> Bool[Tensor, "P N"] | None:
        """Which of `copied` are a picture's own."""
        return self.mask if self.mask is None or self.rows is None else self.mask.index_select(0, self.rows)
