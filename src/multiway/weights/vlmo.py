"""VLMo's official layouts, of its stages and its fine-tuning networks; and how a BEiT becomes one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from multiway.core.relative import image_index, image_rows, joint_index, joint_rows, text_index
from multiway.errors import UserError
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo_config import (
    AnswerConfig,
    MultiwayConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextConfig,
    VLMoConfig,
)
from multiway.text import TokenizerConfig
from multiway.weights.keymap import Entry, Layout, linear, pairs
from multiway.weights.parts import refuse_untold, untied_word_head, word_embeddings

OFFICIAL_POSITIONS = 196  # texts that every published table of relative positions is made for
OFFICIAL_HEADS = {544: 16}  # by width, where they are not 64 wide and no table tells (base plus)
EXPERTS = {"text": "text", "image": "imag", "joint": "vl"}


def layout(config: MultiwayConfig) -> Layout:
    """Keys of a checkpoint of the network that a config is of."""
    entries = _transformer(config) + linear("pooler", "pooler.dense")
    retrieval = isinstance(config, RetrievalConfig)
    if isinstance(config, VLMoConfig):
        if config.mlm_weight or config.stage == "text":
            entries += untied_word_head()
        if config.stage == "pairs":
            retrieval = True
            entries += linear("itm_head", "itm_score.fc") if config.itm_weight else []
        if config.stage == "pairs" and config.joint_layers:
            entries += [
                Entry("joint_logit_scale", ("logit_vl_scale",)),
                Entry("joint_image_proj.weight", ("itc_vl_image_proj.fc.weight",)),
                Entry("joint_text_proj.weight", ("itc_vl_text_proj.fc.weight",)),
            ]
    if retrieval:
        entries += [
            Entry("logit_scale", ("logit_scale",)),
            Entry("image_proj.weight", ("itc_image_proj.fc.weight",)),
            Entry("text_proj.weight", ("itc_text_proj.fc.weight",)),
        ]
    for kind, head in ((AnswerConfig, "vqa_classifier"), (ReasoningConfig, "nlvr2_classifier")):
        if isinstance(config, kind):
            entries += pairs("classifier.", f"{head}.", [(i, i) for i in ("0", "1", "3")])
    return Layout(tuple(entries), {"text_embeddings.position_ids": torch.arange(config.text.positions)[None]})


def written(config: MultiwayConfig) -> Layout:
    """`layout` of a file from which `config_of` tells the sizes again.

    A table that is not for texts of 196 tokens has the buffers of indices beside it that older files have.

    Raises:
        UserError: nothing in the file would tell how many heads there are, or how pictures are cut.
    """
    found, grid = layout(config), config.image.grid
    heads = _heads(config.width) if config.positions == "absolute" else config.heads  # a table tells
    refuse_untold("VLMo", config, heads=heads)
    if config.positions == "absolute" or config.relative_positions == OFFICIAL_POSITIONS:
        return found
    positions = config.relative_positions
    length = min(config.text.positions, positions)
    index = {
        "relative_position_index": image_index(grid),
        "text_relative_position_index": text_index(length, positions=positions, first=image_rows(grid) + 2),
        "text_imag_relative_position_index": joint_index(length, grid, positions=positions),
    }
    return replace(found, constants={**found.constants, **index})


def _heads(width: int) -> int:
    """How many, where no table tells."""
    return OFFICIAL_HEADS.get(width, max(width // 64, 1))


def _transformer(config: MultiwayConfig) -> list[Entry]:
    entries = [
        *word_embeddings("transformer.text_embed.", "text_embeddings."),
        Entry("transformer.types.weight", ("token_type_embeddings.weight",)),
        Entry("transformer.cls_token", ("transformer.cls_token",)),
        *linear("transformer.patches.proj", "transformer.patch_embed.proj"),
        *linear("transformer.norm", "transformer.norm"),
    ]
    if config.positions == "absolute":
        entries.append(Entry("transformer.positions", ("transformer.pos_embed",)))
    else:
        entries.append(Entry("transformer.relative.table", ("relative_position_bias_table",)))
    for i in range(config.depth):
        block = f"transformer.blocks.{i}."
        names = [("norm1", "norm1"), ("attention.out", "attn.proj")]
        for ours, its in EXPERTS.items():
            if ours != "joint" or i >= config.depth - config.joint_layers:
                names.append((f"norm2.{ours}", f"norm2_{its}"))
                names += [(f"ffn.{ours}.{fc}", f"mlp_{its}.{fc}") for fc in ("fc1", "fc2")]
        entries += pairs(block, block, names)
        entries.append(Entry(f"{block}attention.qkv.weight", (f"{block}attn.qkv.weight",)))
        for bias in ("q_bias", "v_bias"):
            entries.append(Entry(f"{block}attention.qkv.{bias}", (f"{block}attn.{bias}",)))
        if config.layer_scale is not None:
            for n in (1, 2):
                entries.append(Entry(f"{block}gamma{n}", (f"{block}gamma_{n}",)))
    return entries


def is_vlmo(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint's keys are VLMo's."""
    return "transformer.blocks.0.mlp_imag.fc1.weight" in tensors


