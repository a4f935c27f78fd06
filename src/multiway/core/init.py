"""Initialisation as the official code has it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from multiway.core.block import Block


def zero_biases(module: nn.Module) -> None:
    """Every bias in a module, of queries and values alone too (`NoKeyBias`)."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


def init_vit(module: nn.Module) -> None:
    """timm's ViT: Linear weights normal 0.02 (cut at +-2, so never cut), biases 0, LayerNorm 1 and 0.

    The patch projection keeps torch's Conv2d default. Source: ALBEF models/vit.py; recorded case albef/init.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_mae(module: nn.Module) -> None:
    """MAE: Linear weights Xavier uniform, patch projections too, as the linear maps that they are; biases 0.

    The bias of a patch projection keeps torch's default. Source: recorded case mae/init.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.data.flatten(1))


def init_bert(module: nn.Module) -> None:
    """BERT: Linear and Embedding weights normal 0.02, [PAD]'s row included; biases 0.

    Source: ALBEF models/xbert.py.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def init_beit(module: nn.Module, std: float = 0.02) -> None:
    """BEiT: Linear and convolution weights normal, cut at one standard deviation; biases 0.

    Source: BEiT modeling_pretrain.py `_init_weights`.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std, a=-std, b=std)
            bias = part._parameters.get("bias")
            if bias is not None:
                nn.init.zeros_(bias)


#: What is left of a deviation of 0.02 when the draw is cut at one deviation, as `init_beit` does.
BEIT_STD = 0.02 * 0.5396


def unit_gain(width: int, std: float = 0.02) -> float:
    """What turns the papers' deviation of 0.02 into 1 / sqrt(width), with which a linear map's outputs are as
    large as its inputs. At 768 numbers 0.02 is near enough; narrow networks learn many times slower with it.

    Args:
        std: the deviation that weights are drawn with; of BEiT `BEIT_STD`.
    """
    return 1.0 / (std * width**0.5)


@torch.no_grad()
def widen(module: nn.Module, gain: float, tables: float = 1.0) -> None:
    """Every linear map's weights times `gain`, every table of embeddings times `tables`."""
    for weight in {part.weight for part in module.modules() if isinstance(part, nn.Linear)}:
        weight.mul_(gain)
    for table in (part for part in module.modules() if isinstance(part, nn.Embedding)):
        table.weight.mul_(tables)


@torch.no_grad()
def rescale_residual(blocks: Iterable[Block], first: int = 1) -> None:
    """The last map of each residual branch of layer l divided by sqrt(2 l); BEiT, section 2.5.

    Args:
        first: l of the first block.
    """
    for layer, block in enumerate(blocks, first):
        for name, parameter in block.named_parameters():
            if name.endswith("weight") and (".fc2." in name or "attention.out." in name):
                parameter.div_((2.0 * layer) ** 0.5)
