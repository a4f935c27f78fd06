"""BEiT's fine-tuning network: a linear classifier on the mean of the patches."""

from __future__ import annotations

from torch import Tensor, nn

from multiway.core.init import rescale_residual
from multiway.systems.beit_config import ClassifierConfig
from multiway.systems.classifying import ViTClassifier

#: The head starts so much smaller than BERT's 0.02 (`init_scale`).
HEAD_SCALE = 0.001


class Classifier(ViTClassifier):
    """A ViT, the normalised mean of its patches, a linear head (BEiT modeling_finetune.py).

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, image_tower: nn.Module | None = None):
        super().__init__(config, head_std=0.02 * HEAD_SCALE)
        rescale_residual(self.image_tower.blocks)

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

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """As of every classifier; nor, where the config says so, do relative positions."""
        if name.startswith("image_tower.relative.") and not self.config.decay_relative:
            return False
        return super().decays(name, parameter)
