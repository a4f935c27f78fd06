"""Tensors of a model for pictures of one size, as they fit the same model for pictures of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multiway.core.embed import resize_positions
from multiway.core.relative import Grid, resize_table

EXTRA = 3  # rows of a table of relative positions that are not of patches


def resize(name: str, tensor: Tensor, grid: Grid, old_grid: Grid | None = None) -> Tensor | None:
    """The tensor `name` of an image tower for a grid of patches; None: it does not depend on the grid.

    Args:
        old_grid: of the tensor; None: a square.
    """
    if name.endswith("image_tower.positions"):
        return resize_positions(tensor, grid, old_grid=old_grid)
    if "image_tower.relative." in name:
        side = (round((len(tensor) - EXTRA) ** 0.5) + 1) // 2
        return resize_table(tensor, old_grid or (side, side), grid)
    return None


def first_rows(tensor: Tensor, own: Tensor) -> Tensor:
    """A table of words' positions for texts of another length: cut, or its last rows as `own` has them."""
    return torch.cat([tensor, own[len(tensor) :].to(tensor)])[: len(own)]


def fitted(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors to start `model` from, those of another shape as its `resize` makes them."""
    own, found = model.state_dict(), dict(tensors)
    for name, tensor in tensors.items():
        if name in own and own[name].shape != tensor.shape:
            resized = model.resize(name, tensor)
            found[name] = tensor if resized is None else resized
    return found
