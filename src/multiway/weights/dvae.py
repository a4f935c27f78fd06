"""The layout of DALL-E's dVAE encoder: convolutions with `w` and `b` (OpenAI dall_e/encoder.py)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from multiway.systems.dvae import DVAEConfig
from multiway.weights.keymap import Entry, Layout

FIRST = "blocks.group_1.block_1.res_path.conv_1.w"


def layout(config: DVAEConfig) -> Layout:
    """Keys of the encoder's state dict."""
    entries = _convolution("stem", "blocks.input") + _convolution("head", "blocks.output.conv")
    for group in range(4):
        for block in range(config.blocks):
            ours, theirs = f"groups.{group}.{block}.", f"blocks.group_{group + 1}.block_{block + 1}."
            for i in range(4):
                entries += _convolution(f"{ours}convolutions.{i}", f"{theirs}res_path.conv_{i + 1}")
            if group and not block:  # the width changes here
                entries += _convolution(f"{ours}skip", f"{theirs}id_path")
    return Layout(tuple(entries))


def _convolution(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}.weight", (f"{theirs}.w",)), Entry(f"{ours}.bias", (f"{theirs}.b",))]


def is_dvae(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are of a dVAE's encoder."""
    return FIRST in tensors


def config_of(tensors: Mapping[str, Tensor]) -> DVAEConfig:
    """The sizes of a checkpoint, read off its shapes."""
    blocks = sum(key.startswith("blocks.group_1.") and key.endswith(".conv_1.w") for key in tensors)
    return DVAEConfig(
        width=tensors["blocks.input.b"].shape[0],
        blocks=blocks,
        codes=tensors["blocks.output.conv.b"].shape[0],
    )
