"""A recorded case of the official code as it lies in a folder, and how closely a replay must agree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """What a replay may read: sizes, weights, inputs and recorded draws, but not the recorded outputs."""

    name: str
    folder: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Case:
        """Known by its folder's last two names; a weights file that config.json names is used instead."""
        folder = folder.resolve()
        config = json.loads((folder / "config.json").read_text())
        weights = folder / config.get("weights_file", "weights.safetensors")
        return cls(
            name="/".join(folder.parts[-2:]),
            folder=folder,
            config=config,
            weights=load_file(weights) if weights.is_file() else {},
            inputs=load_file(folder / "inputs.safetensors"),
        )


@dataclass(frozen=True)
class Rule:
    """|ours - recorded| <= absolute * scale + relative * |recorded|, for every element.

    Attributes:
        absolute: one number, or one an element.
        scaled: scale is max(1, largest |recorded|) instead of 1.
        whole: compare the L2 norm of the difference with the L2 norm of the recorded tensor instead.
    """

    absolute: float | Tensor = 0.0
    relative: float = 0.0
    scaled: bool = False
    whole: bool = False

    def errors(self, ours: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor]:
        """Error and tolerance, element by element (or of the whole tensor)."""
        ours, recorded = ours.detach().double(), recorded.double()
        error, size = (ours - recorded).abs(), recorded.abs()
        error = error.masked_fill(ours == recorded, 0.0)  # infinities too
        if self.whole:
            error, size = error.norm(), size.norm()
        scale = max(1.0, size.max().item()) if self.scaled and size.numel() else 1.0
        return error, torch.as_tensor(self.absolute).double() * scale + self.relative * size


@dataclass(frozen=True)
class Real:
    """A replayed tensor of which only the `real` elements count; the others lie at padded positions."""

    value: Tensor
    real: Tensor


def at_tokens(value: Tensor, attention_mask: Tensor) -> Real:
    """Hidden states or logits `[B, T, D]`, of which only those at real tokens count (REPORT.md)."""
    return Real(value, attention_mask.bool()[..., None])


#: As REPORT.md states it, for tensors whose README says nothing else.
DEFAULT = Rule(absolute=1e-5, relative=1e-4, scaled=True)
#: Absolute for key biases, whose gradient is zero in exact arithmetic.
GRADIENT_NORM = Rule(absolute=1e-6, relative=1e-4)
MOVED = Rule(absolute=1e-6, scaled=True)


def default_rule(case: Case, name: str) -> Rule:
    """REPORT.md: gradient norms 1e-4 relative; queues and momentum weights 1e-6."""
    if "_norm" in name and "grad" in name:
        return GRADIENT_NORM
    if "queue" in name or name.startswith("momentum."):
        return MOVED
    return DEFAULT


def without_gradient(name: str) -> bool:
    """Key biases: zero gradient in exact arithmetic, so Adam turns rounding into steps (REPORT.md)."""
    return name.endswith((".key.bias", ".attn.qkv.bias", "k_proj.bias", "attn.in_proj_bias"))
