"""CLIP's layouts: open_clip's (and OpenAI's), and transformers'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multiway.systems.clip import CLIPConfig, CLIPTextConfig, clip_tokenizer
from multiway.systems.vit import ViTConfig
from multiway.weights.keymap import COPY, LEAD1, LEAD2, STACK, TRANSPOSE, Entry, Layout, linear, pairs
from multiway.weights.parts import the_vit


def open_clip_layout(config: CLIPConfig) -> Layout:
    """open_clip's `CLIP`: `visual.transformer.resblocks.i`, the text tower at the top level."""
    entries = [
        Entry("logit_scale", ("logit_scale",)),
        *vision(the_vit(config.image).depth),
        *linear("image_tower.norm", "visual.ln_post"),
        Entry("image_proj.weight", ("visual.proj",), TRANSPOSE),
        Entry("text.words.weight", ("token_embedding.weight",)),
        Entry("text.positions", ("positional_embedding",)),
        *linear("text.norm", "ln_final"),
        Entry("text_proj.weight", ("text_projection",), TRANSPOSE),
    ]
    entries += resblocks("text.blocks", "transformer", config.text.layers)
    return Layout(tuple(entries))


def vision(depth: int) -> list[Entry]:
    """open_clip's ViT, as CLIP and CoCa have it, but for what follows its blocks."""
    return [
        Entry("image_tower.cls_token", ("visual.class_embedding",), LEAD2),
        Entry("image_tower.positions", ("visual.positional_embedding",), LEAD1),
        Entry("image_tower.patches.proj.weight", ("visual.conv1.weight",)),
        *linear("image_tower.norm_pre", "visual.ln_pre"),
        *resblocks("image_tower.blocks", "visual.transformer", depth),
    ]


def resblocks(ours: str, theirs: str, depth: int, renamed: Mapping[str, str] | None = None) -> list[Entry]:
    """open_clip's layers of self-attention; `renamed`: other names of ours for some parts."""
    names = [
        ("norm1", "ln_1"),
        ("norm2.all", "ln_2"),
        ("attention.out", "attn.out_proj"),
        ("ffn.all.fc1", "mlp.c_fc"),
        ("ffn.all.fc2", "mlp.c_proj"),
    ]
    entries = []
    for i in range(depth):
        block, res = f"{ours}.{i}.", f"{theirs}.resblocks.{i}."
        entries += pairs(block, res, [((renamed or {}).get(a, a), b) for a, b in names])
        for part in ("weight", "bias"):
            entries.append(Entry(f"{block}attention.qkv.{part}", (f"{res}attn.in_proj_{part}",), COPY))
    return entries


def transformers_layout(config: CLIPConfig) -> Layout:
    """transformers' `CLIPModel`."""
    image = the_vit(config.image)
    entries = [
        Entry("logit_scale", ("logit_scale",)),
        Entry("image_tower.cls_token", ("vision_model.embeddings.class_embedding",), LEAD2),
        Entry("image_tower.positions", ("vision_model.embeddings.position_embedding.weight",), LEAD1),
        Entry("image_tower.patches.proj.weight", ("vision_model.embeddings.patch_embedding.weight",)),
        *pairs("image_tower.", "vision_model.", [("norm_pre", "pre_layrnorm"), ("norm", "post_layernorm")]),
        Entry("image_proj.weight", ("visual_projection.weight",)),
        Entry("text.words.weight", ("text_model.embeddings.token_embedding.weight",)),
        Entry("text.positions", ("text_model.embeddings.position_embedding.weight",)),
        *linear("text.norm", "text_model.final_layer_norm"),
        Entry("text_proj.weight", ("text_projection.weight",)),
    ]
    names = [
        ("norm1", "layer_norm1"),
        ("norm2.all", "layer_norm2"),
        ("attention.out", "self_attn.out_proj"),
        ("ffn.all.fc1", "mlp.fc1"),
        ("ffn.all.fc2", "mlp.fc2"),
    ]
    for ours, theirs, depth in (
        ("image_tower.blocks", "vision_model", image.depth),
        ("text.blocks", "text_model", config.text.layers),
    ):
        for i in range(depth):
            block, layer = f"{ours}.{i}.", f"{theirs}.encoder.layers.{i}."
            entries += pairs(block, layer, names)
            stacked = [f"{layer}self_attn.{part}_proj" for part in "qkv"]
            for part in ("weight", "bias"):
                entries.append(
                    Entry(f"{block}attention.qkv.{part}", tuple(f"{name}.{part}" for name in stacked), STACK)
                )
    # Older files store the positions' indices beside the tables.
    rows = 1 + image.grid[0] * image.grid[1]
    constants = {
        "vision_model.embeddings.position_ids": torch.arange(rows)[None],
        "text_model.embeddings.position_ids": torch.arange(config.text.positions)[None],
    }
    return Layout(tuple(entries), constants)


def open_clip_config_of(tensors: Mapping[str, Tensor], *, quick_gelu: bool = False) -> CLIPConfig:
    """The sizes of an open_clip checkpoint; heads are 64 wide. OpenAI's own weights need `quick_gelu`."""
    text = text_sizes(tensors, "", quick_gelu=quick_gelu)
    return CLIPConfig(
        image=vision_sizes(tensors, quick_gelu=quick_gelu),
        text=text,
        tokenizer=clip_tokenizer(text.positions),
        embed_dim=tensors["text_projection"].shape[1],
    )


#: Width of a tower -> of its heads, where that is not 64: H, g, bigG and e of open_clip.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}


def vision_sizes(tensors: Mapping[str, Tensor], **options: Any) -> ViTConfig:
    """The sizes of open_clip's ViT, whose pictures are cropped; heads are as wide as in its own configs."""
    patch, rows = tensors["visual.conv1.weight"], tensors["visual.positional_embedding"].shape[0] - 1
    return ViTConfig(
        image_size=round(rows**0.5) * patch.shape[-1],
        patch_size=patch.shape[-1],
        width=patch.shape[0],
        depth=depth(tensors, "visual.transformer."),
        heads=max(patch.shape[0] // HEAD_WIDTHS.get(patch.shape[0], 64), 1),
        hidden=tensors["visual.transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
        eps=1e-5,
        clip_stem=True,
        fit="crop",
        **options,
    )


def text_sizes(tensors: Mapping[str, Tensor], prefix: str, **options: Any) -> CLIPTextConfig:
    """The sizes of open_clip's text layers; heads are 64 wide."""
    vocab_size, width = tensors[f"{prefix}token_embedding.weight"].shape
    sizes: dict[str, Any] = {"positions": len(tensors[f"{prefix}positional_embedding"]), **options}
    return CLIPTextConfig(
        vocab_size=vocab_size,
        width=width,
        layers=depth(tensors, f"{prefix}transformer."),
        heads=max(width // 64, 1),
        hidden=tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
        **sizes,
    )


def depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many `resblocks` a checkpoint has."""
    found = (re.match(rf"{re.escape(prefix)}resblocks\.(\d+)\.", key) for key in tensors)
    return 1 + max(int(m[1]) for m in found if m)
