"""BEiT-3's official layouts: one backbone, and the heads of its fine-tunings; A is a picture's, B a text's.

The published pre-training files hold a head for words and one for visual tokens besides; the official name of
the latter is not known, ours is `mim_head`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.beit3_config import (
    UNUSED,
    BEiT3Config,
    CaptionerConfig,
    ClassifierConfig,
    NetworkConfig,
    NLVR2Config,
    RetrievalConfig,
    TextConfig,
    VQAConfig,
    beit3_tokenizer,
)
from multiway.systems.patches import ImageConfig
from multiway.weights.keymap import Entry, Layout, linear
from multiway.weights.parts import refuse_untold

LETTERS = {"image": "A", "text": "B"}

#: The layout of a head: (ours, theirs) of its linear maps and norms.
HEADS: dict[type, tuple[tuple[str, str], ...]] = {
    BEiT3Config: (("mlm_head", "mlm_head"), ("mim_head", "mim_head")),
    CaptionerConfig: (("mlm_head", "mlm_head"),),
    VQAConfig: (
        ("pooler.norm", "pooler.norm"),
        ("pooler.dense", "pooler.dense"),
        *((f"head.{i}", f"head.{i}") for i in (0, 1, 3)),
    ),
    NLVR2Config: tuple((f"head.{n}", f"head.{n}") for n in ("norm1", "dense1", "norm2", "dense2")),
    ClassifierConfig: (("fc_norm", "fc_norm"), ("head", "head")),
}
#: These have norms of their own in place of the backbone's last one.
WITHOUT_LAST_NORM = (VQAConfig, ClassifierConfig)


def layout(config: NetworkConfig) -> Layout:
    """Keys of a checkpoint of `config`'s network.

    Raises:
        UserError: it has the paper's form, of which nothing was published.
    """
    if config.form != "release":
        raise UserError(
            'no checkpoint of BEiT-3 was published in the form "paper": save a model folder instead'
        )
    entries = backbone(config, last_norm=not isinstance(config, WITHOUT_LAST_NORM))
    if isinstance(config, RetrievalConfig):
        entries.insert(0, Entry("logit_scale", ("logit_scale",)))
        entries += [
            Entry(f"{ours}.weight", (f"{theirs}.weight",))
            for ours, theirs in (("image_head", "vision_head"), ("text_head", "language_head"))
        ]
    else:
        entries += [e for names in HEADS.get(type(config), ()) for e in linear(*names)]
    return Layout(tuple(entries))


def written(config: NetworkConfig) -> Layout:
    """`layout` of a file from which `config_of` tells the sizes again.

    Raises:
        UserError: as `layout`; or the heads are not 64 wide, which no tensor would tell; or pictures are not
            square.
    """
    refuse_untold("BEiT-3", config, heads=_heads(config.width))
    return layout(config)


def _heads(width: int) -> int:
    """How many there are, as in both released models."""
    return max(width // 64, 1)


def backbone(config: NetworkConfig, *, last_norm: bool) -> list[Entry]:
    """Entries of `beit3.*`."""
    ours, theirs = "network.", "beit3."
    encoder = f"{theirs}encoder."
    entries = [
        Entry(f"{ours}words.weight", (f"{theirs}text_embed.weight",)),
        *(Entry(f"{ours}{name}", (f"{theirs}vision_embed.{name}",)) for name in ("cls_token", "mask_token")),
        *linear(f"{ours}patches.proj", f"{theirs}vision_embed.proj"),
        Entry(f"{ours}image_positions", (f"{encoder}embed_positions.A.weight",)),
        Entry(f"{ours}text_positions", (f"{encoder}embed_positions.B.weight",)),
    ]
    for i in range(config.depth):
        for expert, letter in LETTERS.items():
            entries += _layer(f"{ours}blocks.{i}.", f"{encoder}layers.{i}.", expert, letter)
    if last_norm:
        for expert, letter in LETTERS.items():
            entries += linear(f"{ours}norm.{expert}", f"{encoder}layer_norm.{letter}")
    return entries


def _layer(ours: str, theirs: str, expert: str, letter: str) -> list[Entry]:
    attention, ffn = f"{theirs}self_attn.", f"{theirs}ffn.{letter}."
    names: list[tuple[str, str | list[str]]] = [
        (f"attention.qkv.{expert}", [f"{attention}{part}_proj.{letter}" for part in ("q", "k", "v")]),
        (f"norm1.{expert}", f"{theirs}self_attn_layer_norm.{letter}"),
        (f"attention.norm.{expert}", f"{attention}inner_attn_ln.{letter}"),
        (f"attention.out.{expert}", f"{attention}out_proj.{letter}"),
        (f"norm2.{expert}", f"{theirs}final_layer_norm.{letter}"),
        (f"ffn.{expert}.fc1", f"{ffn}fc1"),
        (f"ffn.{expert}.norm", f"{ffn}ffn_layernorm"),
        (f"ffn.{expert}.fc2", f"{ffn}fc2"),
    ]
    return [entry for a, b in names for entry in linear(f"{ours}{a}", b)]


def is_beit3(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is one of BEiT-3's."""
    return "beit3.text_embed.weight" in tensors


def config_of(
    tensors: Mapping[str, Tensor], *, heads: int | None = None, vocab: Path | str = "beit3.spm"
) -> Any:
    """Task and sizes of an official checkpoint, read off its keys and shapes.

    Args:
        heads: how many; None: one for 64 of the width, as in both released models.
        vocab: the file of its tokenizer.

    Raises:
        UserError: its table of positions is not of square pictures.
    """
    encoder = "beit3.encoder."
    patch = tensors["beit3.vision_embed.proj.weight"]
    width, size = patch.shape[0], patch.shape[-1]
    rows = tensors[f"{encoder}embed_positions.A.weight"].shape[0] - UNUSED - 1
    positions = tensors[f"{encoder}embed_positions.B.weight"].shape[0]
    layers = [m for m in (re.match(r"beit3\.encoder\.layers\.(\d+)\.", key) for key in tensors) if m]
    if round(rows**0.5) ** 2 != rows:
        raise UserError(
            f"this BEiT-3's table of positions is for {rows} patches, which are no square picture: take "
            "the model folder that it was made from"
        )
    sizes: dict[str, Any] = {
        "image": ImageConfig(image_size=round(rows**0.5) * size, patch_size=size),
        "text": TextConfig(vocab_size=tensors["beit3.text_embed.weight"].shape[0], positions=positions),
        "tokenizer": beit3_tokenizer(max_length=min(64, positions - UNUSED), vocab=str(vocab)),
        "width": width,
        "depth": 1 + max(int(m[1]) for m in layers),
        "heads": heads or _heads(width),
        "hidden": tensors[f"{encoder}layers.0.ffn.A.fc1.weight"].shape[0],
    }
    if "vision_head.weight" in tensors:
        return RetrievalConfig(**sizes)
    if "pooler.dense.weight" in tensors:
        return VQAConfig(**sizes, classes=tensors["head.3.weight"].shape[0])
    if "head.dense1.weight" in tensors:
        return NLVR2Config(**sizes, classes=tensors["head.dense2.weight"].shape[0])
    if "fc_norm.weight" in tensors:
        return ClassifierConfig(**sizes, classes=tensors["head.weight"].shape[0])
    if "mlm_head.weight" in tensors and "mim_head.weight" not in tensors:
        return CaptionerConfig(**sizes)
    codes = tensors["mim_head.weight"].shape[0] if "mim_head.weight" in tensors else BEiT3Config.codes
    return BEiT3Config(**sizes, codes=codes)
