"""transformers' ViLT, to and from ours: masked words, retrieval, questions, two pictures.

`ViltForMaskedLM` ties the decoder of words to the word embeddings, which the official code does not. Ours are
two matrices: a tied file fills both, and what we write says `tie_word_embeddings: false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
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
from multiway.weights.hf_blip import words_of
from multiway.weights.keymap import Entry, Layout, linear, pairs, to_ours, to_theirs
from multiway.weights.parts import hf_vit_block, word_embeddings
from multiway.weights.strict import load_theirs, same_network

#: What a config.json that leaves a value out means by that (`ViltConfig`).
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "type_vocab_size": 2,
    "modality_type_vocab_size": 2,
    "max_position_embeddings": 40,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 384,
    "patch_size": 32,
    "num_channels": 3,
    "qkv_bias": True,
}
CLASSES: dict[type[OneTowerConfig], str] = {
    ViLTConfig: "ViltForMaskedLM",
    RetrievalConfig: "ViltForImageAndTextRetrieval",
    AnswerConfig: "ViltForQuestionAnswering",
    ReasoningConfig: "ViltForImagesAndTextClassification",
}
DECODER, WORDS = "mlm_score.decoder.weight", "vilt.embeddings.text_embeddings.word_embeddings.weight"


def layout(config: OneTowerConfig) -> Layout:
    """Keys of the class that the config's network has there; of a ViLT, without ITM's head."""
    embeddings = "vilt.embeddings."
    entries = [
        *word_embeddings("text_embed.", f"{embeddings}text_embeddings."),
        Entry("types.weight", (f"{embeddings}token_type_embeddings.weight",)),
        Entry("image_tower.cls_token", (f"{embeddings}cls_token",)),
        Entry("image_tower.positions", (f"{embeddings}position_embeddings",)),
        *linear("image_tower.patches.proj", f"{embeddings}patch_embeddings.projection"),
        *linear("image_tower.norm", "vilt.layernorm"),
        *linear("pooler", "vilt.pooler.dense"),
    ]
    for i in range(config.image.depth):
        entries += hf_vit_block(f"image_tower.blocks.{i}.", f"vilt.encoder.layer.{i}.")
    if isinstance(config, ViLTConfig):
        entries += [
            *linear("mlm_head.dense", "mlm_score.transform.dense"),
            *linear("mlm_head.norm", "mlm_score.transform.LayerNorm"),
            Entry("mlm_head.bias", ("mlm_score.decoder.bias",)),
            Entry("mlm_decoder.weight", (DECODER,)),
        ]
    elif isinstance(config, RetrievalConfig):
        entries += linear("rank_head", "rank_output")
    else:
        entries += pairs("classifier.", "classifier.", [(i, i) for i in ("0", "1", "3")])
    return Layout(tuple(entries))


def config_of(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> OneTowerConfig:
    """Our config of a `ViltConfig`.

    Raises:
        UserError: the network has no counterpart here.
    """
    values = DEFAULTS | dict(values)
    head = tensors.get("classifier.3.bias")
    known = head is not None or "rank_output.bias" in tensors or "mlm_score.transform.dense.bias" in tensors
    square = isinstance(values["image_size"], int) and isinstance(values["patch_size"], int)
    if not known or values["hidden_act"] != "gelu" or not values["qkv_bias"] or not square:
        raise UserError(
            f"of transformers' ViLT these are known here: {', '.join(CLASSES.values())}, with GELU and "
            "biases, and one number for image_size and for patch_size"
        )
    # what a head reads: of two pictures (NLVR2) twice as much as of one
    pictures = 1 if head is None else tensors["classifier.0.weight"].shape[1] // values["hidden_size"]
    if head is not None and (pictures > 2 or (pictures == 2 and len(head) != 2)):
        raise UserError(
            "of transformers' ViLT for several pictures those for 2 and for 2 classes are known here, not "
            f"for {pictures} and {len(head)}"
        )
    eps, dropout = values["layer_norm_eps"], values["hidden_dropout_prob"]
    longest, side = values["max_position_embeddings"], values["image_size"]
    sizes: dict[str, Any] = {
        "image": vilt_vit(
            image_size=side,
            patch_size=values["patch_size"],
            channels=values["num_channels"],
            width=values["hidden_size"],
            depth=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            hidden=values["intermediate_size"],
            eps=eps,
            dropout=dropout,
        ),
        "text": TextConfig(
            vocab_size=values["vocab_size"],
            positions=longest,
            types=values["type_vocab_size"],
            eps=eps,
            dropout=dropout,
        ),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=longest),
        "longest_side": int(1333 / 800 * side),
        "types": values["modality_type_vocab_size"],
    }
    if head is not None and pictures == 2:
        return ReasoningConfig(**sizes)
    if head is not None:
        names = values.get("id2label") or {}
        return AnswerConfig(labels=tuple(names.get(str(i), str(i)) for i in range(len(head))), **sizes)
    if "rank_output.bias" in tensors:
        return RetrievalConfig(**sizes)
    return ViLTConfig(itm_weight=0.0, wpa_weight=0.0, **sizes)


def from_transformers(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, vocab: Path | None = None, **looks: Any
) -> System:
    """A model of ours with transformers' weights, and its tokenizer.

    Args:
        values: its config.json. vocab: its vocab.txt or tokenizer.json; None: BERT's.
        looks: of its pictures, from `hf_pictures.read`.

    Raises:
        UserError: a tensor is missing, or the network has no counterpart here.
    """
    config: Any = config_of(values, tensors)
    config = replace(config, image=replace(config.image, **looks))
    model: System = NETWORKS[config.system].network()(config)
    if WORDS in tensors:  # a tied decoder is not in the file
        tensors = {DECODER: tensors[WORDS], **tensors}
    ours, missing, _ = to_ours(layout(config), tensors)
    if missing:
        raise UserError(f"these weights of transformers' ViLT lack {len(missing)}, the first {missing[0]}")
    load_theirs(model, ours, "transformers' ViLT")
    model.tokenizer = words_of(config.tokenizer, vocab, config.text.vocab_size)
    return model.eval()


def to_transformers(model: System) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a model of ours under transformers' names, and its config.json.

    There is one eps of all norms there: the blocks' is written.

    Raises:
        UserError: a ViLT without a head for words, which no class there holds.
    """
    config = model.config
    if isinstance(config, ViLTConfig) and not config.mlm_weight:
        raise UserError("transformers has no class for a ViLT without MLM: fine-tune it, or save a folder")
    image, text = config.image, config.text
    values: dict[str, Any] = {
        "architectures": [CLASSES[type(config)]],
        "model_type": "vilt",
        "vocab_size": text.vocab_size,
        "type_vocab_size": text.types,
        "modality_type_vocab_size": config.types,
        "max_position_embeddings": text.positions,
        "hidden_size": image.width,
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.heads,
        "intermediate_size": image.hidden,
        "hidden_dropout_prob": image.dropout,
        "layer_norm_eps": image.eps,
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "num_channels": image.channels,
        "max_image_length": -1,
        "tie_word_embeddings": False,
    }
    if isinstance(config, AnswerConfig | ReasoningConfig):
        names = config.labels if isinstance(config, AnswerConfig) else ("False", "True")
        values |= {"id2label": {str(i): name for i, name in enumerate(names)}}
        values |= {"label2id": {name: i for i, name in enumerate(names)}}
        values |= {"num_images": 2} if isinstance(config, ReasoningConfig) else {}
    tensors = to_theirs(layout(config), model.state_dict())
    same_network(config, config_of(values, tensors), "transformers' ViLT", but=("text.eps",))
    return tensors, values
