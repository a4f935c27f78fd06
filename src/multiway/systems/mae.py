"""MAE: what was in the patches that are missing? (He et al. 2021, arXiv:2111.06377), figure 1.

```
   picture -> patches, 75 % of them removed at random
                 |
          the kept ones alone
                 |
          +-------------+
          |     ViT     |   never sees a hole: a quarter of the tokens
          +-------------+
                 |
     kept ones, and a mask token for each hole, in the picture's order
                 |
          +-------------+
          |   decoder   |   8 narrow layers, thrown away after pre-training
          +-------------+
                 | holes alone
              pixels  <-- mean squared error --  the patch, normalised
```
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Block, Stack
from multiway.core.embed import patchify, resize_positions, sincos_positions, unpatchify
from multiway.core.init import init_mae
from multiway.errors import UserError
from multiway.objectives import masked_image
from multiway.systems.base import System
from multiway.systems.mae_heads import ClassifierConfig, mae_vit
from multiway.systems.patch_dropping import Draws, Split, drawn_noise, kept_of, split
from multiway.systems.sizes import check_heads, check_quarters
from multiway.systems.vit import VisionTransformer, ViTConfig


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """MAE; the defaults are `mae_vit_base_patch16`.

    Attributes:
        image: the tower; its pictures fill a grid of patches.
        decoder_width, decoder_layers, decoder_heads, decoder_hidden: the decoder's sizes.
        mask_ratio: share in 0..1 of the patches that are removed.
        normalised: whether the target is a patch less its mean, over its deviation (`norm_pix_loss`).
    """

    system: Literal["mae"] = "mae"
    image: ViTConfig = field(default_factory=lambda: mae_vit(sincos=True))
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    decoder_hidden: int = 2048
    mask_ratio: float = 0.75
    normalised: bool = True

    def __post_init__(self) -> None:
        width = self.decoder_width
        check_quarters(width, of="system.decoder_width")
        check_heads(self.decoder_heads, width, of="system.decoder_heads", width_of="system.decoder_width")
        image = self.image
        patches = image.grid[0] * image.grid[1]
        if not 0 < (kept := kept_of(patches, self.mask_ratio)) < patches:
            raise UserError(
                f"system.mask_ratio {self.mask_ratio} leaves {kept} of {patches} patches: keep and "
                "mask at least one"
            )
        if image.relative_bias != "none" or not image.absolute_positions:
            raise UserError("MAE's tower has absolute positions: leave system.image.relative-bias none")


class MAE(System):
    """A ViT that sees a quarter of a picture, and a decoder that draws the rest.

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    has_text = False
    parts = {"vision": ("image_tower.", "decoder", "mask_token"), "text": (), "interaction": ()}
    image_tower: VisionTransformer

    def __init__(self, config: MAEConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, image, width = config, config.image, config.decoder_width
        self.image_tower = VisionTransformer(image)
        self.decoder_embed = nn.Linear(image.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_positions = nn.Parameter(sincos_positions(image.grid, width), requires_grad=False)
        self.decoder = Stack(
            Block(width, config.decoder_heads, config.decoder_hidden, eps=image.eps)
            for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=image.eps)
        self.decoder_pred = nn.Linear(width, image.patch_size**2 * image.channels)
        init_mae(self)
        for token in (self.image_tower.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02)
        self.image_size, self.image_mean, self.image_std = image.image_size, image.mean, image.std

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`mim`: the mean squared error of the removed patches' pixels; the decoder draws no others."""
        image = batch.pictures()
        noise = drawn_noise(image, self.config.image.patch_size, generator, draws)
        parts = split(noise, self.config.mask_ratio)
        hidden = self.decode(self.latent(image, parts), parts)[:, 1:]
        pred = self.pixels(_rows(hidden, parts.masked))
        loss = masked_image.reconstruction(pred, _rows(self.target(image), parts.masked))
        return {"loss": loss, "mim": loss}

    def latent(self, image: Float[Tensor, "B C H W"], parts: Split) -> Float[Tensor, "B T D"]:
        """Hidden states of the class token and the kept patches."""
        return self.image_tower.partly(image, parts.kept)

    def decode(self, latent: Float[Tensor, "B T D"], parts: Split) -> Float[Tensor, "B S E"]:
        """The decoder's hidden states of the class token and all patches, in the picture's order."""
        x, masked = self.decoder_embed(latent), parts.masked.shape[1]
        holes = self.mask_token.to(x.dtype).expand(len(x), masked, -1)
        patches = _rows(torch.cat([x[:, 1:], holes], dim=1), parts.restore)
        return self.decoder(torch.cat([x[:, :1], patches], dim=1) + self.decoder_positions)

    def pixels(self, hidden: Float[Tensor, "B M E"]) -> Float[Tensor, "B M F"]:
        """What patches look like: the target's pixels, as `core.embed.patchify` orders them."""
        return self.decoder_pred(self.decoder_norm(hidden))

    def target(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N F"]:
        """What the decoder shall draw."""
        patches = patchify(image, self.config.image.patch_size)
        return masked_image.normalised_patches(patches)[0] if self.config.normalised else patches

    @torch.inference_mode()
    def reconstruct(
        self, image: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        """The pictures without their removed patches (zeros, the mean colour), and with those drawn anew.

        Where the target is normalised, a drawn patch gets the true one's mean and deviation: the model says
        nothing of them.
        """
        size, grid = self.config.image.patch_size, self.config.image.grid
        parts, patches = split(noise, self.config.mask_ratio), patchify(image, size)
        pred = self.pixels(self.decode(self.latent(image, parts), parts)[:, 1:])
        if self.config.normalised:
            _, mean, deviation = masked_image.normalised_patches(patches)
            pred = pred * deviation + mean
        hole = (parts.restore >= parts.kept.shape[1])[..., None]
        seen, drawn = patches.masked_fill(hole, 0), pred.where(hole, patches)
        return unpatchify(seen, size, grid), unpatchify(drawn, size, grid)

    def resize(self, name: str, tensor: Tensor, old_grid: tuple[int, int] | None = None) -> Tensor | None:
        if name == "decoder_positions":
            return resize_positions(tensor, self.config.image.grid, old_grid=old_grid)
        return super().resize(name, tensor, old_grid)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task != "classify":
            return super().fine_tuning(task, labels)
        image = replace(self.config.image, sincos=False, pool="mean")
        return ClassifierConfig(image=image, labels=labels)


def _rows(x: Float[Tensor, "B N D"], index: Int[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
    """Rows `index[b]` of x[b]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
