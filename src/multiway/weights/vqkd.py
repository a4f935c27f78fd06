"""VQ-KD's official layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from multiway.systems.vqkd import HALF, VQKDConfig
from multiway.weights.beit import tower, tower_of
from multiway.weights.keymap import SCALAR, Entry, Layout, linear


def layout(config: VQKDConfig) -> Layout:
    """Keys of a trained tokenizer.

    `quantize.embedding.cluster_size` (of the k-means start) and `embed_avg` are stored officially and never
    read; they leave here as zeros.
    """
    decoder = replace(config.image, depth=config.decoder_layers)
    entries = [
        *tower("image_tower.", "encoder.", config.image, norm="fc_norm"),
        *tower("decoder.", "decoder.", decoder, norm="fc_norm"),
        *(
            entry
            for ours, theirs in (("to_code", "encode_task_layer"), ("to_target", "decode_task_layer"))
            for part in (0, 2)
            for entry in linear(f"{ours}.{part}", f"{theirs}.{part}")
        ),
        Entry("quantizer.codebook", ("quantize.embedding.weight",)),
        Entry("quantizer.usage", ("quantize.cluster_size",)),
        Entry("quantizer.started", ("quantize.embedding.initted",), SCALAR),
    ]
    unread = {
        "quantize.embedding.cluster_size": torch.zeros(config.codes),
        "quantize.embedding.embed_avg": torch.zeros(config.codes, config.code_width),
    }
    return Layout(tuple(entries), unread)


def is_vqkd(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are of a VQ-KD."""
    return "quantize.embedding.weight" in tensors and "encode_task_layer.0.weight" in tensors


def config_of(tensors: Mapping[str, Tensor]) -> VQKDConfig:
    """The sizes of an official checkpoint, read off its shapes; heads are 64 wide, as in all of them."""
    codes, width = tensors["quantize.embedding.weight"].shape
    image = tower_of(tensors, "encoder.")
    return VQKDConfig(
        image=replace(image, pool="cls", mean=HALF, std=HALF),
        decoder_layers=tower_of(tensors, "decoder.").depth,
        codes=codes,
        code_width=width,
        target_width=tensors["decode_task_layer.2.bias"].shape[0],
    )
