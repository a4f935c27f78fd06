"""BLIP as transformers has it: for conditional generation, question answering, image-text retrieval.

The text stacks have the official names; the image tower has names of its own. `BlipModel` is not read: its
projections are no part of BLIP, and no weights of it were published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.blip import BLIP
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, VQAConfig, med_config
from multiway.systems.blip_heads import AnswerModel, Captioner
from multiway.systems.vit import ViTConfig
from multiway.text import Tokenizer, TokenizerConfig, wordpiece
from multiway.weights import blip
from multiway.weights.keymap import Entry, Layout, linear, pairs, to_ours, to_theirs
from multiway.weights.parts import the_vit
from multiway.weights.strict import load_theirs, same_network, square

#: transformers' own defaults, where a config.json leaves a field out.
TEXT: dict[str, Any] = {"num_attention_heads": 8, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0}
VISION: dict[str, Any] = {"num_attention_heads": 12, "layer_norm_eps": 1e-5, "image_size": 384}

Kind = BLIPConfig | CaptionerConfig | VQAConfig
CLASSES = {
    CaptionerConfig: (Captioner, "BlipForConditionalGeneration"),
    VQAConfig: (AnswerModel, "BlipForQuestionAnswering"),
    BLIPConfig: (BLIP, "BlipForImageTextRetrieval"),
}


def layout(config: Kind) -> Layout:
    """Keys of the transformers class that has a config's network; of a `BLIP`, its encoders and ITM head."""
    if isinstance(config, BLIPConfig):
        official = blip.layout(replace(config, lm_weight=0.0), state=False)
        tower = "encoders.image_tower."
    else:
        official, tower = blip.layout_of(config, ()), "image_tower."
    entries = [entry for entry in official.entries if not entry.theirs[0].startswith("visual_encoder.")]
    return Layout((*entries, *_vit(tower, config)), official.constants)


def _vit(ours: str, config: Kind) -> list[Entry]:
    theirs = "vision_model."
    entries = [
        Entry(f"{ours}cls_token", (f"{theirs}embeddings.class_embedding",)),
        Entry(f"{ours}positions", (f"{theirs}embeddings.position_embedding",)),
        *linear(f"{ours}patches.proj", f"{theirs}embeddings.patch_embedding"),
        *linear(f"{ours}norm", f"{theirs}post_layernorm"),
    ]
    names = [
        ("norm1", "layer_norm1"),
        ("norm2.all", "layer_norm2"),
        ("attention.qkv", "self_attn.qkv"),
        ("attention.out", "self_attn.projection"),
        ("ffn.all.fc1", "mlp.fc1"),
        ("ffn.all.fc2", "mlp.fc2"),
    ]
    for i in range(the_vit(config.image).depth):
        entries += pairs(f"{ours}blocks.{i}.", f"{theirs}encoder.layers.{i}.", names)
    return entries


