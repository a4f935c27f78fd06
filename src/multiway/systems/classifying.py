"""What the classifiers of BEiT and MAE are alike in: a ViT, a linear head, layers that learn the slower."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.objectives.classification import one_of
from multiway.systems.base import System
from multiway.systems.vit import VisionTransformer


class ViTClassifier(System):
    """A ViT, the vector that it pools, a linear head, whose weights start near zero.

    Args:
        config: with `image`, `labels` (none: there is no head) and `smoothing`.
        head_std: of the head's first weights.
    """

    has_text = False
    parts = {"vision": ("image_tower.", "head."), "text": (), "interaction": ()}
    image_tower: VisionTransformer

    def __init__(self, config: Any, *, head_std: float):
        super().__init__()
        self.config, image = config, config.image
        self.image_tower = VisionTransformer(image)
        self.head = None
        if config.labels:
            self.head = nn.Linear(image.width, len(config.labels))
            nn.init.trunc_normal_(self.head.weight, std=head_std)
            nn.init.zeros_(self.head.bias)
        self.image_size, self.image_mean, self.image_std = image.image_size, image.mean, image.std

    def pooled(self, batch: Batch) -> Float[Tensor, "B D"]:
        """What the head reads."""
        return self.image_tower.pooled(self.image_tower(batch.need("image")))

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        return super().predict(batch) if self.head is None else self.head(self.pooled(batch))

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`classification`: cross-entropy of `batch.labels`, or of `batch.targets` where pictures are mixed.

        There is nothing to draw.
        """
        loss = one_of(self.predict(batch), batch.labels, batch.targets, smoothing=self.config.smoothing)
        return {"loss": loss, "classification": loss}

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task != "classify":
            return super().fine_tuning(task, labels)
        return replace(self.config, labels=labels or self.config.labels)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not class token and positions either."""
        return super().decays(name, parameter) and not name.endswith(("cls_token", ".positions"))

    def layer_of(self, name: str) -> tuple[int, int]:
        return self.image_tower.layer_of(name), self.config.image.depth
