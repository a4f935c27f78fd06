"""BLIP's official layouts, one a kind of checkpoint; how one kind becomes another; and sizes from shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from multiway.systems.bert import BertConfig
from multiway.systems.blip_config import (
    RETRIEVAL,
    BLIPConfig,
    CaptionerConfig,
    FeaturesConfig,
    NLVRConfig,
    VQAConfig,
    blip_tokenizer,
    dropping,
    med_config,
)
from multiway.systems.sizes import longer
from multiway.systems.vit import ViTConfig
from multiway.weights.keymap import ROW, SCALAR, TRANSPOSE, Entry, Layout, linear
from multiway.weights.parts import bert, bert_layer, timm_vit, word_head

PREDICTIONS = "text_decoder.cls.predictions."
DECODER_WORDS = (f"{PREDICTIONS}decoder.weight",)


def layout(config: BLIPConfig, *, state: bool = True) -> Layout:
    """Keys of a pre-training checkpoint; without LM, of a retrieval one; without `state`, of `BLIP_ITM`.

    Our names are a system's (`encoders. ...`) and, behind `state.`, its state's.
    """
    entries = linear("itm_head", "itm_head")
    constants = {}
    for ours, mark in (("encoders.", ""), ("state.encoders.", "_m")):
        if mark and not state:
            break
        entries += timm_vit(f"{ours}image_tower.", f"visual_encoder{mark}.", config.image)
        entries += bert(f"{ours}text.", f"text_encoder{mark}.", config.text)
        entries += linear(f"{ours}image_proj", f"vision_proj{mark}")
        entries += linear(f"{ours}text_proj", f"text_proj{mark}")
        constants |= position_ids(f"text_encoder{mark}.", config.text)
    if config.lm_weight:
        entries = [_tied(entry) for entry in entries] + _own_decoder(config.text)
        constants |= position_ids("text_decoder.bert.", config.text)
    if state:
        pointer = "queue_ptr" if config.lm_weight else "ptr_queue"
        entries += [
            Entry("temperature", ("temp",)),
            Entry("state.queue.image", ("image_queue",), TRANSPOSE),
            Entry("state.queue.text", ("text_queue",), TRANSPOSE),
            Entry("state.queue.pointer", (pointer,), SCALAR),
        ]
        if not config.lm_weight:
            entries.append(Entry("state.queue.ids", ("idx_queue",), ROW))
    return Layout(tuple(entries), constants)


def _tied(entry: Entry) -> Entry:
    """The same entry, with the decoder's names of what encoder and decoder share."""
    first = entry.theirs[0]
    if not first.startswith("text_encoder.") or ".attention." in first:
        return entry
    also = tuple(name.replace("text_encoder.", "text_decoder.bert.") for name in entry.theirs)
    return replace(entry, also=also + (DECODER_WORDS if "word_embeddings" in first else ()))


def _own_decoder(text: BertConfig) -> list[Entry]:
    """What a tied decoder has of its own: self-attention and head."""
    entries = word_head("decoder.head.", PREDICTIONS)
    for i in range(text.fusion_layers):
        layer = bert_layer(f"decoder.fusion.{i}.", f"text_decoder.bert.encoder.layer.{i}.", cross=False)
        entries += [e for e in layer if ".attention." in e.ours or ".norm1." in e.ours]
    return entries


def _decoder(text: BertConfig) -> list[Entry]:
    """A decoder that shares nothing."""
    return bert("decoder.", "text_decoder.bert.", text, words_also=DECODER_WORDS) + word_head(
        "decoder.head.", PREDICTIONS
    )


def captioner_layout(config: CaptionerConfig) -> Layout:
    """Keys of `BLIP_Decoder`."""
    entries = timm_vit("image_tower.", "visual_encoder.", config.image) + _decoder(config.text)
    return Layout(tuple(entries), position_ids("text_decoder.bert.", config.text))


def vqa_layout(config: VQAConfig) -> Layout:
    """Keys of `BLIP_VQA`."""
    entries = timm_vit("image_tower.", "visual_encoder.", config.image)
    entries += bert("text.", "text_encoder.", config.text) + _decoder(config.text)
    constants = position_ids("text_encoder.", config.text) | position_ids("text_decoder.bert.", config.text)
    return Layout(tuple(entries), constants)


def features_layout(config: FeaturesConfig) -> Layout:
    """Keys of `BLIP_Base`."""
    entries = timm_vit("image_tower.", "visual_encoder.", config.image)
    entries += bert("text.", "text_encoder.", config.text)
    return Layout(tuple(entries), position_ids("text_encoder.", config.text))


def nlvr_layout(config: NLVRConfig) -> Layout:
    """Keys of `BLIP_NLVR`: `crossattention` has self0 and self1, dense0 and dense1, later a merge_layer."""
    entries = timm_vit("image_tower.", "visual_encoder.", config.image)
    for entry in bert("text.", "text_encoder.", config.text):
        if ".cross." not in entry.ours:
            entries.append(entry)
            continue
        for i, half in enumerate(("first", "second")):
            ours = entry.ours.replace(".cross.", f".cross.{half}.")
            entries.append(replace(entry, ours=ours, theirs=tuple(_twin(name, i) for name in entry.theirs)))
    for i in range(config.merge_from, config.text.fusion_layers):
        cross = f"text_encoder.encoder.layer.{i}.crossattention."
        entries += linear(f"text.fusion.{i}.cross.merge", f"{cross}output.merge_layer")
    for i in (0, 2):
        entries += linear(f"head.{i}", f"cls_head.{i}")
    return Layout(tuple(entries), position_ids("text_encoder.", config.text))


