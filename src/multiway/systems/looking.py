"""Systems whose attention can be differentiated, to see where in a picture a text looks (`explain.py`)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from multiway.systems.base import System


class Looking(System, ABC):
    """A system with matching by cross-attention, and contrast by an image tower with attention."""

    @abstractmethod
    def match_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B 2"], list[Tensor]]:
        """ITM logits of aligned pairs, and each layer's cross-attention `[B, H, T, N]`, patches last."""

    @abstractmethod
    def contrast_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B B"], list[Tensor]]:
        """ITC logits of all pairs, and the attention `[B, H, N, N]` of each block of the image tower."""
