"""transformers' `CLIPModel`, to and from ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_vit
from multiway.systems.vit import ViTConfig
from multiway.text import Tokenizer, TokenizerConfig, wordpiece
from multiway.weights.clip import transformers_layout
from multiway.weights.keymap import to_ours, to_theirs
from multiway.weights.strict import load_theirs, same_network, square

#: What a config.json that leaves a value out means by that (`CLIPTextConfig`, `CLIPVisionConfig`).
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
GELUS = ("gelu", "quick_gelu", "gelu_pytorch_tanh")
#: transformers takes this id for "the largest id ends a text", as its first configs had it.
LEGACY_END = 2


def config_of(values: Mapping[str, Any], merges: Path | None = None) -> CLIPConfig:
    """Our config of a `CLIPConfig`.

    Args:
        merges: the model's merges.txt, for a vocabulary that is not CLIP's own.

    Raises:
        UserError: the network has no counterpart here.
    """
    vision, text = VISION | values.get("vision_config", {}), TEXT | values.get("text_config", {})
    for part in (vision, text):
        if part["hidden_act"] not in GELUS:
            raise UserError(
                f"of transformers' CLIP those with {', '.join(GELUS)} are known, not {part['hidden_act']}"
            )
    own = text["vocab_size"] != TEXT["vocab_size"] and merges is not None
    return CLIPConfig(
        image=clip_vit(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            channels=vision["num_channels"],
            width=vision["hidden_size"],
            depth=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            hidden=vision["intermediate_size"],
            eps=vision["layer_norm_eps"],
            quick_gelu=vision["hidden_act"] == "quick_gelu",
            tanh_gelu=vision["hidden_act"] == "gelu_pytorch_tanh",
            fit="crop",
        ),
        text=CLIPTextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            hidden=text["intermediate_size"],
            positions=text["max_position_embeddings"],
            eps=text["layer_norm_eps"],
            quick_gelu=text["hidden_act"] == "quick_gelu",
            tanh_gelu=text["hidden_act"] == "gelu_pytorch_tanh",
        ),
        tokenizer=TokenizerConfig(
            kind="clip_bpe",
            vocab=str(merges) if own else "clip",
            cleaning="none",
            max_length=text["max_position_embeddings"],
        ),
        embed_dim=values.get("projection_dim", 512),
    )


def from_transformers(
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    *,
    merges: Path | None = None,
    vocab: Path | None = None,
    **looks: Any,
) -> CLIP:
    """A model of ours with transformers' weights, with its tokenizer where the vocabulary is known.

    Args:
        values: its config.json. merges: its merges.txt, or vocab: its vocab.txt, if it has one.
        looks: of its pictures, from `hf_pictures.read`; what they leave out is as OpenAI's CLIP has it.

    Raises:
        UserError: a tensor is missing, or the network has no counterpart here.
    """
    config = config_of(values, merges)
    config = replace(config, image=replace(config.image, **looks))
    if merges is None and vocab is not None:  # of BERT's kind
        length = config.text.positions
        config = replace(config, tokenizer=TokenizerConfig(cleaning="none", add_sep=True, max_length=length))
        tokenizer = Tokenizer(config.tokenizer, wordpiece.build(vocab, ()))
    else:
        tokenizer = Tokenizer.load(config.tokenizer)
    known = len(tokenizer) <= config.text.vocab_size  # else they are no words of this vocabulary
    if not known:
        end = values.get("text_config", {}).get("eos_token_id")
        config = replace(config, text=replace(config.text, eos_id=end))
    model, (ours, missing, _) = CLIP(config), to_ours(transformers_layout(config), tensors)
    if missing:
        raise UserError(f"these weights of transformers' CLIP lack {len(missing)}, the first {missing[0]}")
    load_theirs(model, ours, "transformers' CLIP")
    if known:
        model.tokenizer = tokenizer
    return model


def to_transformers(model: CLIP) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a model of ours under transformers' names, and its config.json.

    Raises:
        UserError: `CLIPModel` is another network, or could not find where a text ends.
    """
    config, image, text = model.config, model.config.image, model.config.text
    if not isinstance(image, ViTConfig):
        raise UserError("transformers' CLIP has a ViT: this one has another image tower")
    ends: dict[str, int] = {} if text.eos_id is None else {"eos_token_id": text.eos_id}
    if text.eos_id is None and model.tokenizer is not None:
        last = model.tokenizer.sep_id
        if last == LEGACY_END or not (config.tokenizer.kind == "clip_bpe" or config.tokenizer.add_sep):
            raise UserError(
                "transformers' CLIP reads a text's last token, which must be an end of its own and not id "
                f"{LEGACY_END}: this model's tokenizer has none"
            )
        ends = {"bos_token_id": model.tokenizer.cls_id, "eos_token_id": last, "pad_token_id": last}
    values = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale,
        "text_config": {
            "model_type": "clip_text_model",
            "projection_dim": config.embed_dim,
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "intermediate_size": text.hidden,
            "max_position_embeddings": text.positions,
            "hidden_act": _gelu(text),
            "layer_norm_eps": text.eps,
            **ends,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "projection_dim": config.embed_dim,
            "image_size": square(image.image_size, "transformers' CLIP"),
            "patch_size": image.patch_size,
            "num_channels": image.channels,
            "hidden_size": image.width,
            "num_hidden_layers": image.depth,
            "num_attention_heads": image.heads,
            "intermediate_size": image.hidden,
            "hidden_act": _gelu(image),
            "layer_norm_eps": image.eps,
        },
    }
    same_network(config, config_of(values), "transformers' CLIP")
    return to_theirs(transformers_layout(config), model.state_dict(), ties=False), values


def _gelu(part: ViTConfig | CLIPTextConfig) -> str:
    return "quick_gelu" if part.quick_gelu else "gelu_pytorch_tanh" if part.tanh_gelu else "gelu"


def bert_rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `BertTokenizer` is told of our rules; cleaning has no place there."""
    accents = {"strip_accents": False} if tokenizer.config.cleaning == "multilingual" else {}
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **accents}


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """CLIP's vocabulary as `CLIPTokenizer` reads it, in vocab.json and merges.txt; or BERT's vocab.txt."""
    tokenizer.save(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()  # without the special tokens that transformers looks for
    length = tokenizer.config.max_length
    if tokenizer.config.kind != "clip_bpe":
        looks = bert_rules(tokenizer)
    else:
        ends = {tokenizer.cls_id: "<|startoftext|>", tokenizer.sep_id: "<|endoftext|>"}
        vocab = {ends.get(number, token): number for token, number in saved["model"]["vocab"].items()}
        vocab |= {name: number for number, name in ends.items()}
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in saved["model"]["merges"]]
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
        begin, end = ends.values()
        looks = {"tokenizer_class": "CLIPTokenizer", "bos_token": begin, "eos_token": end}
        looks |= {"unk_token": end, "pad_token": end}
    looks |= {"model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(looks, indent=2) + "\n")
