"""What BEiT, BEiT v2 and their classifier are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from multiway.data.patch_masks import BlockMask
from multiway.errors import UserError
from multiway.systems.vit import ViTConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def beit_vit(**sizes: Any) -> ViTConfig:
    """BEiT's ViT-B/16 at 224 pixels: one table of relative positions for all layers; `sizes` overrides."""
    config = ViTConfig(
        image_size=224,
        key_bias=False,
        layer_scale=0.1,
        absolute_positions=False,
        relative_bias="shared",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return replace(config, **sizes)


@dataclass(frozen=True, kw_only=True)
class BEiTConfig:
    """BEiT; the defaults are `beit_base_patch16_224_8k_vocab`.

    Attributes:
        codes: how many visual tokens there are. mask: which patches are masked.
        early_layer: after it BEiT v2's aggregation reads the patches (9 of 12, 21 of 24); None: no such.
        aggregation_layers: how many it has. shared_head: whether norm and head are shared with it.
        normalisation: means over this rank's masked patches (official), or over those of all ranks.
    """

    system: Literal["beit"] = "beit"
    image: ViTConfig = field(default_factory=beit_vit)
    codes: int = 8192
    mask: BlockMask = field(default_factory=BlockMask)
    early_layer: int | None = None
    aggregation_layers: int = 2
    shared_head: bool = True
    normalisation: Literal["local", "global"] = "local"

    def __post_init__(self) -> None:
        grid, masked = self.image.grid, self.mask.patches
        # Where the number is not exact it is the most that there may be.
        if masked < 1 or (self.mask.exact and masked > grid[0] * grid[1]):
            raise UserError(
                f"system.mask.patches is {masked}, and pictures have {grid[0]} x {grid[1]} patches: give 1 "
                f"to {grid[0] * grid[1]}"
            )
        if self.early_layer is not None and not 0 <= self.early_layer <= self.image.depth:
            raise UserError(
                f"system.early_layer is {self.early_layer}: give 0 to the {self.image.depth} layers there are"
            )


def classifier_vit(image: ViTConfig | None = None) -> ViTConfig:
    """A pre-trained tower's config for fine-tuning: a table of relative positions a layer, mean pooling."""
    image = image or beit_vit()
    tables = "none" if image.relative_bias == "none" else "layers"
    return replace(image, relative_bias=tables, pool="mean")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """BEiT's classifier; the defaults are `beit_base_patch16_224` with mean pooling.

    Attributes:
        labels: names of the classes, row by row of the head.
        smoothing: share of the target that is spread over all classes (officially 0.1 without mixup).
        decay_relative: whether tables of relative positions decay (`disable_weight_decay_on_rel_pos_bias`).
    """

    system: Literal["beit_classify"] = "beit_classify"
    image: ViTConfig = field(default_factory=classifier_vit)
    labels: tuple[str, ...] = ()
    smoothing: float = 0.0
    decay_relative: bool = True

    @classmethod
    def of(cls, config: BEiTConfig, labels: tuple[str, ...]) -> ClassifierConfig:
        """For a pre-trained model of this config."""
        return cls(image=classifier_vit(config.image), labels=labels)
