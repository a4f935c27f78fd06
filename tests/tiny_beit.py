"""Small BEiT, VQ-KD and dVAE with every size different, and teachers and tokenizers of a few lines."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.data.patch_masks import BlockMask
from multiway.systems.beit import BEiT
from multiway.systems.beit_config import BEiTConfig, beit_vit
from multiway.systems.dvae import DVAEConfig
from multiway.systems.image_tower import ImageTower
from multiway.systems.vit import ViTConfig
from multiway.systems.vqkd import VQKD, VQKDConfig, vqkd_vit

#: 4 x 5 patches.
SIZE, PATCH, GRID = (32, 40), 8, (4, 5)
PATCHES = GRID[0] * GRID[1]
CODES = 11


def vit(**changes) -> ViTConfig:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "width": 24, "depth": 3, "heads": 3, "hidden": 40}
    return beit_vit(**(sizes | changes))


def beit_config(**changes) -> BEiTConfig:
    mask = BlockMask(patches=8, smallest=2, exact=True)
    return BEiTConfig(**({"image": vit(), "codes": CODES, "mask": mask} | changes))


def beit(config: BEiTConfig | None = None, *, seed: int = 0) -> BEiT:
    """A model whose every part is large enough to tell wrong from right, also what starts at zero."""
    torch.manual_seed(seed)
    model = BEiT(config or beit_config())
    stir(model, seed)
    return model


def vqkd_config(**changes) -> VQKDConfig:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "width": 24, "depth": 2, "heads": 3, "hidden": 40}
    values = {"image": vqkd_vit(**sizes), "decoder_layers": 1, "codes": CODES, "code_width": 6}
    return VQKDConfig(**(values | {"target_width": 7, "teacher_size": SIZE, "decay": 0.9} | changes))


def vqkd(config: VQKDConfig | None = None, *, started: bool = True, seed: int = 0) -> VQKD:
    torch.manual_seed(seed)
    model = VQKD(config or vqkd_config())
    stir(model, seed)
    if started:
        model.quantizer.codebook.copy_(nn.functional.normalize(torch.randn(CODES, 6), dim=-1))
        model.quantizer.started.fill_(1.0)
    return model


def dvae_config(**changes) -> DVAEConfig:
    return DVAEConfig(**({"image_size": SIZE, "width": 8, "blocks": 1, "codes": CODES} | changes))


@torch.no_grad()
def stir(model: nn.Module, seed: int = 0) -> None:
    noise = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=noise)


def pictures(size: int = 5, *, seed: int = 0) -> Batch:
    """Normalised pictures whose patches differ."""
    return Batch(image=0.5 * torch.randn(size, 3, *SIZE, generator=torch.Generator().manual_seed(seed)))


class Tower(ImageTower):
    """A frozen teacher: a fixed map of each patch's mean colour."""

    width, pooled_index, frozen = 7, None, True
    image_mean, image_std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    def __init__(self, size: tuple[int, int] = SIZE, patch: int = PATCH):
        super().__init__()
        self.image_size, self.patch = size, patch
        self.colours = nn.Parameter(torch.randn(3, self.width, generator=torch.Generator().manual_seed(5)))

    def rest(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, self.patch).flatten(2).transpose(1, 2) @ self.colours


class Colours(nn.Module):
    """A visual tokenizer: how bright a patch is."""

    def __init__(self, codes: int = CODES, size: tuple[int, int] = SIZE):
        super().__init__()
        self.codes, self.image_size = codes, size

    def visual_tokens(self, image: Tensor) -> Tensor:
        assert image.min() >= 0
        assert image.max() <= 1
        mean = nn.functional.avg_pool2d(image, PATCH).mean(1).flatten(1)
        return (mean * self.codes).long().clamp(0, self.codes - 1)


def without_momentum(config: VQKDConfig) -> VQKDConfig:
    """The codebook goes all the way to what was assigned to it."""
    return replace(config, decay=0.0)