def config_of(tensors: Mapping[str, Tensor]) -> MultiwayConfig:
    """The sizes of an official checkpoint, read off its keys and shapes.

    Raises:
        UserError: its table of relative positions is not for texts of 196 tokens, and it does not say its
            grid.
    """
    patch, words = tensors["transformer.patch_embed.proj.weight"], "text_embeddings."
    layers = {int(m[1]) for m in (re.match(r"transformer\.blocks\.(\d+)\.", key) for key in tensors) if m}
    joint = sum(f"transformer.blocks.{i}.mlp_vl.fc1.bias" in tensors for i in layers)
    width, depth, size = patch.shape[0], len(layers), patch.shape[-1]
    table = tensors.get("relative_position_bias_table")
    if table is None:
        side, positions = round((tensors["transformer.pos_embed"].shape[1] - 1) ** 0.5), OFFICIAL_POSITIONS
    else:
        side, positions = _grid(table, tensors.get("relative_position_index"))
    texts = tensors[f"{words}position_embeddings.weight"].shape[0]
    sizes: dict[str, Any] = {
        "image": ImageConfig(image_size=side * size, patch_size=size),
        "text": TextConfig(
            vocab_size=tensors[f"{words}word_embeddings.weight"].shape[0],
            positions=texts,
            types=tensors[f"{words}token_type_embeddings.weight"].shape[0],
        ),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=min(texts, positions)),
        "width": width,
        "depth": depth,
        "heads": _heads(width) if table is None else table.shape[1] // depth,
        "hidden": tensors["transformer.blocks.0.mlp_imag.fc1.bias"].shape[0],
        "joint_layers": joint,
        "types": tensors["token_type_embeddings.weight"].shape[0],
        "layer_scale": 0.1 if "transformer.blocks.0.gamma_1" in tensors else None,
        "positions": "absolute" if table is None else "relative",
        "relative_positions": positions,
    }
    if "vqa_classifier.3.bias" in tensors:
        count = tensors["vqa_classifier.3.bias"].shape[0]
        return AnswerConfig(labels=tuple(f"answer {i}" for i in range(count)), **sizes)
    if "nlvr2_classifier.3.bias" in tensors:
        return ReasoningConfig(**sizes)
    if "itc_image_proj.fc.weight" not in tensors:
        return VLMoConfig(stage="text", **sizes)
    if tensors.keys().isdisjoint(("itc_vl_image_proj.fc.weight", "itm_score.fc.bias", "mlm_score.bias")):
        return RetrievalConfig(**sizes)
    weights = {"itm_weight": float("itm_score.fc.bias" in tensors)}
    weights["mlm_weight"] = 0.25 if "mlm_score.bias" in tensors else 0.0
    return VLMoConfig(**sizes, **weights)


def _grid(table: Tensor, index: Tensor | None) -> tuple[int, int]:
    """(patches a side, longest text) of a table of relative positions."""
    if index is not None:  # older files store their indices
        side = round((index.shape[0] - 1) ** 0.5)
        return side, (len(table) - image_rows((side, side)) - 2) // 2
    side = round(((len(table) - 5 - 2 * OFFICIAL_POSITIONS) ** 0.5 + 1) / 2) if len(table) > 400 else 0
    if side < 1 or joint_rows((side, side), OFFICIAL_POSITIONS) != len(table):
        raise UserError(
            f"this VLMo's table of relative positions has {len(table)} rows, which is not a square picture "
            f"and texts of {OFFICIAL_POSITIONS} tokens: save it with multiway.save, or add its "
            "relative_position_index"
        )
    return side, OFFICIAL_POSITIONS
