"""What a rank's rows are compared with: those of its own batch, or of all ranks'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from multiway.core.gather import Gradient, gather, gather_ragged, rank, world_size
from multiway.systems.base import System


class Candidates(System):
    """A system whose config says where candidates and hard negatives come from (`negatives`)."""

    @property
    def wide(self) -> bool:
        """Whether they come from all ranks."""
        return self.config.negatives == "global" and world_size() > 1

    def candidates(
        self, x: Tensor, gradient: Gradient = "sum", *, ragged: bool = False, wide: bool | None = None
    ) -> Tensor:
        """This rank's rows, or all ranks' where it is `wide`.

        Args:
            ragged: `[B, T, ...]` whose T differs between ranks. wide: None: as the system's `wide`.
        """
        if not (self.wide if wide is None else wide):
            return x
        return gather_ragged(x, gradient) if ragged else gather(x, gradient)

    def own_rows(self, size: int) -> Int[Tensor, " B"]:
        """Where this rank's rows lie among the candidates."""
        first = rank() * size if self.wide else 0
        return torch.arange(first, first + size, device=self.device)


def under_each_other(parts: Sequence[Tensor]) -> Tensor:
    """Rows `[B, T, ...]` of several batches under each other, filled with zeros to the longest T."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(p, (0, 0) * (p.ndim - 2) + (0, longest - p.shape[1])) for p in parts])
