"""BEiT's official layouts: pre-training, BEiT v2's with aggregation, fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from multiway.core.relative import image_index
from multiway.systems.beit_config import BEiTConfig, ClassifierConfig, beit_vit
from multiway.systems.vit import ViTConfig
from multiway.weights.keymap import Entry, Layout, linear, pairs

HALF = (0.5, 0.5, 0.5)
TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"


def layout(config: BEiTConfig) -> Layout:
    """Keys of a pre-training checkpoint, with `cls_pt_layers` where there is aggregation."""
    entries = [
        Entry("mask_token", ("mask_token",)),
        *tower("image_tower.", "", config.image),
        *linear("head", "lm_head"),
    ]
    if config.early_layer is not None:
        for i in range(config.aggregation_layers):
            entries += block(f"aggregation.blocks.{i}.", f"cls_pt_layers.{i}.", config.image)
        if not config.shared_head:
            entries += linear("aggregation.norm", "cls_pt_norm") + linear(
                "aggregation.head", "cls_pt_lm_head"
            )
    return Layout(tuple(entries), indices("", config.image))


def classifier_layout(config: ClassifierConfig) -> Layout:
    """Keys of a fine-tuned checkpoint: a table in each block, `fc_norm` instead of `norm`."""
    entries = tower("image_tower.", "", config.image) + linear("head", "head")
    return Layout(tuple(entries), indices("", config.image))


def layout_of(config: BEiTConfig | ClassifierConfig) -> Layout:
    """The layout of either kind of checkpoint."""
    return layout(config) if isinstance(config, BEiTConfig) else classifier_layout(config)


def tower(ours: str, theirs: str, config: ViTConfig, *, norm: str = "norm") -> list[Entry]:
    """BEiT's ViT. `norm`: what theirs calls the last one of every token (VQ-KD: fc_norm)."""
    entries = [
        Entry(f"{ours}cls_token", (f"{theirs}cls_token",)),
        *linear(f"{ours}patches.proj", f"{theirs}patch_embed.proj"),
    ]
    if config.absolute_positions:
        entries.append(Entry(f"{ours}positions", (f"{theirs}pos_embed",)))
    if config.relative_bias == "shared":
        entries.append(Entry(f"{ours}relative.0.table", (f"{theirs}rel_pos_bias.{TABLE}",)))
    for i in range(config.depth):
        entries += block(f"{ours}blocks.{i}.", f"{theirs}blocks.{i}.", config)
        if config.relative_bias == "layers":
            entries.append(Entry(f"{ours}relative.{i}.table", (f"{theirs}blocks.{i}.attn.{TABLE}",)))
    if config.pool == "mean":
        return entries + linear(f"{ours}fc_norm", f"{theirs}fc_norm")
    return entries + linear(f"{ours}norm", f"{theirs}{norm}")


def block(ours: str, theirs: str, config: ViTConfig) -> list[Entry]:
    """One layer."""
    names = [
        ("norm1", "norm1"),
        ("norm2.all", "norm2"),
        ("attention.out", "attn.proj"),
        ("ffn.all.fc1", "mlp.fc1"),
        ("ffn.all.fc2", "mlp.fc2"),
    ]
    entries = pairs(ours, theirs, names)
    entries.append(Entry(f"{ours}attention.qkv.weight", (f"{theirs}attn.qkv.weight",)))
    if config.key_bias:
        entries.append(Entry(f"{ours}attention.qkv.bias", (f"{theirs}attn.qkv.bias",)))
    else:
        for bias in ("q_bias", "v_bias"):
            entries.append(Entry(f"{ours}attention.qkv.{bias}", (f"{theirs}attn.{bias}",)))
    if config.layer_scale is not None:
        for n in (1, 2):
            entries.append(Entry(f"{ours}gamma{n}", (f"{theirs}gamma_{n}",)))
    return entries


def indices(theirs: str, config: ViTConfig) -> dict[str, Tensor]:
    """The index buffers beside the tables: the same for every grid, so a checkpoint may lack them."""
    index = image_index(config.grid)
    if config.relative_bias == "shared":
        return {f"{theirs}rel_pos_bias.{INDEX}": index}
    if config.relative_bias == "layers":
        return {f"{theirs}blocks.{i}.attn.{INDEX}": index for i in range(config.depth)}
    return {}


def is_beit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are of a ViT of BEiT, and of nothing with texts (VLMo)."""
    return "blocks.0.attn.q_bias" in tensors and "patch_embed.proj.weight" in tensors


def config_of(tensors: Mapping[str, Tensor]) -> BEiTConfig | ClassifierConfig:
    """The sizes of an official checkpoint, read off its shapes.

    How its pictures were normalised can't be read off: BEiT's released ones take -1..1, and the one of BEiT
    v2 that is known by its aggregation takes ImageNet's mean.
    """
    aggregated = depth_of(tensors, "cls_pt_layers.")
    image = tower_of(tensors, "")
    if not aggregated:
        image = replace(image, mean=HALF, std=HALF)
    if "mask_token" not in tensors:
        classes = tensors["head.weight"].shape[0]
        return ClassifierConfig(image=image, labels=tuple(str(i) for i in range(classes)))
    return BEiTConfig(
        image=image,
        codes=tensors["lm_head.weight"].shape[0],
        # The layer can't be seen in the shapes: it is three before the last one, officially.
        early_layer=image.depth - 3 if aggregated else None,
        aggregation_layers=aggregated or 2,
        shared_head="cls_pt_lm_head.weight" not in tensors,
    )


def tower_of(tensors: Mapping[str, Tensor], prefix: str) -> ViTConfig:
    """The config of a ViT of BEiT under a prefix; without tables heads are 64 wide, as in all of them."""
    patch = tensors[f"{prefix}patch_embed.proj.weight"]
    width, channels, size = patch.shape[0], patch.shape[1], patch.shape[-1]
    positions = tensors.get(f"{prefix}pos_embed")
    shared = tensors.get(f"{prefix}rel_pos_bias.{TABLE}")
    table = shared if shared is not None else tensors.get(f"{prefix}blocks.0.attn.{TABLE}")
    side = 14
    if positions is not None:
        side = round((positions.shape[1] - 1) ** 0.5)
    elif table is not None:
        side = (round((len(table) - 3) ** 0.5) + 1) // 2
    heads = table.shape[1] if table is not None else max(width // 64, 1)
    gamma = tensors.get(f"{prefix}blocks.0.gamma_1")
    return beit_vit(
        image_size=side * size,
        patch_size=size,
        channels=channels,
        width=width,
        depth=depth_of(tensors, f"{prefix}blocks."),
        heads=heads,
        hidden=tensors[f"{prefix}blocks.0.mlp.fc1.bias"].shape[0],
        layer_scale=None if gamma is None else 0.1,
        absolute_positions=positions is not None,
        relative_bias="shared" if shared is not None else "none" if table is None else "layers",
        pool="mean" if f"{prefix}fc_norm.weight" in tensors else "cls",
    )


def depth_of(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are under a prefix."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", key) for key in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
