"""BEiT's fine-tuning network: a linear classifier on the mean of the patches."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.init import rescale_residual
from multiway.systems.base import System
from multiway.systems.beit_config import ClassifierConfig
from multiway.systems.vit import VisionTransformer

#: The head starts so much smaller than BERT's 0.02 (`init_scale`).
HEAD_SCALE = 0.001


class Classifier(System):
    """A ViT, the normalised mean of its patches, a linear head (BEiT modeling_finetune.py).

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    has_text = False
    parts = {"vision": ("image_tower.", "head."), "text": (), "interaction": ()}
    image_tower: VisionTransformer

    def __init__(self, config: ClassifierConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, image = config, config.image
        self.image_tower = VisionTransformer(image)
        rescale_residual(self.image_tower.blocks)
        self.head = nn.Linear(image.width, len(config.labels))
        nn.init.trunc_normal_(self.head.weight, std=0.02 * HEAD_SCALE)
        nn.init.zeros_(self.head.bias)
        self.image_size, self.image_mean, self.image_std = image.image_size, image.mean, image.std

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        return self.head(self.image_tower.pooled(self.image_tower(batch.need("image"))))

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`classification`: cross-entropy of `batch.labels`; there is nothing to draw."""
        logits, smoothing = self.predict(batch), self.config.smoothing
        loss = F.cross_entropy(logits, batch.need("labels"), label_smoothing=smoothing)
        return {"loss": loss, "classification": loss}

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From a pre-trained model: the tower without its last norm, a shared table given to every layer.

        Source: run_class_finetuning.py.
        """
        if "mask_token" in tensors:
            left = ("image_tower.norm.", "head.", "aggregation.", "mask_token")
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(left)}
        shared = tensors.get("image_tower.relative.0.table")
        if shared is not None and self.config.image.relative_bias == "layers":
            names = [f"image_tower.relative.{i}.table" for i in range(self.config.image.depth)]
            tensors = {name: shared for name in names} | tensors
        return tensors

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> ClassifierConfig:
        if task != "classify":
            return super().fine_tuning(task, labels)
        return replace(self.config, labels=labels or self.config.labels)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not class token and positions either, nor, where the config says so, relative positions."""
        if name.startswith("image_tower.relative.") and not self.config.decay_relative:
            return False
        return super().decays(name, parameter) and not name.endswith(("cls_token", ".positions"))

    def layer_of(self, name: str) -> tuple[int, int]:
        return self.image_tower.layer_of(name), self.config.image.depth
