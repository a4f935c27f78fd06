"""From pictures and token ids to the first hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.ragged import countable


def resize_positions(
    table: Float[Tensor, "1 P D"],
    grid: tuple[int, int],
    *,
    prefix: int = 1,
    old_grid: tuple[int, int] | None = None,
    corners: bool = False,
) -> Float[Tensor, "1 Q D"]:
    """Resize a table of learned positions to another grid of patches by bicubic interpolation.

    The first `prefix` rows (class token) are kept. The old grid is square unless `old_grid` says otherwise;
    the new one may have any shape. Source: `interpolate_pos_embed` of ALBEF's vit.py (align_corners=False).

    Args:
        corners: bilinear instead, corners on corners (ViLT, vision_transformer.py `visual_embed`).

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
    mode = "bilinear" if corners else "bicubic"
    rows = F.interpolate(rows.float(), size=grid, mode=mode, align_corners=corners).to(table.dtype)
    return torch.cat([kept, rearrange(rows, "1 d h w -> 1 (h w) d")], dim=1)


def sincos_positions(grid: tuple[int, int], width: int) -> Float[Tensor, "1 P D"]:
    """Fixed positions of a class token, which are zeros, and of the patches of a grid, row by row.

    A quarter of the features each: sine and cosine of the column, sine and cosine of the row, at
    frequencies from 1 down to 1/10000. Source: MAE, appendix A.1; recorded case mae/official.

    Raises:
        ValueError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that 4 divides, not {width}")
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side).double() for side in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (columns, rows)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])[None].to(torch.get_default_dtype())


def patchify(image: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B N F"]:
    """The pixels of each patch, row by row, the channels of a pixel side by side: F = P * P * C."""
    return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Float[Tensor, "B N F"], patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The pictures `[B, C, H, W]` that `patchify` cuts into these patches."""
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch_size, q=patch_size)


def padded_positions(
    table: Float[Tensor, "1 P D"],
    sizes: Int[Tensor, "B 2"],
    canvas: tuple[int, int],
    *,
    old_grid: tuple[int, int],
) -> Float[Tensor, "B N D"]:
    """Positions of pictures of different sizes in the corner of one canvas of patches; zeros around them.

    Each picture has the table resized to its own grid, bilinearly, corners on corners (ViLT, section 3.4).

    Args:
        sizes: patches (down, across) of each picture.
    """
    if not countable(sizes):
        return _looked_up(table, sizes, canvas, old_grid)
    distinct, which = sizes.unique(dim=0, return_inverse=True)
    tables = []
    for height, width in distinct.tolist():
        rows = resize_positions(table, (height, width), old_grid=old_grid, corners=True)[0, 1:]
        rows = rows.unflatten(0, (height, width))
        tables.append(F.pad(rows, (0, 0, 0, canvas[1] - width, 0, canvas[0] - height)).flatten(0, 1))
    return torch.stack(tables)[which]


def _looked_up(
    table: Float[Tensor, "1 P D"],
    sizes: Int[Tensor, "B 2"],
    canvas: tuple[int, int],
    old_grid: tuple[int, int],
) -> Float[Tensor, "B N D"]:
    """As `padded_positions`, whatever the sizes are: every place of a canvas looks itself up in the table."""
    rows = table[:, 1:].unflatten(1, old_grid).permute(0, 3, 1, 2).expand(sizes.shape[0], -1, -1, -1)
    height, width = sizes[:, 0, None, None], sizes[:, 1, None, None]
    down, across = (torch.arange(side, device=sizes.device) for side in canvas)
    down = down[:, None]
    inside = (down < height) & (across < width)
    # The table's corners are at -1 and 1.
    at = [2 * place / (size - 1).clamp(min=1) - 1 for place, size in ((across, width), (down, height))]
    at = torch.stack([place.expand(inside.shape) for place in at], dim=-1).to(table.dtype)
    found = F.grid_sample(rows, at, align_corners=True).permute(0, 2, 3, 1)
    return found.where(inside[..., None], 0).flatten(1, 2)


class PatchEmbed(nn.Module):
    """A picture as a row of patch vectors: one linear map of each P x P patch."""

    def __init__(self, patch_size: int, width: int, *, bias: bool = True, channels: int = 3):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(
        self, image: Float[Tensor, "B C H W"], kept: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Patches in row-major order.

        Args:
            kept: numbers of the patches to compute, in order; None: all of them. The others cost nothing.

        Raises:
            ValueError: H or W is not a multiple of the patch size.
        """
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"picture of {height} x {width} is not a multiple of the patch size {self.patch_size}"
            )
        if kept is None:
            return self.proj(image).flatten(2).transpose(1, 2)
        # The convolution is one linear map of each patch: here of those that are kept alone.
        size = (-1, self.patch_size)
        cut = image.unflatten(3, size).unflatten(2, size)  # [B, C, h, P, w, P]
        row, column = kept // (width // self.patch_size), kept % (width // self.patch_size)
        rows = torch.arange(len(image), device=image.device)[:, None]
        patches = cut.permute(0, 2, 4, 1, 3, 5)[rows, row, column].flatten(2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


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
