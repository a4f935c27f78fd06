"""BEiT v2's aggregation: layers that make the class token carry what the patches of an early layer lack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.block import Stack
from multiway.core.init import init_beit, rescale_residual
from multiway.errors import UserError
from multiway.systems.vit import ViTConfig


class Aggregation(nn.Module):
    """Blocks over the last class token and an early layer's patches (BEiT v2, section 2.4).

    They are thrown away after pre-training. Their linear maps keep torch's own initialisation, as officially.

    Args:
        image: the tower's config. early_layer: the layer whose patches they see. layers: how many they are.
        codes: K of a norm and a head of their own; None: the model's are shared.

    Raises:
        UserError: every layer of the tower has relative positions of its own; these would have none.
    """

    def __init__(self, image: ViTConfig, *, early_layer: int, layers: int, codes: int | None):
        super().__init__()
        if image.relative_bias == "layers":
            raise UserError(
                "aggregation (system.early-layer) needs system.image.relative-bias shared or none"
            )
        last = max(image.depth, early_layer + layers) - 1
        self.blocks = Stack(image.block(early_layer + i, last) for i in range(layers))
        rescale_residual(self.blocks, early_layer + 1)
        self.norm = self.head = None
        if codes is not None:
            self.norm = nn.LayerNorm(image.width, eps=image.eps)
            self.head = nn.Linear(image.width, codes)
            init_beit(self.head)

    def forward(
        self,
        last: Float[Tensor, "B T D"],
        early: Float[Tensor, "B T D"],
        biases: Sequence[Float[Tensor, "1 H T T"]] | None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states, not normalised.

        Args:
            last: the tower's last hidden states, of which the class token is read. early: those of the early
                layer, of which the patches are. biases: of the tower's layers, which are all the same.
        """
        x = torch.cat([last[:, :1], early[:, 1:]], dim=1)
        return self.blocks(x, mask=None if biases is None else biases[0])
