"""Checks of sizes that must fit together, for configs' `__post_init__`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from multiway.errors import UserError
from multiway.text import TokenizerConfig


def longer(tokenizer: TokenizerConfig, length: int, positions: int, **changes: Any) -> TokenizerConfig:
    """A tokenizer for texts of `length` tokens, if it was for shorter ones and the table of positions allows.

    Args:
        changes: other fields.
    """
    length = max(tokenizer.max_length, min(length, positions))
    return replace(tokenizer, max_length=length, **changes)


def check_heads(heads: int, width: int, *, of: str, width_of: str | None = None) -> None:
    """Refuse attention heads that do not divide the width.

    Args:
        of: the flag of the heads, as system.image.heads. width_of: that of the width; None: beside it.

    Raises:
        UserError: they do not.
    """
    if heads < 1 or width % heads:
        named = width_of or f"{of.removesuffix('heads')}width"
        raise UserError(f"{of} is {heads} and {named} {width}: give a divisor of the width")


def check_patches(
    image_size: int | tuple[int, int],
    patch_size: int,
    *,
    of: str = "system.image.image_size",
    by: str = "system.image.patch_size",
) -> None:
    """Refuse pictures that patches, or the strides of convolutions, do not fill.

    Args:
        of: the flag of the pictures' size. by: what the size must be a multiple of.

    Raises:
        UserError: it is not.
    """
    sides = (image_size,) if isinstance(image_size, int) else image_size
    if patch_size < 1 or any(side % patch_size for side in sides):
        raise UserError(f"{of} is {image_size} and {by} {patch_size}: give a multiple of it")


def check_quarters(width: int, *, of: str) -> None:
    """Refuse a width that sine-cosine positions, a quarter of it each, do not fill.

    Raises:
        UserError: 4 does not divide it.
    """
    if width % 4:
        raise UserError(f"{of} is {width}: give a multiple of 4, for positions of sines and cosines")


def check_positions(positions: int, max_length: int, *, of: str = "system.text.positions") -> None:
    """Refuse a table of a text's positions that is shorter than texts may be.

    Args:
        of: the flag of the table.

    Raises:
        UserError: it is.
    """
    if positions < max_length:
        raise UserError(
            f"system.tokenizer.max_length is {max_length}, and there are positions for texts of {positions} "
            f"tokens: raise {of} or cut texts shorter"
        )
