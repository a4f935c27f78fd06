"""Models whose outputs are another one's targets: teachers, and tokenizers of pictures."""

from __future__ import annotations

from torch import nn

from multiway.systems.efficientnet import EfficientNetLite0
from multiway.weights.folder import load
from multiway.weights.initial import load_image_tower


def load_frozen(name: str) -> nn.Module:
    """For `System.learn_from`: `efficientnet_lite0` of its package, or any model that `multiway.load` takes.

    Raises:
        UserError: there is no such model.
    """
    if name == "efficientnet_lite0":
        tower = EfficientNetLite0(frozen_blocks="all")
        load_image_tower(tower, name)
        return tower
    return load(name)
