"""The same model for larger pictures or longer texts: its tables of positions interpolated or stretched."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.beit3_config import UNUSED, NetworkConfig

KEPT = 20  # positions that most texts reach, and that are learned best


def resized_config(config: Any, image_size: int | tuple[int, int]) -> Any:
    """The config of the same model for pictures of another size.

    Raises:
        UserError: the image tower has no table of positions, or its patches do not fill such a picture.
    """
    old = getattr(config, "image", None)
    if old is None or not hasattr(old, "grid"):
        raise UserError("image_size is for towers with a table of positions, as a ViT: leave it out here")
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if any(side < 1 or side % old.patch_size for side in sides):
        raise UserError(f"image_size {image_size} is not made of patches of {old.patch_size} pixels")
    longest = {}
    if hasattr(config, "longest_side"):  # ViLT's pictures keep their shape: image_size is the shorter side
        longest["longest_side"] = round(config.longest_side * sides[0] / old.image_size)
    return replace(config, image=replace(old, image_size=image_size), **longest)


def resized(model: System, image_size: int | tuple[int, int]) -> System:
    """The same model for pictures of another size, its table of positions interpolated.

    Raises:
        UserError: as `resized_config`.
    """
    config, old = resized_config(model.config, image_size), model.config.image
    other, tensors = type(model)(config), model.state_dict()
    if other.config.image.grid != old.grid:  # as many patches may lie otherwise
        fitted = {name: other.resize(name, tensor, old.grid) for name, tensor in tensors.items()}
        tensors |= {name: tensor for name, tensor in fitted.items() if tensor is not None}
    other.load_state_dict(tensors)
    other.tokenizer, other.calibration = model.tokenizer, model.calibration
    return other


def longer_config(config: Any, tokens: int) -> Any:
    """The config of the same model for texts of `tokens` tokens, special ones included.

    Raises:
        UserError: the system has no table of text positions, or `tokens` is not more than it has now, or more
            than its relative positions are for.
    """
    text: Any = getattr(config, "text", None)
    words: Any = getattr(config, "tokenizer", None)
    if words is None or not hasattr(text, "positions"):
        raise UserError(f"{config.system} has no table of text positions to stretch: leave text_length out")
    if tokens <= words.max_length:
        raise UserError(f"text_length is {tokens}, and the model takes {words.max_length} tokens: give more")
    if getattr(config, "positions", None) == "relative" and tokens > config.relative_positions:
        raise UserError(
            f"text_length is {tokens}, and the model's relative positions, which can't be stretched, are for "
            f"{config.relative_positions} tokens: give at most that, or train with more "
            "system.relative_positions"
        )
    words = replace(words, max_length=tokens, max_words=max(words.max_words, tokens))
    text = replace(text, positions=max(text.positions, tokens + _unused(config)))
    return replace(config, text=text, tokenizer=words)


def _unused(config: Any) -> int:
    """Rows of the table that no token has: BEiT-3's first ones."""
    return UNUSED if isinstance(config, NetworkConfig) else 0


def longer(model: System, tokens: int) -> System:
    """`model` for texts of `tokens` tokens, special ones included; features of the start of a text stay near.

    Where the table has rows enough, texts are only cut later, and nothing else changes. Else its first 20
    rows stay and the others are stretched (Long-CLIP, Zhang et al. 2024, section 3.1); fine-tune on long
    texts before you trust them.

    Raises:
        UserError: as `longer_config`.
    """
    config = longer_config(model.config, tokens)
    other, tensors, unused = type(model)(config), model.state_dict(), _unused(config)
    for name, tensor in other.state_dict().items():
        if tensors[name].shape != tensor.shape:
            table = tensors[name]
            tensors[name] = torch.cat([table[:unused], stretched(table[unused:], len(tensor) - unused)])
    other.load_state_dict(tensors)
    if model.tokenizer is not None:
        other.tokenizer = copy(model.tokenizer)
        other.tokenizer.config, other.tokenizer.truncated = config.tokenizer, 0
    other.calibration = model.calibration
    return other.train(model.training)


def stretched(table: Float[Tensor, "P D"], rows: int) -> Float[Tensor, "N D"]:
    """A table of positions with more rows: the first as they are, those between them drawn out linearly."""
    kept = min(KEPT, len(table) // 2)
    rest = table[kept:].float().T[None]
    longer = F.interpolate(rest, size=rows - kept, mode="linear", align_corners=True)[0].T
    return torch.cat([table[:kept], longer.to(table.dtype)])
