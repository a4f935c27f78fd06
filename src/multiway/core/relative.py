"""Relative positions as a learned bias of attention: BEiT's for pictures, and VLMo's for pairs of modalities.

One table holds a row for every kind of pair of tokens, and a column for every head (of every layer):

    (2h-1)(2w-1)  patch to patch, by their offset on a grid of h x w
    3             class token to any, any to class token, class token to itself
    2             word to picture, picture to word
    2P-3          word to word, by their offset, in texts of up to P tokens
    3             [CLS] to any, any to [CLS], [CLS] to itself

BEiT's table ends after the first two lines. An index `[T, T]` says which row a pair of tokens takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.errors import UserError

Grid = tuple[int, int]


def image_rows(grid: Grid) -> int:
    """Rows for pictures: offsets of patches, and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def joint_rows(grid: Grid, positions: int) -> int:
    """Rows for pairs: the picture's, two between the modalities, and those of texts of `positions` tokens."""
    return image_rows(grid) + 2 + 2 * positions


def image_index(grid: Grid, device: torch.device | None = None) -> Int[Tensor, "N N"]:
    """Rows for a class token and a grid of patches behind it (BEiT modeling_finetune.py, `Attention`)."""
    height, width = grid
    down = torch.arange(height, device=device).repeat_interleave(width)
    across = torch.arange(width, device=device).repeat(height)
    rows = (down[:, None] - down + height - 1) * (2 * width - 1) + (across[:, None] - across + width - 1)
    return _beside_first(rows, image_rows(grid) - 3)


def text_index(
    length: int, *, positions: int, first: int = 0, device: torch.device | None = None
) -> Int[Tensor, "T T"]:
    """Rows for a text of `length` tokens, the first of them [CLS] (VLMo vlmo_module.py).

    Args:
        positions: P, the longest text that the table was made for. first: the table's first row for texts.

    Raises:
        ValueError: the text is longer.
    """
    if length > positions:
        raise ValueError(f"a text of {length} tokens, and the table of relative positions is for {positions}")
    word = torch.arange(length - 1, device=device)
    return _beside_first(word - word[:, None] + positions - 2 + first, first + 2 * positions - 3)


def joint_index(
    length: int, grid: Grid, *, positions: int, device: torch.device | None = None
) -> Int[Tensor, "S S"]:
    """Rows for a text of `length` tokens with a picture behind it."""
    between = image_rows(grid)
    image = image_index(grid, device)
    text = text_index(length, positions=positions, first=between + 2, device=device)
    to_image, to_text = image.new_full((length, len(image)), between), image.new_full((len(image), length), 1)
    return torch.cat([torch.cat([text, to_image], 1), torch.cat([to_text + between, image], 1)])


def _beside_first(rows: Int[Tensor, "N N"], special: int) -> Int[Tensor, "M M"]:
    """A first token that is none of the sequence: rows `special` from it, +1 to it, +2 to itself."""
    index = F.pad(rows, (1, 0, 1, 0))
    index[0, :], index[:, 0] = special, special + 1
    index[0, 0] = special + 2
    return index


class RelativeBias(nn.Module):
    """A learned bias for each kind of pair of tokens.

    Args:
        rows: `image_rows` or `joint_rows`. layers: L, layers that have columns of their own.
    """

    def __init__(self, rows: int, heads: int, layers: int = 1):
        super().__init__()
        self.layers = layers
        self.table = nn.Parameter(torch.zeros(rows, layers * heads))

    def forward(self, index: Int[Tensor, "T T"]) -> Float[Tensor, "L H T T"]:
        """What each layer adds to its scores."""
        bias = F.embedding(index, self.table).permute(2, 0, 1).contiguous()
        return bias.unflatten(0, (self.layers, -1))


class LayerMasks(Sequence[Tensor]):
    """For a stack's `mask`: each layer's bias, -inf where `mask` forbids, made when the layer asks for it."""

    def __init__(self, bias: Float[Tensor, "L H T T"], mask: Bool[Tensor, "B 1 1 T"] | None):
        self.bias, self.mask = bias, mask

    def __len__(self) -> int:
        return len(self.bias)

    @overload
    def __getitem__(self, layer: int) -> Tensor: ...
    @overload
    def __getitem__(self, layer: slice) -> LayerMasks: ...
    def __getitem__(self, layer: int | slice) -> Tensor | LayerMasks:
        if isinstance(layer, slice):
            return LayerMasks(self.bias[layer], self.mask)
        combined = masks.combine(self.mask, self.bias[layer][None])
        assert combined is not None
        return combined


