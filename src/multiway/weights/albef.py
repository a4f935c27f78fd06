"""ALBEF's official layouts: pre-training and all fine-tunings; and how one becomes another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from multiway.systems.albef import ALBEFConfig
from multiway.systems.albef_assignment import AssignmentConfig
from multiway.systems.albef_heads import LABELS, EntailmentConfig
from multiway.systems.albef_nlvr import NLVRConfig
from multiway.systems.albef_vqa import VQAConfig
from multiway.systems.bert import BertConfig
from multiway.systems.sizes import longer
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig
from multiway.weights.keymap import ROW, SCALAR, TRANSPOSE, Entry, Layout, linear
from multiway.weights.parts import bert, timm_vit, word_head


def layout(config: ALBEFConfig) -> Layout:
    """Keys of a pre-training checkpoint; without MLM, of a retrieval one (no `bert.`, ids in the queue).

    Our names are a system's (`encoders. ...`) and, behind `state.`, its state's.
    """
    entries = [Entry("temperature", ("temp",)), *linear("itm_head", "itm_head")]
    constants = {}
    infix = "bert." if config.mlm_weight else ""
    for ours, mark in (("encoders.", ""), ("state.encoders.", "_m")):
        text = f"text_encoder{mark}."
        tied = (f"{text}cls.predictions.decoder.weight",) if config.mlm_weight else ()
        entries += timm_vit(f"{ours}image_tower.", f"visual_encoder{mark}.", config.image)
        entries += bert(f"{ours}text.", f"{text}{infix}", config.text, words_also=tied)
        entries += linear(f"{ours}image_proj", f"vision_proj{mark}") + linear(
            f"{ours}text_proj", f"text_proj{mark}"
        )
        if config.mlm_weight:
            entries += word_head(f"{ours}mlm_head.", f"{text}cls.predictions.")
        constants[f"{text}{infix}embeddings.position_ids"] = torch.arange(config.text.positions)[None]
    entries += [
        Entry("state.queue.image", ("image_queue",), TRANSPOSE),
        Entry("state.queue.text", ("text_queue",), TRANSPOSE),
        Entry("state.queue.pointer", ("queue_ptr",), SCALAR),
    ]
    if not config.mlm_weight:
        entries.append(Entry("state.queue.ids", ("idx_queue",), ROW))
    return Layout(tuple(entries), constants)


def vqa_layout(config: VQAConfig) -> Layout:
    """Keys of `AnswerModel` in a VQA checkpoint, and behind `state.` of its teacher."""
    entries, constants = [], {}
    decoder = replace(config.text, layers=0, fusion_layers=config.decoder_layers)
    for ours, mark in (("network.", ""), ("state.network.", "_m")):
        answer, predictions = f"text_decoder{mark}.bert.", f"text_decoder{mark}.cls.predictions."
        entries += _reader(ours, mark, config)
        entries += bert(f"{ours}decoder.", answer, decoder, words_also=(f"{predictions}decoder.weight",))
        entries += word_head(f"{ours}decoder.head.", predictions)
        for prefix in (f"text_encoder{mark}.", answer):
            constants |= _position_ids(prefix, config.text)
    return Layout(tuple(entries), constants)


def entailment_layout(config: EntailmentConfig) -> Layout:
    """Keys of `EntailmentModel` in a checkpoint of visual entailment, and behind `state.` of its teacher."""
    return _with_cls_head(config, _reader)


def nlvr_layout(config: NLVRConfig) -> Layout:
    """Keys of `PairModel` in an NLVR2 checkpoint, and behind `state.` of its teacher."""
    return _with_cls_head(config, _pair_encoder)


def assignment_layout(config: AssignmentConfig) -> Layout:
    """Keys of `TextAssignment` in a checkpoint of NLVR2's pre-training."""
    entries = [
        Entry("temperature", ("temp",)),
        *_pair_encoder("network.", "", config),
        *linear("network.head", "ta_head"),
        *linear("image_proj", "vision_proj"),
        *linear("text_proj", "text_proj"),
    ]
    return Layout(tuple(entries), _position_ids("text_encoder.", config.text))


