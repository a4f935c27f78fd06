"""A convolutional stem: the first stages of a ResNet instead of one linear map of each patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EXPANSION = 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut (He et al. 2016, figure 5).

    GroupNorm, not BatchNorm: what is made of a picture does not depend on its batch.
    """

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = EXPANSION * width
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            _norm(outputs),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:
        return F.relu(self.shortcut(x) + self.convolutions(x))


class ConvStem(nn.Module):
    """A 7 x 7 convolution, pooling, and stages of bottlenecks, each but the first at half the resolution.

    Args:
        width: of the first stage's middle; doubled from stage to stage.
        blocks: bottlenecks of each stage; ResNet-101's first three are 3, 4, 23 (CoAtNet and SimVLM).

    Attributes:
        stride: pixels a side of what one output stands for. channels: of the output.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 23)):
        super().__init__()
        self.stride, self.channels = stride_of(blocks), EXPANSION * width * 2 ** (len(blocks) - 1)
        self.first = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            _norm(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages, inputs = [], width
        for stage, count in enumerate(blocks):
            middle = width * 2**stage
            for block in range(count):
                stages.append(Bottleneck(inputs, middle, 2 if stage and not block else 1))
                inputs = EXPANSION * middle
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Feature maps; H and W are multiples of `stride`."""
        return self.stages(self.first(image))


def stride_of(blocks: Sequence[int]) -> int:
    """Pixels a side of an output of a `ConvStem` with these stages."""
    return 4 * 2 ** (len(blocks) - 1)
