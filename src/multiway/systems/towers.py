"""Image towers: what a tower must offer, and a literal list of those that a config can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from multiway.errors import UserError
from multiway.systems.efficientnet import EfficientNetLite0
from multiway.systems.vit import VisionTransformer, ViTConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageTower(Protocol):
    """Any module that turns pictures into tokens.

    Attributes:
        width: D of the tokens. pooled_index: the token that stands for the picture, or None (then they are pooled).
        image_size: pixels. image_mean, image_std: of the three channels, for pictures in 0..1.
    """

    width: int
    pooled_index: int | None
    image_size: int | tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]: ...


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A convolutional or foreign tower.

    Attributes:
        name: `efficientnet_lite0`, `torchvision:<name>`, `timm:<name>`, or `user` (the module is handed to `load`).
        image_size: pixels, one side or (height, width).
    """

    name: str
    image_size: int | tuple[int, int] = 224


class Backbone(nn.Module):
    """A foreign backbone's last feature map as tokens; BatchNorm keeps its loaded statistics."""

    pooled_index = None

    def __init__(self, features: nn.Module, width: int, image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.features, self.width, self.image_size = features, width, image_size
        self.image_mean, self.image_std = mean, std

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        x = self.features(image)
        return rearrange(x, "b c h w -> b (h w) c") if x.ndim == 4 else x


def build_image_tower(config: ViTConfig | BackboneConfig, user: nn.Module | None = None) -> nn.Module:
    """The tower that a config names, with fresh weights.

    Raises:
        UserError: the name is unknown, its package is missing, or `user` was named and no module was given.
    """
    if isinstance(config, ViTConfig):
        return VisionTransformer(config)
    family, _, name = config.name.partition(":")
    if family == "efficientnet_lite0":
        return EfficientNetLite0(config.image_size)
    if family == "user":
        if user is None:
            raise UserError(
                "this model has a tower of the user's own: pass it as load(..., image_tower=module)"
            )
        return user
    if family == "torchvision":
        return _torchvision(name, config.image_size)
    if family == "timm":
        return _timm(name, config.image_size)
    raise UserError(
        f"unknown image tower {config.name!r}: take vit, efficientnet_lite0, torchvision:<name>, timm:<name> or user"
    )


def _torchvision(name: str, image_size) -> Backbone:
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
    return Backbone(features, _channels(features, image_size, name), image_size)


def _timm(name: str, image_size) -> Backbone:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError("the image tower timm:<name> needs timm: pip install timm") from None
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    config = timm.data.resolve_model_data_config(model)
    return Backbone(model, model.num_features, image_size, tuple(config["mean"]), tuple(config["std"]))


def _channels(features: nn.Module, image_size, name: str) -> int:
    """Width of the last feature map, seen by running one on the meta device."""
    import copy

    import torch

    side = (image_size,) * 2 if isinstance(image_size, int) else image_size
    with torch.no_grad():
        shape = copy.deepcopy(features).to("meta").eval()(torch.zeros(1, 3, *side, device="meta")).shape
    if len(shape) != 4:
        raise UserError(f"torchvision's {name!r} gives no feature map: take a convolutional model")
    return shape[1]
