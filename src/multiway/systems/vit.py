"""The Vision Transformer tower (Dosovitskiy et al. 2021) in the line's forms: timm's, CLIP's and BEiT's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.block import Block, Stack
from multiway.core.embed import PatchEmbed, resize_positions, sincos_positions
from multiway.core.init import init_vit
from multiway.core.relative import RelativeBias, image_index, image_rows
from multiway.data.augment import Fit, Resample
from multiway.errors import UserError
from multiway.systems.image_tower import FrozenBlocks, ImageTower
from multiway.systems.sizes import check_heads, check_patches, check_quarters

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A ViT tower; the defaults are ViT-B/16 as ALBEF has it.

    Attributes:
        image_size: pixels, one side or (height, width); multiples of `patch_size`.
        channels: of a picture.
        hidden: width of the feed-forward's middle.
        drop_path: rate at the last block, growing linearly from 0. dropout: on every residual branch (ViLT).
        frozen_blocks: the embeddings and so many first blocks are never trained; "all": nothing of the tower.
        clip_stem: CLIP's form: no bias in the patch projection, a LayerNorm before the blocks.
        quick_gelu, tanh_gelu: approximations of GELU (OpenAI's weights; FLIP's).
        key_bias: whether keys of attention have a bias (BEiT: no).
        layer_scale: initial gain on each residual branch, or None for no such gains.
        absolute_positions: a learned position for every token. position_std: deviation they begin with.
        sincos: those positions are sines and cosines, never trained (MAE, FLIP).
        class_position: whether the class token has a position too (FLIP: no).
        relative_bias: a table of relative positions for each layer, or one that they share (BEiT).
        pool: what stands for the picture: its normalised class token; the mean of its patches, normalised;
            the mean of all its normalised tokens (FLIP); or none: who reads the tokens pools them, and they
            come without a last LayerNorm (CoCa).
        mean, std: of the pictures' channels.
        fit, crop_share, resample: of pictures in evaluation and inference: `data.augment.eval_transform`.
    """

    name: Literal["vit"] = "vit"
    image_size: int | tuple[int, int] = 256
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    eps: float = 1e-6
    drop_path: float = 0.0
    dropout: float = 0.0
    frozen_blocks: FrozenBlocks = 0
    clip_stem: bool = False
    quick_gelu: bool = False
    tanh_gelu: bool = False
    key_bias: bool = True
    layer_scale: float | None = None
    absolute_positions: bool = True
    position_std: float = 0.02
    sincos: bool = False
    class_position: bool = True
    relative_bias: Literal["none", "shared", "layers"] = "none"
    pool: Literal["cls", "mean", "all", "none"] = "cls"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: Fit = "squash"
    crop_share: float = 1.0
    resample: Resample = "bicubic"

    def __post_init__(self) -> None:
        check_heads(self.heads, self.width, of="system.image.heads")
        check_patches(self.image_size, self.patch_size)
        if not 0 < self.crop_share <= 1:
            raise UserError(f"system.image.crop_share is {self.crop_share}: give a share above 0, at most 1")
        if self.position_std <= 0:
            raise UserError(f"system.image.position_std is {self.position_std}: give a deviation above 0")
        if self.sincos:
            check_quarters(self.width, of="system.image.width")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size

    def block(self, layer: int, last: int) -> Block:
        """A block of this tower; its rate of stochastic depth is that of `layer` where `last` is the last."""
        return Block(
            self.width,
            self.heads,
            self.hidden,
            eps=self.eps,
            drop_path=self.drop_path * layer / max(last, 1),
            dropout=self.dropout,
            attention_dropout=0.0,
            quick_gelu=self.quick_gelu,
            tanh_gelu=self.tanh_gelu,
            layer_scale=self.layer_scale,
            key_bias=self.key_bias,
        )


