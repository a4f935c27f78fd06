"""From pictures and token ids to the first hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


def resize_positions(
    table: Float[Tensor, "1 P D"],
    grid: tuple[int, int],
    *,
    prefix: int = 1,
    old_grid: tuple[int, int] | None = None,
) -> Float[Tensor, "1 Q D"]:
    """Resize a table of learned positions to another grid of patches by bicubic interpolation.

    The first `prefix` rows (class token) are kept. The old grid is square unless `old_grid` says otherwise;
    the new one may have any shape. Source: `interpolate_pos_embed` of ALBEF's vit.py (align_corners=False).

    Raises:
        ValueError: the table's patch rows are not `old_grid`, or not a square when it is not given.
    """
    patches = table.shape[1] - prefix
    if old_grid is None:
        side = round(patches**0.5)
        old_grid = (side, side)
    if old_grid[0] * old_grid[1] != patches:
        raise ValueError(
            f"a position table of {patches} patches is not a grid of {old_grid[0]} x {old_grid[1]}"
        )
    if old_grid == grid:
        return table
    kept, rows = table[:, :prefix], table[:, prefix:]
    rows = rearrange(rows, "1 (h w) d -> 1 d h w", h=old_grid[0])
    rows = F.interpolate(rows.float(), size=grid, mode="bicubic", align_corners=False).to(table.dtype)
    return torch.cat([kept, rearrange(rows, "1 d h w -> 1 (h w) d")], dim=1)


class PatchEmbed(nn.Module):
    """A picture as a row of patch vectors: one linear map of each P x P patch."""

    def __init__(self, patch_size: int, width: int, *, bias: bool = True, channels: int = 3):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """Patches in row-major order.

        Raises:
            ValueError: H or W is not a multiple of the patch size.
        """
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"picture of {height} x {width} is not a multiple of the patch size {self.patch_size}"
            )
        return self.proj(image).flatten(2).transpose(1, 2)


class WordEmbed(nn.Module):
    """BERT's embeddings: words + positions + one token type, then LayerNorm and dropout.

    Args:
        positions: rows of the position table: the longest text.
        types: rows of the token-type table, or 0 for none (BLIP); row 0 is added.
    """

    def __init__(
        self, vocab_size: int, width: int, *, positions: int, types: int, eps: float, dropout: float = 0.0
    ):
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width) if types else None
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, input_ids: Int[Tensor, "B T"], *, start: int | Int[Tensor, " B"] = 0
    ) -> Float[Tensor, "B T D"]:
        """`start` is the position of the first token, for all rows or each: how many are decoded already."""
        if isinstance(start, int):
            positions = self.positions.weight[start : start + input_ids.shape[1]]
        else:
            positions = self.positions(start[:, None] + torch.arange(input_ids.shape[1], device=start.device))
        x = self.words(input_ids) + positions
        if self.types is not None:
            x = x + self.types.weight[0]
        return self.dropout(self.norm(x))
