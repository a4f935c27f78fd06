"""CoCa's fine-tuning network, a classifier: a new pooler over the tower's tokens (section 3.3).

```
 frozen features   tower, frozen -> pooler, one new query -> norm -> Linear      train.freeze=("image_tower",)
 fine-tuned        tower         -> pooler, one new query -> norm -> Linear
```
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.pooling import AttentionPool
from multiway.errors import UserError
from multiway.objectives.classification import one_of
from multiway.systems.base import System
from multiway.systems.coca_config import CoCaConfig, coca_vit
from multiway.systems.image_tower import ImageTower
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import ViTConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """CoCa's classifier.

    Attributes:
        heads: of the pooler. labels: names of the classes, row by row of the head.
        smoothing: share of the target that is spread over all classes.
    """

    system: Literal["coca_classify"] = "coca_classify"
    image: ViTConfig | BackboneConfig = field(default_factory=coca_vit)
    heads: int = 12
    labels: tuple[str, ...] = ()
    smoothing: float = 0.0


def network_config(config: CoCaConfig, task: str, labels: tuple[str, ...], width: int) -> Any:
    """The config of a CoCa's network for a task; None: there is none.

    Args:
        width: of the image tower, and so of the classifier's pooler.

    Captions are learned by the captioning loss alone (section 4.2), retrieval by both losses.

    Raises:
        UserError: a CoCa with experts shall classify.
    """
    if task == "retrieval":
        return replace(config, contrastive_weight=config.contrastive_weight or 1.0)
    if task == "caption":
        return replace(config, contrastive_weight=0.0, caption_weight=1.0)
    if task != "classify":
        return None
    if config.experts:
        raise UserError(
            "a CoCa with experts has no classifier, whose tower has no experts: take one without, or "
            "`multiway evaluate zero_shot`"
        )
    # CoCa's own pooler is as wide as its words: its heads need not divide the tower's width.
    heads = next(n for n in range(config.pooler.heads, 0, -1) if width % n == 0)
    return ClassifierConfig(image=config.image, heads=heads, labels=labels)


class Classifier(System):
    """Tower, pooler, norm, linear head.

    Args:
        image_tower: the module, when `config.image.name` is "user".
    """

    has_text = False
    parts = {"vision": ("image_tower.", "pool.", "norm.", "head."), "text": (), "interaction": ()}
    image_tower: ImageTower

    def __init__(self, config: ClassifierConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        self.pool = AttentionPool(tower.width, tower.width, heads=config.heads, queries=1)
        self.norm = nn.LayerNorm(tower.width)
        self.head = nn.Linear(tower.width, len(config.labels)) if config.labels else None
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        if self.head is None:
            return super().predict(batch)
        tokens = self.image_tower.rest(self.image_tower.batch_prefix(batch))
        return self.head(self.norm(self.pool(tokens)))

    def losses(
        self, batch: Batch, state: nn.Module, draws: None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`classification`: cross-entropy of `batch.labels`, or of `batch.targets` of mixed pictures."""
        loss = one_of(self.predict(batch), batch.labels, batch.targets, smoothing=self.config.smoothing)
        return {"loss": loss, "classification": loss}

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower of a pre-trained model; pooler and head are new."""
        if any(name.startswith("head.") for name in tensors):
            return tensors
        return {name: tensor for name, tensor in tensors.items() if name.startswith("image_tower.")}

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task != "classify":
            return super().fine_tuning(task, labels)
        return replace(self.config, labels=labels or self.config.labels)