def config_of(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Kind:
    """Our config of a transformers model: sizes from its shapes; heads, eps and dropout from its config.

    Args:
        values: what its config.json holds (`config.to_dict()`).

    Raises:
        UserError: it is a class that has no counterpart here.
    """
    writes = "text_decoder.cls.predictions.bias" in tensors
    reads = any(key.startswith("text_encoder.") for key in tensors)
    if not (writes or reads) or (reads and not writes and "itm_head.weight" not in tensors):
        raise UserError(
            f"this is a {(values.get('architectures') or ['BlipModel'])[0]}, which is not read: give a "
            "BlipForConditionalGeneration, BlipForQuestionAnswering or BlipForImageTextRetrieval"
        )
    text = TEXT | dict(values.get("text_config") or {})
    vision = VISION | dict(values.get("vision_config") or {})
    for part in (text, vision):
        if part.get("hidden_act", "gelu") != "gelu":
            raise UserError(f"of transformers' BLIP those with gelu are known, not {part['hidden_act']}")
    found = blip.text_config(tensors, "text_encoder." if reads else "text_decoder.bert.")
    patch = tensors["vision_model.embeddings.patch_embedding.weight"]
    prefix = "vision_model.encoder.layers."
    sizes: dict[str, Any] = {
        "image": ViTConfig(
            image_size=vision["image_size"],
            patch_size=patch.shape[-1],
            width=patch.shape[0],
            depth=1 + max(int(k.split(".")[3]) for k in tensors if k.startswith(prefix)),
            heads=vision["num_attention_heads"],
            hidden=tensors[f"{prefix}0.mlp.fc1.bias"].shape[0],
            eps=vision["layer_norm_eps"],
        ),
        "text": med_config(
            vocab_size=found.vocab_size,
            width=found.width,
            fusion_layers=found.fusion_layers,
            heads=text["num_attention_heads"],
            hidden=found.hidden,
            positions=found.positions,
            eps=text["layer_norm_eps"],
            dropout=text["hidden_dropout_prob"],
        ),
    }
    if writes:
        return VQAConfig(**sizes) if reads else CaptionerConfig(**sizes)
    return BLIPConfig(**sizes, embed_dim=tensors["vision_proj.weight"].shape[0], **blip.RETRIEVAL)


def from_transformers(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, vocab: Path | None = None, **looks: Any
) -> System:
    """Our model with the weights of a transformers model, in eval mode, with its tokenizer.

    Args:
        tensors: its state dict. values: its config as a dictionary.
        vocab: its vocab.txt or tokenizer.json; None: BERT's.
        looks: of its pictures, from `hf_pictures.read`.

    Raises:
        UserError: the class has no counterpart here, a tensor is missing, or the vocabulary is another's.
    """
    config: Any = config_of(tensors, values)
    config = replace(config, image=replace(config.image, **looks))
    network: Callable[[Any], System] = CLASSES[type(config)][0]
    model = network(config)
    ours, missing, _ = to_ours(layout(config), tensors)
    if missing:
        raise UserError(f"the transformers model lacks {len(missing)} tensors, the first {missing[0]}")
    # What transformers does not keep (the temperature) stays as the config has it.
    load_theirs(model, model.state_dict() | ours, "transformers' BLIP")
    model.tokenizer = words_of(config.tokenizer, vocab, config.text.vocab_size)
    return model.eval()


def words_of(tokens: TokenizerConfig, vocab: Path | None, size: int) -> Tokenizer | None:
    """The tokenizer of a model of transformers; None where it would know words that the model does not.

    Args:
        vocab: its vocab.txt or tokenizer.json; None: BERT's. size: words that the model knows.

    Raises:
        UserError: the vocabulary is another's.
    """
    built = None if vocab is None else Tokenizer(tokens, wordpiece.build(vocab, tokens.extra))
    if built is not None and 2 * len(built) < size:
        raise UserError(f"{vocab} has {len(built)} words and the model {size}: take the model's own")
    tokenizer = built or Tokenizer.load(tokens)
    return tokenizer if len(tokenizer) <= size else None


def to_transformers(model: System) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and config.json of the transformers class that holds `model`.

    A `BLIP` leaves as `BlipForImageTextRetrieval`, without decoder, momentum model, queue and temperature.

    Raises:
        UserError: no class of transformers holds it.
    """
    if type(model.config) not in CLASSES:
        raise UserError(f"transformers has no class for a {type(model).__name__}: save a folder of ours")
    config, image, tokens = model.config, the_vit(model.config.image), model.tokenizer
    text = config.text
    tensors = to_theirs(layout(config), model.state_dict())
    tensors = {name: t for name, t in tensors.items() if not name.endswith("position_ids")}
    values = {
        "architectures": [CLASSES[type(config)][1]],
        "model_type": "blip",
        "image_text_hidden_size": getattr(config, "embed_dim", 256),
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "encoder_hidden_size": text.width if isinstance(config, VQAConfig) else image.width,
            "intermediate_size": text.hidden,
            "num_hidden_layers": text.fusion_layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.positions,
            "layer_norm_eps": text.eps,
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": text.dropout,
            "bos_token_id": text.vocab_size - 2 if tokens is None else tokens.dec_id,
            "sep_token_id": 102 if tokens is None else tokens.sep_id,
            "pad_token_id": 0 if tokens is None else tokens.pad_id,
        },
        "vision_config": {
            "hidden_size": image.width,
            "intermediate_size": image.hidden,
            "num_hidden_layers": image.depth,
            "num_attention_heads": image.heads,
            "image_size": square(image.image_size, "transformers' BLIP"),
            "patch_size": image.patch_size,
            "layer_norm_eps": image.eps,
        },
    }
    same_network(config, config_of(tensors, values), "transformers' BLIP")
    return tensors, values
