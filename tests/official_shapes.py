"""Names and shapes of the parts that the official checkpoints of ALBEF and BLIP share, at full size."""

from __future__ import annotations

import torch


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def vit(prefix: str, *, size: int, patch: int = 16, width: int = 768, depth: int = 12) -> dict[str, tuple]:
    """ALBEF's vit.py."""
    grid = size // patch
    found = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for name in ("norm", *(f"blocks.{i}.norm{j}" for i in range(depth) for j in (1, 2))):
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for i in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            found |= linear(f"blocks.{i}.{name}", rows, columns)
    return {prefix + name: shape for name, shape in found.items()}


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def predictions(prefix: str, *, width: int = 768, vocab: int = 30522) -> dict[str, tuple[int, ...]]:
    found = linear("transform.dense", width, width) | linear("decoder", vocab, width)
    found |= {"bias": (vocab,), "transform.LayerNorm.weight": (width,), "transform.LayerNorm.bias": (width,)}
    return {prefix + name: shape for name, shape in found.items()}
