"""ViLT's official layouts, of pre-training and of its fine-tuning networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multiway.systems.vilt_config import (
    AnswerConfig,
    OneTowerConfig,
    ReasoningConfig,
    RetrievalConfig,
    ViLTConfig,
    vilt_vit,
)
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig
from multiway.weights.keymap import Entry, Layout, linear, pairs
from multiway.weights.parts import timm_vit, untied_word_head, word_embeddings


def layout(config: OneTowerConfig) -> Layout:
    """Keys of a checkpoint of the network that a config is of."""
    entries = [
        *timm_vit("image_tower.", "transformer.", config.image),
        *word_embeddings("text_embed.", "text_embeddings."),
        Entry("types.weight", ("token_type_embeddings.weight",)),
        *linear("pooler", "pooler.dense"),
    ]
    if isinstance(config, ViLTConfig):
        entries += untied_word_head() if config.mlm_weight else []
        entries += linear("itm_head", "itm_score.fc") if config.itm_weight else []
    if isinstance(config, RetrievalConfig):
        entries += linear("rank_head", "rank_output")
    for kind, head in ((AnswerConfig, "vqa_classifier"), (ReasoningConfig, "nlvr2_classifier")):
        if isinstance(config, kind):
            entries += pairs("classifier.", f"{head}.", [(i, i) for i in ("0", "1", "3")])
    return Layout(tuple(entries), {"text_embeddings.position_ids": torch.arange(config.text.positions)[None]})


def is_vilt(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint's keys are ViLT's."""
    return "text_embeddings.LayerNorm.weight" in tensors and "transformer.blocks.0.mlp.fc1.weight" in tensors


def config_of(tensors: Mapping[str, Tensor]) -> OneTowerConfig:
    """The sizes of an official checkpoint, read off its keys and shapes; a head is 64 wide."""
    patch, words = tensors["transformer.patch_embed.proj.weight"], "text_embeddings."
    layers = {int(m[1]) for m in (re.match(r"transformer\.blocks\.(\d+)\.", key) for key in tensors) if m}
    side, width = round((tensors["transformer.pos_embed"].shape[1] - 1) ** 0.5), patch.shape[0]
    texts, size = tensors[f"{words}position_embeddings.weight"].shape[0], side * patch.shape[-1]
    sizes: dict[str, Any] = {
        "image": vilt_vit(
            image_size=size,
            patch_size=patch.shape[-1],
            width=width,
            depth=len(layers),
            heads=max(width // 64, 1),
            hidden=tensors["transformer.blocks.0.mlp.fc1.bias"].shape[0],
        ),
        "text": TextConfig(
            vocab_size=tensors[f"{words}word_embeddings.weight"].shape[0],
            positions=texts,
            types=tensors[f"{words}token_type_embeddings.weight"].shape[0],
        ),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=texts),
        "longest_side": int(1333 / 800 * size),
        "types": tensors["token_type_embeddings.weight"].shape[0],
    }
    if "vqa_classifier.3.bias" in tensors:
        count = tensors["vqa_classifier.3.bias"].shape[0]
        return AnswerConfig(labels=tuple(f"answer {i}" for i in range(count)), **sizes)
    if "nlvr2_classifier.3.bias" in tensors:
        return ReasoningConfig(**sizes)
    if "rank_output.bias" in tensors:
        return RetrievalConfig(**sizes)
    weights = {
        "itm_weight": float("itm_score.fc.bias" in tensors),
        "mlm_weight": float("mlm_score.bias" in tensors),
    }
    return ViLTConfig(**sizes, **weights, wpa_weight=0.1 * weights["itm_weight"])