def _with_cls_head(config: Any, reader: Callable[[str, str, Any], list[Entry]]) -> Layout:
    """A reader with a head of two layers, and the same of its teacher."""
    entries, constants = [], {}
    for ours, mark in (("network.", ""), ("state.network.", "_m")):
        entries += reader(ours, mark, config)
        for i in (0, 2):
            entries += linear(f"{ours}head.{i}", f"cls_head{mark}.{i}")
        constants |= _position_ids(f"text_encoder{mark}.", config.text)
    return Layout(tuple(entries), constants)


def _reader(ours: str, mark: str, config: VQAConfig | EntailmentConfig) -> list[Entry]:
    """An image tower and a text stack."""
    return [
        *timm_vit(f"{ours}image_tower.", f"visual_encoder{mark}.", config.image),
        *bert(f"{ours}text.", f"text_encoder{mark}.", config.text),
    ]


def _pair_encoder(ours: str, mark: str, config: NLVRConfig | AssignmentConfig) -> list[Entry]:
    """A text stack whose fusion layers share keys and values by two, and the image tower."""
    entries = timm_vit(f"{ours}image_tower.", f"visual_encoder{mark}.", config.image)
    layers = config.text.layers
    for entry in bert(f"{ours}text.", f"text_encoder{mark}.", config.text):
        shared = re.search(r"\.fusion\.(\d+)\.cross\.key_value", entry.ours)
        if shared is None:
            entries.append(entry)
        elif int(shared[1]) % 2 == 0:
            own, next_ = (f".layer.{layers + int(shared[1]) + i}." for i in (0, 1))
            also = tuple(name.replace(own, next_) for name in entry.theirs)
            entries.append(replace(entry, also=also))
    return entries


def _position_ids(prefix: str, text: BertConfig) -> dict[str, Tensor]:
    """The buffer that official checkpoints store beside the table of positions."""
    return {f"{prefix}embeddings.position_ids": torch.arange(text.positions)[None]}


def retrieval_keys(keys: Iterable[str]) -> dict[str, str]:
    """New key -> key of the pre-training checkpoint, as Retrieval.py and Grounding.py rename them."""
    return {key.replace("bert.", ""): key for key in keys}


def vqa_keys(keys: Iterable[str], fusion_layer: int) -> dict[str, str]:
    """As `retrieval_keys`; the decoder starts from the fusion layers, embeddings and MLM head (VQA.py)."""
    renamed = {}
    for key in keys:
        if "text_encoder" not in key:
            renamed[key] = key
            continue
        if "bert." in key:  # the MLM head goes to the decoder alone
            renamed[key.replace("bert.", "")] = key
        layer = re.search(r"\.layer\.(\d+)\.", key)
        if layer is not None:
            index = int(layer[1]) - fusion_layer
            if index < 0:
                continue
            renamed[key.replace("text_encoder", "text_decoder").replace(layer[0], f".layer.{index}.")] = key
        else:
            renamed[key.replace("text_encoder", "text_decoder")] = key
    return renamed


def assignment_keys(keys: Iterable[str], fusion_layer: int) -> dict[str, str]:
    """As `retrieval_keys`, with every fusion layer doubled (Pretrain_nlvr.py)."""
    renamed = {}
    for new, key in retrieval_keys(keys).items():
        layer = re.search(r"\.layer\.(\d+)\.", new)
        if layer is None or int(layer[1]) < fusion_layer:
            renamed[new] = key
            continue
        first = (int(layer[1]) - fusion_layer) * 2 + fusion_layer
        for index in (first, first + 1):
            renamed[new.replace(layer[0], f".layer.{index}.")] = key
    return renamed


