"""A small MAE with every size different, and pictures for it."""

from __future__ import annotations

import tiny_beit
import torch

from multiway.systems.mae import MAE, Draws, MAEConfig
from multiway.systems.mae_heads import mae_vit
from multiway.systems.vit import ViTConfig

SIZE, PATCH, GRID = tiny_beit.SIZE, tiny_beit.PATCH, tiny_beit.GRID
PATCHES = GRID[0] * GRID[1]
pictures = tiny_beit.pictures


def vit(**changes) -> ViTConfig:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "width": 24, "depth": 3, "heads": 3, "hidden": 40}
    return mae_vit(**({"sincos": True} | sizes | changes))


def config(**changes) -> MAEConfig:
    sizes = {"decoder_width": 16, "decoder_layers": 2, "decoder_heads": 2, "decoder_hidden": 20}
    return MAEConfig(**({"image": vit()} | sizes | changes))


def mae(cfg: MAEConfig | None = None, *, seed: int = 0) -> MAE:
    """A model whose every trained part is large enough to tell wrong from right."""
    torch.manual_seed(seed)
    model = MAE(cfg or config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    return model


def draws(size: int = 5, *, seed: int = 0) -> Draws:
    return Draws(noise=torch.rand(size, PATCHES, generator=torch.Generator().manual_seed(seed)))
