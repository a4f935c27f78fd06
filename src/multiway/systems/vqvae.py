"""VQ-VAE: discrete tokens that decode to pixels (van den Oord et al. 2017, arXiv:1711.00937), figure 1.

```
  picture --> convolutions --> to_code --> nearest code: tokens --> convolutions --> picture again
                                   ^              |
                                   +--------------+  straight-through; the codebook moves by EMA
```
VQ-KD's tokens decode to a teacher's features; these decode to what a person can look at. The quantizer is the
same (`systems.vqkd_quantizer`): codes are unit vectors, and the nearest is the most similar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.objectives import masked_image
from multiway.systems.base import System
from multiway.systems.dvae import Residual
from multiway.systems.sizes import check_patches
from multiway.systems.teacher import normalised, pixels, sized
from multiway.systems.vqkd_quantizer import Quantizer

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """A VQ-VAE; the defaults are near the paper's for ImageNet (section 4.1: 32 x 32 tokens of 128 pixels).

    Attributes:
        image_size: pixels, multiples of the product of `strides`, by which convolutions lower the resolution.
        width: of the convolutions around the codes; half of it one resolution higher, and so on.
        blocks: residual ones on either side of the codes.
        codes: K, and their width C. decay: of the codebook. beta: weight of the commitment loss.
        kmeans_iterations: of the codebook's start. start_after: steps in which patches pass as they are, so
            that k-means meets an encoder that tells them apart.
        revived: at most so many unused codes a step are moved to the patches that are farthest from theirs.
    """

    system: Literal["vqvae"] = "vqvae"
    image_size: int | tuple[int, int] = 128
    strides: tuple[int, ...] = (2, 2)
    width: int = 128
    blocks: int = 2
    codes: int = 512
    code_width: int = 64
    decay: float = 0.99
    beta: float = 0.25
    kmeans_iterations: int = 10
    start_after: int = 0
    revived: int = 0

    def __post_init__(self) -> None:
        if not self.strides:
            raise UserError("a VQ-VAE's strides are empty: give the factors of its resolution, as 2 2")
        check_patches(
            self.image_size,
            math.prod(self.strides),
            of="a VQ-VAE's image_size",
            by="the product of its strides",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (down, across)."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // math.prod(self.strides), width // math.prod(self.strides)


def kernel(stride: int) -> tuple[int, int, int]:
    """Kernel size, stride and padding: those of stride 2 overlap (section 4.1), larger ones are patches."""
    return (4, 2, 1) if stride == 2 else (stride, stride, 0)


class State(nn.Module):
    """How many steps were taken."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


class VQVAE(System):
    """Encoder, quantizer and decoder.

    Args:
        image_tower: not taken.
    """

    has_text = False
    parts = {"vision": ("encoder.", "decoder."), "text": (), "interaction": ()}

    def __init__(self, config: VQVAEConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, self.codes, self.image_size = config, config.codes, config.image_size
        self.image_mean = self.image_std = HALF
        strides = config.strides
        widths = [max(config.width >> i, 8) for i in reversed(range(len(strides)))]

        def residual() -> list[nn.Module]:
            return [Residual(config.width, config.width, 1.0) for _ in range(config.blocks)]

        down: list[nn.Module] = []
        for (before, after), stride in zip(pairwise([3, *widths]), strides, strict=True):
            down += [nn.Conv2d(before, after, *kernel(stride)), nn.ReLU()]
        down[-1] = nn.Identity()  # a residual block begins with one
        self.encoder = nn.Sequential(
            *down, *residual(), nn.ReLU(), nn.Conv2d(widths[-1], config.code_width, 1)
        )
        self.quantizer = Quantizer(
            config.codes, config.code_width, decay=config.decay, iterations=config.kmeans_iterations
        )
        up: list[nn.Module] = []
        for (before, after), stride in zip(pairwise([*reversed(widths), 3]), reversed(strides), strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, *kernel(stride))]
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, config.width, 3, padding=1), *residual(), *up
        )

        for part in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def init_state(self, *, steps_per_epoch: int = 1) -> State:
        return State()

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        """What the quantizer gets, of normalised pictures; in full precision."""
        with torch.autocast(image.device.type, enabled=False):
            return rearrange(self.encoder(image.float()), "b c h w -> b (h w) c")

    def decode(self, codes: Float[Tensor, "B N C"]) -> Float[Tensor, "B 3 H W"]:
        """Normalised pictures, from quantised patches."""
        return self.decoder(rearrange(codes, "b (h w) c -> b c h w", h=self.config.grid[0]))

    @torch.no_grad()
    def visual_tokens(self, image: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """The token of each patch of pictures in 0..1, which are brought to this one's size.

        Raises:
            UserError: there are no codes yet.
        """
        if not self.quantizer.started:
            raise UserError(
                "this VQ-VAE has no codebook yet: train it for longer than system.start_after steps"
            )
        return self.quantizer.tokens(
            self.encode(normalised(sized(image, self.image_size), self.image_mean, self.image_std))
        )

    @torch.no_grad()
    def picture(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures in 0..1 from their tokens, row by row."""
        return pixels(self.decode(self.quantizer.codebook[tokens]), self.image_mean, self.image_std)

    def losses(
        self, batch: Batch, state: State, draws: None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`reconstruction`, a mean over pixels, and `commitment`; `usage` and `perplexity` of the codes."""
        image = batch.pictures()
        z = self.encode(image)
        if state.step < self.config.start_after:
            loss = F.mse_loss(self.decode(F.normalize(z, dim=-1)).float(), image)
            return {"loss": loss, "reconstruction": loss}
        found = self.quantizer(z.flatten(0, 1), generator=generator)
        codes = masked_image.straight_through(found.z, found.codes).view_as(z)
        reconstruction = F.mse_loss(self.decode(codes).float(), image)
        commitment = self.config.beta * masked_image.commitment(found.z, found.codes)
        return {
            "loss": reconstruction + commitment,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "usage": masked_image.usage(found.counts),
            "perplexity": masked_image.perplexity(found.counts),
            **found.rows(self.config.revived),
        }

    def advance(self, state: State, outputs: Sequence[dict[str, Tensor]]) -> None:
        """The codebook moves once, by the patches of all micro-batches and ranks."""
        state.step += 1
        self.quantizer.learn(outputs)
