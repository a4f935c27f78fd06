"""MAE's fine-tuning network, a classifier: of the whole tower, or a linear probe of the frozen one.

```
 fine-tuning   ViT -> mean of the patches -> norm -> Linear        layer decay, mixup, cutmix, drop path
 probe         ViT, frozen -> class token -> BatchNorm without gains -> Linear
```
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.init import init_mae
from multiway.errors import UserError
from multiway.systems.classifying import ViTClassifier
from multiway.systems.towers import IMAGENET_MEAN, IMAGENET_STD, BackboneConfig
from multiway.systems.vit import ViTConfig

#: Deviation of the first weights of a head: of fine-tuning, of a probe (main_finetune.py, main_linprobe.py).
HEAD_STD, PROBE_STD = 2e-5, 0.01


def mae_vit(**sizes: Any) -> ViTConfig:
    """MAE's ViT-B/16 at 224 pixels; `sizes` overrides."""
    return replace(ViTConfig(image_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD), **sizes)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """MAE's classifier; the defaults are `vit_base_patch16` with mean pooling, before any drop path.

    Attributes:
        labels: names of the classes, row by row of the head.
        smoothing: share of the target that is spread over all classes.
        probe: freeze the tower, and normalise what it pools by the statistics of the batches.
    """

    system: Literal["mae_classify"] = "mae_classify"
    image: ViTConfig = field(default_factory=lambda: mae_vit(pool="mean"))
    labels: tuple[str, ...] = ()
    smoothing: float = 0.1
    probe: bool = False


def tower_classifier(image: ViTConfig | BackboneConfig, labels: tuple[str, ...]) -> ClassifierConfig:
    """A classifier of the image tower of a model of pairs, by its own pooling.

    Raises:
        UserError: the tower is no ViT.
    """
    if not isinstance(image, ViTConfig):
        raise UserError(f"{image.name} is no ViT, which classes are learned with: measure a linear probe")
    return ClassifierConfig(image=image, labels=labels)


class Classifier(ViTClassifier):
    """A ViT and a linear head (MAE, appendices A.1 and A.2).

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, image_tower: nn.Module | None = None):
        super().__init__(config, head_std=PROBE_STD if config.probe else HEAD_STD)
        init_mae(self.image_tower)
        self.norm = nn.BatchNorm1d(config.image.width, eps=1e-6, affine=False) if config.probe else None
        if config.probe:
            self.image_tower.requires_grad_(False)

    def pooled(self, batch: Batch) -> Float[Tensor, "B D"]:
        pooled = super().pooled(batch)
        if self.norm is None:
            return pooled
        if self.training and len(pooled) == 1:
            raise UserError(
                "the probe normalises by the statistics of a batch, and this one is a single picture: give "
                "every process and micro-batch at least 2 (--batch-size)"
            )
        return self.norm(pooled)

    def train(self, mode: bool = True) -> Classifier:
        """A frozen tower drops nothing."""
        super().train(mode)
        if self.config.probe:
            self.image_tower.eval()
        return self

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower, without its last norm where this one normalises the mean instead."""
        tensors = {name.removeprefix("encoders."): tensor for name, tensor in tensors.items()}
        left = ("head.", "norm.", "decoder", "mask_token")
        if "image_tower.fc_norm.weight" in self.state_dict():
            left = (*left, "image_tower.norm.")
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(left)}
