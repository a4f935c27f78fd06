"""EfficientNet-Lite0 as an image tower, so that a saved model needs no foreign package.

Tan and Le 2019 without squeeze-and-excitation and swish (the Lite form): 4.65 M parameters, stride 32, tokens
of width 1280. Keys follow the published `efficientnet-lite0` weights, so those load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from multiway.systems.image_tower import FrozenBlocks, ImageTower

#: (repeats, kernel, stride, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow pads: the odd pixel goes to the bottom and the right."""

    def forward(self, input: Tensor) -> Tensor:
        pad = []
        for size, kernel, stride in zip(
            input.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        if pad[0] == pad[1] and pad[2] == pad[3]:
            return F.conv2d(input, self.weight, self.bias, self.stride, (pad[2], pad[0]), 1, self.groups)
        return F.conv2d(F.pad(input, pad), self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise convolution, project; a residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self._expand_conv = SameConv(inputs, middle, 1, bias=False) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(middle, eps=1e-3) if expansion > 1 else None
        self._depthwise_conv = SameConv(middle, middle, kernel, stride=stride, groups=middle, bias=False)
        self._bn1 = nn.BatchNorm2d(middle, eps=1e-3)
        self._project_conv = SameConv(middle, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(ImageTower):
    """`[B, 3, H, W]`, normalised as (x - 127) / 128 of 0..255, to `[B, H/32 * W/32, 1280]`."""

    width, pooled_index = 1280, None
    image_mean, image_std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self, image_size: int | tuple[int, int] = 224, frozen_blocks: FrozenBlocks = 0):
        super().__init__()
        self.image_size = image_size
        self._conv_stem = SameConv(3, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(
                    InvertedBottleneck(channels, outputs, kernel, stride if i == 0 else 1, expansion)
                )
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(channels, self.width, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(self.width, eps=1e-3)
        self.frozen = len(blocks) + 1 if frozen_blocks == "all" else frozen_blocks
        if self.frozen:
            for part in (self._conv_stem, self._bn0, self._blocks[: self.frozen]):
                part.requires_grad_(False)
        if self.frozen > len(blocks):
            self._conv_head.requires_grad_(False)
            self._bn1.requires_grad_(False)

    def prefix(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        if self.frozen == 0:
            return image
        # A few pictures at a time stay in the processor's cache: four times faster than all at once.
        parts = image.split(8) if image.device.type == "cpu" else (image,)
        return torch.cat([self._frozen(part) for part in parts])

    def _frozen(self, image: Tensor) -> Tensor:
        x = self._stem(image)
        for block in self._blocks[: self.frozen]:
            x = block(x)
        return self._head(x) if self.frozen > len(self._blocks) else x

    def rest(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N 1280"]:
        x = self._stem(x) if self.frozen == 0 else x.contiguous(memory_format=torch.channels_last)
        for block in self._blocks[self.frozen :]:
            x = block(x)
        x = x if self.frozen > len(self._blocks) else self._head(x)
        return rearrange(x, "b c h w -> b (h w) c")

    def _stem(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)  # what depthwise convolutions are fast in
        return F.relu6(self._bn0(self._conv_stem(image)))

    def _head(self, x: Tensor) -> Tensor:
        return F.relu6(self._bn1(self._conv_head(x)))