def recognised(tensors: Mapping[str, Tensor]) -> tuple[Any, Layout] | None:
    """Config and layout of a checkpoint of pre-training or of any fine-tuning; None of another one."""
    if "ta_head.weight" in tensors:
        image, text = _sizes(tensors, "text_encoder.")
        embed_dim = tensors["vision_proj.weight"].shape[0]
        config = AssignmentConfig(image=image, text=text, embed_dim=embed_dim)
        return config, assignment_layout(config)
    if "text_decoder.cls.predictions.bias" in tensors:
        image, text = _sizes(tensors, "text_encoder.")
        layers = len(_layers(tensors, "text_decoder.bert."))
        config = VQAConfig(image=image, text=text, decoder_layers=layers)
        return config, vqa_layout(config)
    if "cls_head.2.weight" in tensors:
        image, text = _sizes(tensors, "text_encoder.")
        words = longer(TokenizerConfig(), 60, text.positions)
        if len(tensors["cls_head.2.weight"]) == len(LABELS):
            config = EntailmentConfig(image=image, text=text, tokenizer=words)
            return config, entailment_layout(config)
        config = NLVRConfig(image=image, text=text, tokenizer=words)
        return config, nlvr_layout(config)
    if "temp" in tensors:
        config = config_of(tensors)
        return config, layout(config)
    return None


def config_of(tensors: Mapping[str, Tensor], *, patch_size: int | None = None) -> ALBEFConfig:
    """The sizes of an official checkpoint, read off its shapes; heads are 64 wide, as in all of them."""
    pretrain = "text_encoder.cls.predictions.bias" in tensors
    image, text = _sizes(tensors, "text_encoder.bert." if pretrain else "text_encoder.", patch_size)
    return ALBEFConfig(
        image=image,
        text=text,
        embed_dim=tensors["vision_proj.weight"].shape[0],
        queue_size=tensors["image_queue"].shape[1] if "image_queue" in tensors else 65536,
        mlm_weight=1.0 if pretrain else 0.0,
        positives="pair" if pretrain else "ids",
        temperature_range=(0.001, 0.5) if pretrain else None,
        tokenizer=longer(TokenizerConfig(), 25 if pretrain else 30, text.positions),
    )


def _sizes(
    tensors: Mapping[str, Tensor], prefix: str, patch_size: int | None = None
) -> tuple[ViTConfig, BertConfig]:
    """Of the image tower, and of the text stack whose names begin with `prefix`."""
    patch = tensors["visual_encoder.patch_embed.proj.weight"]
    width, size = patch.shape[0], patch_size or patch.shape[-1]
    rows = tensors["visual_encoder.pos_embed"].shape[1] - 1
    words = tensors[f"{prefix}embeddings.word_embeddings.weight"]
    layers = _layers(tensors, prefix)
    fusion = {i for i in layers if f"{prefix}encoder.layer.{i}.crossattention.self.query.weight" in tensors}
    image = ViTConfig(
        image_size=round(rows**0.5) * size,
        patch_size=size,
        width=width,
        depth=1 + max(int(k.split(".")[2]) for k in tensors if k.startswith("visual_encoder.blocks.")),
        heads=max(width // 64, 1),
        hidden=tensors["visual_encoder.blocks.0.mlp.fc1.bias"].shape[0],
    )
    text = BertConfig(
        vocab_size=words.shape[0],
        width=words.shape[1],
        layers=len(layers - fusion),
        fusion_layers=len(fusion),
        heads=max(words.shape[1] // 64, 1),
        hidden=tensors[f"{prefix}encoder.layer.0.intermediate.dense.bias"].shape[0],
        positions=tensors[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
        types=tensors[f"{prefix}embeddings.token_type_embeddings.weight"].shape[0],
    )
    return image, text


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> set[int]:
    """Numbers of a BERT's layers whose names begin with `prefix`."""
    found = (re.match(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.", key) for key in tensors)
    return {int(match[1]) for match in found if match}
