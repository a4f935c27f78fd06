"""The momentum (EMA) encoder and the queue of its features (MoCo; ALBEF section 3.2)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.gather import gather

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy that follows `module` by `ema_update` and never receives gradient; kept in fp32."""
    return copy.deepcopy(module).float().requires_grad_(False)


@torch.no_grad()
def ema_update(online: nn.Module, momentum: nn.Module, decay: float) -> None:
    """p_m <- decay * p_m + (1 - decay) * p for every trainable parameter of `online`, in place.

    A parameter that is not trained equals its copy for ever, so it is left alone.
    """
    averages: list[Tensor] = []
    targets: list[Tensor] = []
    for p, m in zip(online.parameters(), momentum.parameters(), strict=True):
        if p.requires_grad:
            averages.append(m)
            targets.append(p.to(m.dtype))
    if averages:
        torch._foreach_lerp_(averages, targets, 1 - decay)


class FeatureQueue(nn.Module):
    """A ring of the latest momentum features of pictures and texts, and the ids that they belong to.

    Any batch size and any number of ranks: the ring wraps, and of a batch longer than the ring the last rows
    stay. It starts as random unit vectors with id -100, which no sample has (official initialisation).

    Args:
        size: rows Q; 0 for no queue. width: E.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        for name in ("image", "text"):
            self.register_buffer(name, nn.functional.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("ids", torch.full((size,), -100, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(
        self,
        image_features: Float[Tensor, "B E"],
        text_features: Float[Tensor, "B E"],
        ids: Int[Tensor, " B"] | None = None,
    ) -> None:
        """Write the rows of all ranks, in rank order, over the oldest ones. `ids` None leaves -100."""
        size = len(self.ids)
        if size == 0:
            return
        if ids is None:
            ids = torch.full((len(image_features),), -100, device=self.ids.device)
        gathered = [gather(x, "none") for x in (image_features, text_features, ids)]
        total, rows = len(gathered[0]), [x[-size:] for x in gathered]
        first = self.pointer + (total - len(rows[0]))
        slots = (first + torch.arange(len(rows[0]), device=self.ids.device)) % size
        for ring, new in zip((self.image, self.text, self.ids), rows, strict=True):
            ring[slots] = new.to(ring.dtype)
        self.pointer.copy_((self.pointer + total) % size)
