"""Patches left out at random, of which MAE and FLIP compute nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random choices of a step.

    Attributes:
        noise: a number for each patch; those with the smallest are kept.
    """

    noise: Float[Tensor, "B N"] | None = None


class Split(NamedTuple):
    """The patches of each picture, by number: those that are seen, those that are not, and the way back."""

    kept: Int[Tensor, "B K"]
    masked: Int[Tensor, "B M"]
    restore: Int[Tensor, "B N"]
    """Where patch n lies among the kept and, after them, the masked ones."""


def split(noise: Float[Tensor, "B N"], ratio: float) -> Split:
    """int(N (1 - ratio)) patches are kept, those with the smallest numbers, in their order.

    Source: MAE, section 3, "Simple implementation"; FLIP, section 3.
    """
    order, count = noise.argsort(dim=1), kept_of(noise.shape[1], ratio)
    return Split(order[:, :count], order[:, count:], order.argsort(dim=1))


def kept_of(patches: int, ratio: float) -> int:
    """How many of N patches are kept."""
    return int(patches * (1 - ratio))


def drawn_noise(
    image: Float[Tensor, "B C H W"],
    patch_size: int,
    generator: torch.Generator | None,
    draws: Draws | None = None,
) -> Float[Tensor, "B N"]:
    """A number in 0..1 for each patch, or what `draws` gives."""
    if draws is not None and draws.noise is not None:
        return draws.noise
    height, width = (side // patch_size for side in image.shape[-2:])
    device = image.device if generator is None else generator.device
    noise = torch.rand(len(image), height * width, generator=generator, device=device)
    return noise.to(image.device)
