"""DALL-E's discrete VAE, its encoder alone: the visual tokens of BEiT (Ramesh et al. 2021, arXiv:2102.12092).

Four groups of residual convolutions, with 2 x 2 pooling after the first three: a token for 8 x 8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.systems.base import System
from multiway.systems.teacher import sized

#: DALL-E moves pictures away from the ends of 0..1 by this much.
EPSILON = 0.1
STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class DVAEConfig:
    """The encoder; the defaults are OpenAI's, at the size that BEiT uses: 14 x 14 tokens of 112 pixels.

    Attributes:
        image_size: pixels, multiples of 8. width: of the first group; the fourth is 8 times as wide.
        blocks: in each of the four groups. codes: how many tokens there are.
    """

    system: Literal["dvae"] = "dvae"
    image_size: int | tuple[int, int] = 112
    width: int = 256
    blocks: int = 2
    codes: int = 8192


class Residual(nn.Module):
    """x + gain * convolutions(x); a 1 x 1 convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int, gain: float):
        super().__init__()
        middle = outputs // 4
        self.gain = gain
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(inputs, middle, 3, padding=1),
                nn.Conv2d(middle, middle, 3, padding=1),
                nn.Conv2d(middle, middle, 3, padding=1),
                nn.Conv2d(middle, outputs, 1),
            ]
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        y = x
        for convolution in self.convolutions:
            y = convolution(F.relu(y))
        return self.skip(x) + self.gain * y


class DVAE(System):
    """The encoder; it is not trained here.

    Args:
        image_tower: not taken.
    """

    has_text = False
    parts = {"vision": ("stem.", "groups.", "head."), "text": (), "interaction": ()}

    def __init__(self, config: DVAEConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, self.codes, self.image_size = config, config.codes, config.image_size
        self.image_mean, self.image_std = (0.0,) * 3, (1.0,) * 3
        widths = [config.width * 2**i for i in range(4)]
        gain = 1 / (len(widths) * config.blocks) ** 2
        self.stem = nn.Conv2d(3, config.width, 7, padding=3)
        inputs = [config.width, *widths[:-1]]
        self.groups = nn.ModuleList(
            nn.Sequential(*(Residual(before if i == 0 else width, width, gain) for i in range(config.blocks)))
            for before, width in zip(inputs, widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], config.codes, 1)

    def take_grid(self, grid: tuple[int, int]) -> None:
        """Give a grid of tokens (down, across) from now on: 8 pixels for each, as all is convolutional."""
        self.image_size = (STRIDE * grid[0], STRIDE * grid[1])

    def logits(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """Scores of the tokens of pictures as `mapped` makes them."""
        x = self.stem(image)
        for i, group in enumerate(self.groups):
            if i:
                x = F.max_pool2d(x, 2)
            x = group(x)
        return self.head(F.relu(x))

    @torch.no_grad()
    def visual_tokens(self, image: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """The likeliest token of 8 x 8 pixels each, of pictures in 0..1, brought to this one's size."""
        return self.logits(mapped(sized(image, self.image_size))).argmax(1).flatten(1)


def mapped(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """0..1 to 0.1..0.9 (dall_e/utils.py, `map_pixels`)."""
    return (1 - 2 * EPSILON) * image + EPSILON