class VisionTransformer(ImageTower):
    """An image tower: `[B, 3, H, W]` to `[B, 1 + N, D]`, the class token first.

    With `pool="mean"` tokens come without a last LayerNorm, and `pooled` has one.
    """

    index: Tensor

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.width, self.image_size = config.width, config.image_size
        self.image_mean, self.image_std = config.mean, config.std
        self.pooled_index = 0 if config.pool == "cls" else None
        bias, table = not config.clip_stem, torch.zeros(1, 1 + config.grid[0] * config.grid[1], config.width)
        self.patches = PatchEmbed(config.patch_size, config.width, bias=bias, channels=config.channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(table) if config.absolute_positions else None
        self.norm_pre = nn.LayerNorm(config.width, eps=config.eps) if config.clip_stem else nn.Identity()
        self.blocks = Stack(config.block(i, config.depth - 1) for i in range(config.depth))
        self.relative = None
        if config.relative_bias != "none":
            tables = 1 if config.relative_bias == "shared" else config.depth
            self.relative = nn.ModuleList(
                RelativeBias(image_rows(config.grid), config.heads) for _ in range(tables)
            )
            self.register_buffer("index", image_index(config.grid), persistent=False)
        norm = nn.LayerNorm(config.width, eps=config.eps)
        self.norm = norm if config.pool in ("cls", "all") else nn.Identity()
        self.fc_norm = norm if config.pool == "mean" else None
        init_vit(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.positions is not None and config.sincos:
            self.positions = nn.Parameter(sincos_positions(config.grid, config.width), requires_grad=False)
        elif self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=config.position_std)
        self.frozen = config.depth if config.frozen_blocks == "all" else config.frozen_blocks
        if self.frozen:
            self._freeze()

    def frozen_parts(self) -> Sequence[nn.Module]:
        if self.config.frozen_blocks == "all":
            return (self,)
        tables = () if self.relative is None else self.relative[: self.frozen]
        return (self.patches, self.norm_pre, self.blocks[: self.frozen], *tables) if self.frozen else ()

    def _freeze(self) -> None:
        for part in (*self.frozen_parts(), self.cls_token, self.positions):
            if part is not None:
                part.requires_grad_(False)

    def embed(
        self,
        image: Float[Tensor, "B C H W"],
        mask: Bool[Tensor, "B N"] | None = None,
        mask_token: Float[Tensor, "1 1 D"] | None = None,
        kept: Int[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Class token and patches with their positions, resized when the picture's grid is another one.

        Args:
            mask: patches that `mask_token` replaces (BEiT, section 2.3).
            kept: the patches that are seen, in their order; the others are not computed (MAE, FLIP).

        Raises:
            ValueError: the picture's grid is another one, or patches are left out, and positions are
                relative.
        """
        grid = (image.shape[-2] // self.config.patch_size, image.shape[-1] // self.config.patch_size)
        if self.relative is not None and (grid != self.config.grid or kept is not None):
            raise ValueError(
                f"a picture of {grid} patches, and relative positions are for all {self.config.grid}: load "
                "the model with its image_size"
            )
        patches = self.patches(image, kept)
        if mask is not None and mask_token is not None:
            patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
        cls_token = self.cls_token
        if self.positions is not None:
            positions = resize_positions(self.positions, grid, old_grid=self.config.grid)
            cls_token = cls_token + positions[:, :1] if self.config.class_position else cls_token
            patches = patches + (positions[:, 1:] if kept is None else positions[0, 1:][kept])
        return self.norm_pre(torch.cat([cls_token.expand(image.shape[0], -1, -1), patches], dim=1))

    def biases(self) -> Sequence[Float[Tensor, "1 H T T"]] | None:
        """What relative positions add to the scores of each layer."""
        if self.relative is None:
            return None
        found = [table(self.index) for table in self.relative]
        return found * self.config.depth if len(found) == 1 else found

    def layers(
        self,
        x: Float[Tensor, "B T D"],
        first: int = 0,
        last: int | None = None,
        *,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states after blocks `first` to `last` - 1; `maps` receives their attention maps."""
        part, biases = Stack(list(self.blocks)[first:last]), self.biases()
        part.checkpointing = self.blocks.checkpointing
        return part(x, mask=None if biases is None else biases[first:last], maps=maps)

    def pooled(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """The vector `[B, D]` that stands for a picture: see `ViTConfig.pool`."""
        if self.config.pool == "all":
            return tokens.mean(1)
        return tokens[:, 0] if self.fc_norm is None else self.fc_norm(tokens[:, 1:].mean(1))

    def layer_of(self, name: str) -> int:
        """The layer of a parameter, for layer decay: 0 embeddings, i + 1 block i, depth + 1 what follows.

        Source: BEiT optim_factory.py `get_num_layer_for_vit`; a shared table of relative positions follows.

        Args:
            name: of a system whose `image_tower` this is.
        """
        inner = name.removeprefix("image_tower.")
        if inner == name:
            return 0 if name == "mask_token" else self.config.depth + 1
        part, *rest = inner.split(".")
        if part in ("cls_token", "positions", "patches", "norm_pre"):
            return 0
        if part == "blocks" or (part == "relative" and self.config.relative_bias == "layers"):
            return 1 + int(rest[0])
        return self.config.depth + 1

    def partly(self, image: Float[Tensor, "B C H W"], kept: Int[Tensor, "B K"]) -> Float[Tensor, "B T D"]:
        """Normalised last hidden states of pictures of which these patches are seen, and no others exist."""
        return self.norm(self.layers(self.embed(image, kept=kept)))

    def prefix(self, image: Float[Tensor, "B C H W"]) -> Tensor:
        return self.layers(self.embed(image), 0, self.frozen) if self.frozen else image

    def rest(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Float[Tensor, "B T D"]:
        """Normalised last hidden states; `maps` receives the attention map of every block that is left."""
        return self.norm(self.layers(x if self.frozen else self.embed(x), self.frozen, maps=maps))
