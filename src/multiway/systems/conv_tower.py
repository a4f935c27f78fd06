"""SimVLM's pictures: a convolutional stem, positions, and relative positions for the layers that follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.embed import resize_positions
from multiway.core.init import init_bert
from multiway.core.relative import RelativeBias, image_index, image_rows, resize_table
from multiway.core.stem import ConvStem, stride_of
from multiway.errors import UserError
from multiway.systems.image_tower import ImageTower
from multiway.systems.sizes import check_patches


@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """Pictures and their stem; the defaults are SimVLM's base model.

    Attributes:
        image_size: pixels, one side or (height, width); multiples of the stem's stride, `patch_size`.
        width: of the first stage's middle. blocks: bottlenecks of each stage.
        mean, std: of the pictures' channels.
    """

    image_size: int | tuple[int, int] = 224
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 23)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not self.blocks:
            raise UserError("system.image.blocks is empty: give the bottlenecks of each stage, as 3 4 23")
        check_patches(self.image_size, self.patch_size, by="the stride of system.image.blocks")

    @property
    def patch_size(self) -> int:
        """Pixels a side of what one token stands for."""
        return stride_of(self.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (down, across)."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size


class ConvTower(ImageTower):
    """The stem's feature maps as a row of tokens, with a learned position each.

    Args:
        width: of the tokens. layers, heads: of the transformer that `bias` is for.
    """

    pooled_index, frozen = None, False
    index: Tensor

    def __init__(self, config: StemConfig, width: int, *, layers: int, heads: int):
        super().__init__()
        self.width, self.grid = width, config.grid
        self.image_size, self.image_mean, self.image_std = config.image_size, config.mean, config.std
        self.stem = ConvStem(config.width, config.blocks)
        self.proj = nn.Linear(self.stem.channels, width)
        self.positions = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], width))
        self.relative = RelativeBias(image_rows(self.grid) - 3, heads, layers)  # three are for a class token
        self.register_buffer("index", image_index(self.grid)[1:, 1:], persistent=False)
        init_bert(self.proj)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def rest(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Tokens of pictures of the tower's size."""
        return self.proj(self.stem(x).flatten(2).transpose(1, 2)) + self.positions

    def bias(self) -> Float[Tensor, "L H N N"]:
        """What relative positions of tokens add to the scores of each layer."""
        return self.relative(self.index)

    def resized(self, name: str, tensor: Tensor, old_grid: tuple[int, int] | None = None) -> Tensor | None:
        """A tensor of a tower for pictures of another size, at this one's size; None: it does not fit.

        Args:
            name: in this tower. old_grid: None: a square.
        """
        if name == "positions":
            return resize_positions(tensor, self.grid, prefix=0, old_grid=old_grid)
        if name == "relative.table" and old_grid is not None:
            return resize_table(tensor, old_grid, self.grid)
        return None