def _twin(key: str, i: int) -> str:
    key = key.replace(".crossattention.self.", f".crossattention.self{i}.")
    return key.replace(".crossattention.output.dense.", f".crossattention.output.dense{i}.")


def nlvr_keys(keys: Iterable[str]) -> dict[str, str]:
    """New key -> key of the pre-training checkpoint, cross-attention doubled (blip_nlvr.py)."""
    return {name: key for key in keys for name in dict.fromkeys(_twin(key, i) for i in (0, 1))}


def position_ids(prefix: str, text: BertConfig) -> dict[str, Tensor]:
    """The buffer that official checkpoints store beside the table of positions."""
    return {f"{prefix}embeddings.position_ids": torch.arange(text.positions)[None]}


BLIPKind = BLIPConfig | CaptionerConfig | VQAConfig | NLVRConfig | FeaturesConfig


def layout_of(config: BLIPKind, keys: Iterable[str]) -> Layout:
    """The official layout of a config's network; of `BLIP_ITM` where the keys hold no temperature."""
    if isinstance(config, BLIPConfig):
        return layout(config, state="temp" in set(keys))
    if isinstance(config, CaptionerConfig):
        return captioner_layout(config)
    if isinstance(config, VQAConfig):
        return vqa_layout(config)
    return nlvr_layout(config) if isinstance(config, NLVRConfig) else features_layout(config)


def config_of(tensors: Mapping[str, Tensor]) -> BLIPKind:
    """Kind and sizes of an official checkpoint, read off its keys and shapes; heads are 64 wide."""
    encoder = any(key.startswith("text_encoder.") for key in tensors)
    sizes: dict[str, Any] = {
        "image": _image(tensors),
        "text": text_config(tensors, "text_encoder." if encoder else "text_decoder.bert."),
    }
    positions = sizes["text"].positions
    if not encoder:
        return CaptionerConfig(**sizes)
    if "text_encoder.encoder.layer.0.crossattention.self0.query.weight" in tensors:
        merged = _numbers(
            tensors, r"text_encoder\.encoder\.layer\.(\d+)\.crossattention\.output\.merge_layer"
        )
        sizes["image"] = dropping(sizes["image"])
        sizes["tokenizer"] = longer(blip_tokenizer(max_words=40), 100, positions)
        return NLVRConfig(**sizes, merge_from=min(merged, default=max(sizes["text"].fusion_layers, 6)))
    decoder = "text_decoder.cls.predictions.bias" in tensors
    if "itm_head.weight" not in tensors and decoder:
        sizes["image"] = dropping(sizes["image"])
    if "itm_head.weight" not in tensors:
        return VQAConfig(**sizes) if decoder else FeaturesConfig(**sizes)
    sizes["embed_dim"] = tensors["vision_proj.weight"].shape[0]
    if "image_queue" in tensors:
        sizes["queue_size"] = tensors["image_queue"].shape[1]
    if decoder:
        return BLIPConfig(**sizes)
    return BLIPConfig(**sizes, tokenizer=longer(blip_tokenizer(), 35, positions), **RETRIEVAL)


def _image(tensors: Mapping[str, Tensor]) -> ViTConfig:
    patch = tensors["visual_encoder.patch_embed.proj.weight"]
    width, rows = patch.shape[0], tensors["visual_encoder.pos_embed"].shape[1] - 1
    return ViTConfig(
        image_size=round(rows**0.5) * patch.shape[-1],
        patch_size=patch.shape[-1],
        width=width,
        depth=1 + max(_numbers(tensors, r"visual_encoder\.blocks\.(\d+)\.")),
        heads=max(width // 64, 1),
        hidden=tensors["visual_encoder.blocks.0.mlp.fc1.bias"].shape[0],
        drop_path=0.1 if width == 1024 else 0.0,  # `create_vit` of models/blip.py
    )


def text_config(tensors: Mapping[str, Tensor], prefix: str) -> BertConfig:
    """The sizes of a text stack under `prefix`, read off its shapes; heads are 64 wide."""
    words = tensors[f"{prefix}embeddings.word_embeddings.weight"]
    return med_config(
        vocab_size=words.shape[0],
        width=words.shape[1],
        fusion_layers=1 + max(_numbers(tensors, rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.")),
        heads=max(words.shape[1] // 64, 1),
        hidden=tensors[f"{prefix}encoder.layer.0.intermediate.dense.bias"].shape[0],
        positions=tensors[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
    )


def _numbers(keys: Iterable[str], pattern: str) -> Sequence[int]:
    return [int(m[1]) for m in (re.match(pattern, key) for key in keys) if m]