def resize_table(table: Float[Tensor, "R C"], old_grid: Grid, new_grid: Grid) -> Float[Tensor, "Q C"]:
    """A table for pictures of another grid of patches; all but the offsets of patches is kept.

    Offsets of the old grid are spread in a geometric progression over those of the new one, so that near ones
    keep their meaning, and a cubic spline through them is read at the new offsets. Source: VLMo
    vlmo_module.py `load_pretrained_weight`, BEiT run_class_finetuning.py.

    Raises:
        UserError: a side that changes is shorter than 3 patches.
    """
    if old_grid == new_grid:
        return table
    if any(old < 3 and old != new for old, new in zip(old_grid, new_grid, strict=True)):
        raise UserError(
            f"relative positions of {old_grid[0]} x {old_grid[1]} patches can't be resized to "
            f"{new_grid[0]} x {new_grid[1]}: start from a model whose pictures have 3 patches a side or more"
        )
    sides = [2 * side - 1 for side in old_grid]
    offsets, others = table.split([sides[0] * sides[1], len(table) - sides[0] * sides[1]])
    down, across = (_spread(old, new) for old, new in zip(old_grid, new_grid, strict=True))
    grid = offsets.detach().double().cpu().reshape(*sides, -1)
    resized = torch.einsum("iy,jx,yxc->ijc", down, across, grid).flatten(0, 1)
    return torch.cat([resized.to(table), others])


def cut_table(table: Float[Tensor, "R C"], grid: Grid, old: int, new: int) -> Float[Tensor, "Q C"]:
    """A table of `joint_rows` for shorter texts: of the words' offsets the nearest are kept, and all else.

    Args:
        old, new: longest texts in tokens, before and after.

    Raises:
        UserError: the new texts are longer: nothing is known of offsets beyond the old ones.
    """
    if new > old:
        raise UserError(
            f"relative positions for texts of {old} tokens can't serve texts of {new}: set "
            f"system.relative_positions to {old} or less, or start from a model for longer texts"
        )
    pictures, offsets, special = table.split([image_rows(grid) + 2, 2 * old - 3, 3])
    return torch.cat([pictures, offsets[old - new : len(offsets) - (old - new)], special])


def _spread(old: int, new: int) -> Float[Tensor, "M N"]:
    """The linear map from values at a side's old 2 `old` - 1 offsets to values at its new ones."""
    if old == new:
        return torch.eye(2 * old - 1, dtype=torch.float64)
    reach, steps = new - 1, torch.arange(old - 1, dtype=torch.float64)
    low, ratio, high = 1.01, 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio ** (old - 1)) / (1 - ratio) > reach else (ratio, high)
    known = (ratio**steps).cumsum(0)
    known = torch.cat([-known.flip(0), known.new_zeros(1), known])
    return _spline(known, torch.arange(-reach, reach + 1, dtype=torch.float64))


def _spline(known: Float[Tensor, " N"], wanted: Float[Tensor, " M"]) -> Float[Tensor, "M N"]:
    """The map from values at `known` to those of their cubic spline at `wanted`; constant beyond the ends.

    The first two and the last two pieces are one polynomial each ("not a knot"), as in FITPACK's splines.
    """
    count = len(known)
    gap, eye = known.diff(), torch.eye(count, dtype=known.dtype)
    slope = eye.diff(dim=0) / gap[:, None]
    # Second derivatives at the known points: continuous slopes inside, continuous third derivatives at ends.
    system, right = torch.zeros_like(eye), torch.zeros_like(eye)
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = torch.stack([gap[i - 1], 2 * (gap[i - 1] + gap[i]), gap[i]])
        right[i] = 6 * (slope[i] - slope[i - 1])
    for row, i in ((0, 0), (count - 1, count - 3)):
        system[row, i : i + 3] = torch.stack([gap[i + 1], -gap[i] - gap[i + 1], gap[i]])
    curvature = torch.linalg.solve(system, right)
    wanted = wanted.clamp(known[0], known[-1])
    piece = (torch.searchsorted(known, wanted, right=True) - 1).clamp(0, count - 2)
    b = ((wanted - known[piece]) / gap[piece])[:, None]
    a, square = 1 - b, gap[piece, None] ** 2 / 6
    bend = (a**3 - a) * curvature[piece] + (b**3 - b) * curvature[piece + 1]
    return a * eye[piece] + b * eye[piece + 1] + square * bend
