"""FLIP's official layout: the tree of a flax model, its names joined with `/`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from multiway.systems.clip import CLIPTextConfig
from multiway.systems.flip import FLIPConfig, flip_text, flip_tokenizer, flip_vit
from multiway.weights import clip
from multiway.weights.keymap import ROW, SCALAR, STACK, TRANSPOSE, Entry, Layout, Op
from multiway.weights.parts import the_vit

#: flax keeps linear maps as (in, out), and a convolution as (height, width, in, out).
STACK_T = Op(lambda t: torch.cat([x.T for x in t]), lambda t, n: [x.T for x in t.chunk(n)])
CONV = Op(lambda t: t[0].permute(3, 2, 0, 1), lambda t, n: [t.permute(2, 3, 1, 0)])


def layout(config: FLIPConfig) -> Layout:
    """The parameters of `models_flip.FLIP`; with CLIP's own towers, open_clip's layout."""
    image = the_vit(config.image)
    if image.clip_stem:
        return clip.open_clip_layout(config)
    entries = [
        Entry("logit_scale", ("logit_scale",), SCALAR),
        Entry("image_tower.cls_token", ("img_encoder/cls",)),
        Entry("image_tower.positions", ("img_encoder/posembed_encoder/pos_embedding",)),
        Entry("image_tower.patches.proj.weight", ("img_encoder/embedding/kernel",), CONV),
        Entry("image_tower.patches.proj.bias", ("img_encoder/embedding/bias",)),
        *_norm("image_tower.norm", "img_encoder/Transformer/encoder_norm"),
        Entry("image_proj.weight", ("img_mlp1/kernel",), TRANSPOSE),
        Entry("text.words.weight", ("txt_encoder/token_embedding/embedding",)),
        Entry("text.positions", ("txt_encoder/posembed_encoder/pos_embedding",), ROW),
        *_norm("text.norm", "txt_encoder/Transformer/encoder_norm"),
        Entry("text_proj.weight", ("txt_mlp1/kernel",), TRANSPOSE),
    ]
    for ours, theirs, depth in (
        ("image_tower.blocks", "img_encoder", image.depth),
        ("text.blocks", "txt_encoder", config.text.layers),
    ):
        for i in range(depth):
            entries += _block(f"{ours}.{i}.", f"{theirs}/Transformer/encoderblock_{i:02d}/")
    return Layout(tuple(entries))


def _block(ours: str, theirs: str) -> list[Entry]:
    attention = f"{theirs}MultiHeadDotProductAttention_0/"
    entries = [
        *_norm(f"{ours}norm1", f"{theirs}LayerNorm_0"),
        *_norm(f"{ours}norm2.all", f"{theirs}LayerNorm_1"),
    ]
    for part, kernel, op in (("weight", "kernel", STACK_T), ("bias", "bias", STACK)):
        names = tuple(f"{attention}{name}/{kernel}" for name in ("query", "key", "value"))
        entries.append(Entry(f"{ours}attention.qkv.{part}", names, op))
    for name, inner in (
        ("attention.out", f"{attention}out"),
        ("ffn.all.fc1", f"{theirs}MlpBlock_0/Dense_0"),
        ("ffn.all.fc2", f"{theirs}MlpBlock_0/Dense_1"),
    ):
        entries.append(Entry(f"{ours}{name}.weight", (f"{inner}/kernel",), TRANSPOSE))
        entries.append(Entry(f"{ours}{name}.bias", (f"{inner}/bias",)))
    return entries


def _norm(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}.weight", (f"{theirs}/scale",)), Entry(f"{ours}.bias", (f"{theirs}/bias",))]


def is_flip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are of the official FLIP."""
    return "img_encoder/embedding/kernel" in tensors


def config_of(tensors: Mapping[str, Tensor]) -> FLIPConfig:
    """The sizes of a checkpoint, read off its shapes; heads are 64 wide. It is tuned on, without removal."""
    patch = tensors["img_encoder/embedding/kernel"]
    size, width = patch.shape[0], patch.shape[-1]
    positions, text_width = tensors["txt_encoder/posembed_encoder/pos_embedding"].shape[1:]
    rows = tensors["img_encoder/posembed_encoder/pos_embedding"].shape[1] - 1

    def hidden(tower: str) -> int:
        return len(tensors[f"{tower}/Transformer/encoderblock_00/MlpBlock_0/Dense_0/bias"])

    def depth(tower: str) -> int:
        found = (re.match(rf"{tower}/Transformer/encoderblock_(\d+)/", key) for key in tensors)
        return 1 + max(int(match[1]) for match in found if match)

    text: CLIPTextConfig = flip_text(
        vocab_size=len(tensors["txt_encoder/token_embedding/embedding"]),
        width=text_width,
        layers=depth("txt_encoder"),
        heads=max(text_width // 64, 1),
        hidden=hidden("txt_encoder"),
        positions=positions,
    )
    image = flip_vit(
        image_size=size * round(rows**0.5),
        patch_size=size,
        width=width,
        depth=depth("img_encoder"),
        heads=max(width // 64, 1),
        hidden=hidden("img_encoder"),
    )
    return FLIPConfig(
        image=image,
        text=text,
        tokenizer=flip_tokenizer(positions),
        embed_dim=tensors["img_mlp1/kernel"].shape[1],
        drop=0.0,
    )
