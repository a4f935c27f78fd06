"""Initialisation as the official code has it."""

from __future__ import annotations

from torch import nn


def init_vit(module: nn.Module) -> None:
    """timm's ViT: Linear weights normal 0.02 (cut at +-2, so never cut), biases 0, LayerNorm 1 and 0.

    The patch projection keeps torch's Conv2d default. Source: ALBEF models/vit.py; recorded case albef/init.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_bert(module: nn.Module) -> None:
    """BERT: Linear and Embedding weights normal 0.02, [PAD]'s row included; biases 0.

    Source: ALBEF models/xbert.py.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
