"""Entries of the parts that several published layouts share: timm's ViT and BERT's layers."""

from __future__ import annotations

from typing import Any

from multiway.errors import UserError
from multiway.systems.bert import BertConfig
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import ViTConfig
from multiway.weights.keymap import Entry, linear, pairs


def the_vit(config: ViTConfig | BackboneConfig) -> ViTConfig:
    """The config of a ViT tower, for layouts that know no other.

    Raises:
        UserError: the tower is another one.
    """
    if not isinstance(config, ViTConfig):
        raise UserError(
            f"this layout holds a ViT, and the model's image tower is {config.name}: use a model folder "
            "(multiway.save) instead"
        )
    return config


def refuse_untold(name: str, config: Any, *, heads: int) -> None:
    """Refuse to write an official file from which the sizes could not be told again.

    Args:
        heads: how many it would be read with.

    Raises:
        UserError: the model has another number of heads.
    """
    if config.heads != heads:
        raise UserError(
            f"an official file of this {name} is read with {heads} heads at width {config.width}, and this "
            f"model has {config.heads}: save a model folder instead"
        )


def timm_vit(ours: str, theirs: str, image: ViTConfig | BackboneConfig) -> list[Entry]:
    """ViT of timm, DeiT, ALBEF, BLIP: `blocks.i.attn.qkv`, `mlp.fc1`, pre-norm."""
    config = the_vit(image)
    entries = [
        Entry(f"{ours}cls_token", (f"{theirs}cls_token",)),
        Entry(f"{ours}positions", (f"{theirs}pos_embed",)),
        *linear(f"{ours}patches.proj", f"{theirs}patch_embed.proj"),
        *linear(f"{ours}norm", f"{theirs}norm"),
    ]
    for i in range(config.depth):
        names = [
            ("norm1", "norm1"),
            ("norm2.all", "norm2"),
            ("attention.qkv", "attn.qkv"),
            ("attention.out", "attn.proj"),
            ("ffn.all.fc1", "mlp.fc1"),
            ("ffn.all.fc2", "mlp.fc2"),
        ]
        entries += pairs(f"{ours}blocks.{i}.", f"{theirs}blocks.{i}.", names)
    return entries


def bert_layer(ours: str, theirs: str, *, cross: bool) -> list[Entry]:
    """One layer of BERT, with `crossattention` where it has one."""
    entries = linear(
        f"{ours}attention.qkv", [f"{theirs}attention.self.{part}" for part in ("query", "key", "value")]
    )
    names = [
        ("attention.out", "attention.output.dense"),
        ("norm1", "attention.output.LayerNorm"),
        ("ffn.all.fc1", "intermediate.dense"),
        ("ffn.all.fc2", "output.dense"),
        ("norm2.all", "output.LayerNorm"),
    ]
    if cross:
        entries += linear(
            f"{ours}cross.key_value", [f"{theirs}crossattention.self.{p}" for p in ("key", "value")]
        )
        names += [
            ("cross.query", "crossattention.self.query"),
            ("cross.out", "crossattention.output.dense"),
            ("norm_cross", "crossattention.output.LayerNorm"),
        ]
    return entries + pairs(ours, theirs, names)


def bert(ours: str, theirs: str, config: BertConfig, *, words_also: tuple[str, ...] = ()) -> list[Entry]:
    """Embeddings, text layers, and fusion layers after them, numbered through as in one BERT.

    `words_also`: further names of the word table, where a head is tied to it.
    """
    entries = [
        Entry(f"{ours}embed.words.weight", (f"{theirs}embeddings.word_embeddings.weight",), also=words_also),
        Entry(f"{ours}embed.positions.weight", (f"{theirs}embeddings.position_embeddings.weight",)),
        *linear(f"{ours}embed.norm", f"{theirs}embeddings.LayerNorm"),
    ]
    if config.types:
        entries.append(
            Entry(f"{ours}embed.types.weight", (f"{theirs}embeddings.token_type_embeddings.weight",))
        )
    for i in range(config.layers):
        entries += bert_layer(f"{ours}text.{i}.", f"{theirs}encoder.layer.{i}.", cross=False)
    for i in range(config.fusion_layers):
        entries += bert_layer(f"{ours}fusion.{i}.", f"{theirs}encoder.layer.{config.layers + i}.", cross=True)
    return entries


def word_head(ours: str, theirs: str) -> list[Entry]:
    """BERT's `cls.predictions`, whose decoder bias is stored under two names."""
    return [
        *linear(f"{ours}dense", f"{theirs}transform.dense"),
        *linear(f"{ours}norm", f"{theirs}transform.LayerNorm"),
        Entry(f"{ours}bias", (f"{theirs}bias",), also=(f"{theirs}decoder.bias",)),
    ]


def word_embeddings(ours: str, theirs: str) -> list[Entry]:
    """BERT's word embeddings alone."""
    tables = (
        ("words", "word_embeddings"),
        ("positions", "position_embeddings"),
        ("types", "token_type_embeddings"),
    )
    entries = [Entry(f"{ours}{a}.weight", (f"{theirs}{b}.weight",)) for a, b in tables]
    return entries + linear(f"{ours}norm", f"{theirs}LayerNorm")


def untied_word_head() -> list[Entry]:
    """The head for words of ViLT and VLMo, whose decoder is a matrix of its own."""
    return [
        *linear("mlm_head.dense", "mlm_score.transform.dense"),
        *linear("mlm_head.norm", "mlm_score.transform.LayerNorm"),
        Entry("mlm_head.bias", ("mlm_score.bias",)),
        Entry("mlm_decoder.weight", ("mlm_score.decoder.weight",)),
    ]


def hf_vit_block(ours: str, theirs: str) -> list[Entry]:
    """A block of transformers' ViT, MAE and ViLT."""
    names = [
        ("norm1", "layernorm_before"),
        ("norm2.all", "layernorm_after"),
        ("attention.out", "attention.output.dense"),
        ("ffn.all.fc1", "intermediate.dense"),
        ("ffn.all.fc2", "output.dense"),
    ]
    stacked = [f"{theirs}attention.attention.{part}" for part in ("query", "key", "value")]
    return [*pairs(ours, theirs, names), *linear(f"{ours}attention.qkv", stacked)]
