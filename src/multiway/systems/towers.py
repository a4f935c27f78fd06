"""Image towers: what a tower must offer, and a literal list of those that a config can name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from multiway.errors import UserError
from multiway.systems.efficientnet import EfficientNetLite0
from multiway.systems.image_tower import FrozenBlocks, ImageTower
from multiway.systems.vit import VisionTransformer, ViTConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A convolutional or foreign tower.

    Attributes:
        name: `efficientnet_lite0`, `torchvision:<name>`, `timm:<name>`, or `user` (the module is handed to
            `load`).
        image_size: pixels, one side or (height, width).
        frozen_blocks: so many first blocks of EfficientNet-Lite0 are never trained (17 with its head); of the
            others, only 0 and "all".
    """

    name: str
    image_size: int | tuple[int, int] = 224
    frozen_blocks: FrozenBlocks = 0


class Backbone(ImageTower):
    """A foreign backbone's last feature map, or its tokens."""

    def __init__(
        self,
        features: nn.Module,
        config: BackboneConfig,
        *,
        width: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        pooled_index: int | None = None,
    ):
        super().__init__()
        if config.frozen_blocks not in (0, "all"):
            raise UserError(
                f"the image tower {config.name} can be frozen as a whole or not at all: frozen_blocks all"
            )
        self.features, self.width, self.pooled_index = features, width, pooled_index
        self.image_size, self.image_mean, self.image_std = config.image_size, mean, std
        self.frozen = config.frozen_blocks == "all"
        if self.frozen:
            self.requires_grad_(False)

    def frozen_parts(self) -> Sequence[nn.Module]:
        return (self.features,) if self.frozen else ()

    def prefix(self, image: Float[Tensor, "B 3 H W"]) -> Tensor:
        return self._tokens(image) if self.frozen else image

    def rest(self, x: Tensor) -> Float[Tensor, "B N D"]:
        return x if self.frozen else self._tokens(x)

    def _tokens(self, image: Tensor) -> Float[Tensor, "B N D"]:
        x = self.features(image)
        return rearrange(x, "b c h w -> b (h w) c") if x.ndim == 4 else x


def build_image_tower(config: ViTConfig | BackboneConfig, user: nn.Module | None = None) -> ImageTower:
    """The tower that a config names, with fresh weights.

    Raises:
        UserError: the name is unknown, its package is missing, or `user` was named and no module was given.
    """
    if isinstance(config, ViTConfig):
        return VisionTransformer(config)
    family, _, name = config.name.partition(":")
    if family == "efficientnet_lite0":
        return EfficientNetLite0(config.image_size, config.frozen_blocks)
    if family == "user":
        if user is None:
            raise UserError(
                "this model has a tower of the user's own: pass it as load(..., image_tower=module)"
            )
        return _user(user, config)
    if family == "torchvision":
        return _torchvision(name, config)
    if family == "timm":
        return _timm(name, config)
    raise UserError(
        f"unknown image tower {config.name!r}: take vit, efficientnet_lite0, torchvision:<name>, timm:<name> "
        "or user"
    )


def _user(module: nn.Module, config: BackboneConfig) -> Backbone:
    """Raises UserError where the module lacks an attribute that a tower must have."""
    for name in ("width", "pooled_index", "image_size", "image_mean", "image_std"):
        if not hasattr(module, name):
            raise UserError(
                f"the image tower {type(module).__name__} has no {name}: a tower of one's own maps pictures "
                "to [B, N, D] and has width, pooled_index, image_size, image_mean and image_std"
            )
    tower: Any = module
    return Backbone(
        module,
        BackboneConfig(name="user", image_size=tower.image_size, frozen_blocks=config.frozen_blocks),
        width=tower.width,
        mean=tower.image_mean,
        std=tower.image_std,
        pooled_index=tower.pooled_index,
    )


def _torchvision(name: str, config: BackboneConfig) -> Backbone:
    import torchvision

    try:
        model = torchvision.models.get_model(name, weights=None)
    except ValueError:
        raise UserError(f"torchvision has no model {name!r}: see torchvision.models.list_models()") from None
    children = dict(model.named_children())
    if "features" in children:
        features = children["features"]
    else:
        features = nn.Sequential(
            *(child for key, child in children.items() if key not in ("avgpool", "fc", "classifier"))
        )
    return Backbone(features, config, width=_channels(features, config.image_size, name))


def _timm(name: str, config: BackboneConfig) -> Backbone:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise UserError("the image tower timm:<name> needs timm: pip install timm") from None
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except (RuntimeError, ValueError):
        raise UserError(f"timm has no model {name!r}: see timm.list_models()") from None
    data = timm.data.resolve_model_data_config(model)
    mean, std = tuple(data["mean"]), tuple(data["std"])
    return Backbone(model, config, width=model.num_features, mean=mean, std=std)


def _channels(features: nn.Module, image_size, name: str) -> int:
    """Width of the last feature map, seen by running one on the meta device."""
    import copy

    import torch

    side = (image_size,) * 2 if isinstance(image_size, int) else image_size
    try:
        with torch.no_grad():
            shape = copy.deepcopy(features).to("meta").eval()(torch.zeros(1, 3, *side, device="meta")).shape
    except (AssertionError, RuntimeError):  # its parts do not simply follow each other
        shape = ()
    if len(shape) != 4:
        raise UserError(f"torchvision's {name!r} gives no feature map: take a convolutional model")
    return shape[1]
