"""What every image tower is: a frozen prefix, whose output can be cached, and the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch

#: How many of a tower's first blocks are never trained; "all" freezes the whole tower.
FrozenBlocks = int | Literal["all"]


class ImageTower(nn.Module, ABC):
    """Pictures to tokens: `rest(prefix(image))`.

    `prefix` holds no trained weight, so its output depends on the picture alone: it can be cached on disk,
    and the momentum model shares it. BatchNorm keeps its loaded statistics, frozen or tuned: small batches
    would spoil them.

    Attributes:
        width: D of the tokens. pooled_index: the token that stands for the picture; None: they are pooled.
        frozen: how many blocks the prefix has; a tower that is frozen as a whole or not at all has a bool.
        image_size: pixels. image_mean, image_std: of the three channels, for pictures in 0..1.
    """

    width: int
    pooled_index: int | None
    frozen: int | bool
    image_size: int | tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def prefix(self, image: Float[Tensor, "B 3 H W"]) -> Tensor:
        """What the frozen blocks make of a picture; the picture itself when there are none."""
        return image

    @abstractmethod
    def rest(self, x: Tensor) -> Float[Tensor, "B N D"]:
        """Tokens from the prefix's output."""

    def batch_prefix(self, batch: Batch) -> Tensor:
        """The prefix's output for a batch's pictures: the cached one where the batch has it.

        Raises:
            UserError: the batch has no pictures.
        """
        return self.prefix(batch.pictures()) if batch.image_prefix is None else batch.image_prefix

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        return self.rest(self.prefix(image))

    def frozen_parts(self) -> Sequence[nn.Module]:
        """The modules of the prefix."""
        return ()

    def train(self, mode: bool = True) -> ImageTower:
        super().train(mode)
        for part in self.frozen_parts():  # without dropout: the output depends on the picture alone
            nn.Module.train(part, mode=False)
        for part in self.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self


def image_feature(
    tokens: Float[Tensor, "B N C"], tower: ImageTower, pool: nn.Module | None, proj: nn.Linear
) -> Float[Tensor, "B E"]:
    """The normalised ITC feature of a tower's tokens: its class token, or all of them pooled, projected."""
    return F.normalize(projected(tokens, tower, pool, proj), dim=-1)


def projected(
    tokens: Float[Tensor, "B N C"], tower: ImageTower, pool: nn.Module | None, proj: nn.Linear
) -> Float[Tensor, "B E"]:
    """`image_feature` before it is normalised."""
    return proj(tokens[:, tower.pooled_index] if pool is None else pool(tokens))
