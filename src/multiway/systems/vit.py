"""The Vision Transformer tower (Dosovitskiy et al. 2021), with the line's two stems: timm's and CLIP's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.block import Block, Stack
from multiway.core.embed import PatchEmbed, resize_positions
from multiway.core.init import init_vit
from multiway.systems.image_tower import FrozenBlocks, ImageTower

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A ViT tower; the defaults are ViT-B/16 as ALBEF has it.

    Attributes:
        image_size: pixels, one side or (height, width); multiples of `patch_size`.
        hidden: width of the feed-forward's middle.
        drop_path: rate at the last block, growing linearly from 0.
        frozen_blocks: the embeddings and so many first blocks are never trained; "all": nothing of the tower.
        clip_stem: CLIP's form: no bias in the patch projection, a LayerNorm before the blocks.
        mean, std: of the pictures' channels.
    """

    name: Literal["vit"] = "vit"
    image_size: int | tuple[int, int] = 256
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    eps: float = 1e-6
    drop_path: float = 0.0
    frozen_blocks: FrozenBlocks = 0
    clip_stem: bool = False
    quick_gelu: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size


class VisionTransformer(ImageTower):
    """An image tower: `[B, 3, H, W]` to `[B, 1 + N, D]`, the class token first."""

    pooled_index = 0

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.width, self.image_size = config.width, config.image_size
        self.image_mean, self.image_std = config.mean, config.std
        rows = 1 + config.grid[0] * config.grid[1]
        self.patches = PatchEmbed(config.patch_size, config.width, bias=not config.clip_stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, rows, config.width))
        self.norm_pre = nn.LayerNorm(config.width, eps=config.eps) if config.clip_stem else nn.Identity()
        self.blocks = Stack(
            Block(
                config.width,
                config.heads,
                config.hidden,
                eps=config.eps,
                drop_path=config.drop_path * i / max(config.depth - 1, 1),
                quick_gelu=config.quick_gelu,
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        init_vit(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.frozen = config.depth if config.frozen_blocks == "all" else config.frozen_blocks
        if self.frozen:
            for part in (self.patches, self.norm_pre, self.blocks[: self.frozen]):
                part.requires_grad_(False)
            self.cls_token.requires_grad_(False)
            self.positions.requires_grad_(False)
        if config.frozen_blocks == "all":
            self.norm.requires_grad_(False)

    def embed(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Class token and patches with their positions, resized when the picture's grid is another one."""
        grid = (image.shape[-2] // self.config.patch_size, image.shape[-1] // self.config.patch_size)
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), self.patches(image)], dim=1)
        return self.norm_pre(x + resize_positions(self.positions, grid, old_grid=self.config.grid))

    def prefix(self, image: Float[Tensor, "B 3 H W"]) -> Tensor:
        if self.frozen == 0:
            return image
        x = self.embed(image)
        for block in self.blocks[: self.frozen]:
            x = block(x)
        return x

    def rest(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Float[Tensor, "B N D"]:
        """Normalised last hidden states; `maps` receives the attention map of every block that is left."""
        if self.frozen == 0:
            return self.norm(self.blocks(self.embed(x), maps=maps))
        return self.norm(self.blocks[self.frozen :](x, maps=maps))
