"""transformers' BEiT: `BeitForMaskedImageModeling` and `BeitForImageClassification`, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.beit import BEiT
from multiway.systems.beit_config import BEiTConfig, ClassifierConfig, beit_vit
from multiway.systems.beit_heads import Classifier
from multiway.systems.vit import ViTConfig
from multiway.weights.beit import HALF, TABLE
from multiway.weights.keymap import STACK, Entry, Layout, linear, pairs, to_ours, to_theirs
from multiway.weights.strict import load_theirs, same_network

#: What a config.json that leaves a value out means by that (`BeitConfig`).
DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "drop_path_rate": 0.1,
    "layer_scale_init_value": 0.1,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "use_mean_pooling": True,
}


def layout(config: BEiTConfig | ClassifierConfig) -> Layout:
    """Keys of the class that the config's network has there, with mean pooling."""
    if isinstance(config, ClassifierConfig):
        entries = linear("image_tower.fc_norm", "beit.pooler.layernorm") + linear("head", "classifier")
    else:
        entries = [
            Entry("mask_token", ("beit.embeddings.mask_token",)),
            *linear("image_tower.norm", "layernorm"),
            *linear("head", "lm_head"),
        ]
    return Layout((*_tower(config.image), *entries))


def _tower(image: ViTConfig) -> list[Entry]:
    entries = [
        Entry("image_tower.cls_token", ("beit.embeddings.cls_token",)),
        *linear("image_tower.patches.proj", "beit.embeddings.patch_embeddings.projection"),
    ]
    if image.absolute_positions:
        entries.append(Entry("image_tower.positions", ("beit.embeddings.position_embeddings",)))
    if image.relative_bias == "shared":
        shared = f"beit.encoder.relative_position_bias.{TABLE}"
        entries.append(Entry("image_tower.relative.0.table", (shared,)))
    names = [
        ("norm1", "layernorm_before"),
        ("norm2.all", "layernorm_after"),
        ("attention.out", "attention.output.dense"),
        ("ffn.all.fc1", "intermediate.dense"),
        ("ffn.all.fc2", "output.dense"),
    ]
    for i in range(image.depth):
        ours, theirs = f"image_tower.blocks.{i}.", f"beit.encoder.layer.{i}."
        attention = f"{theirs}attention.attention."
        weights = tuple(f"{attention}{part}.weight" for part in ("query", "key", "value"))
        entries += [
            *pairs(ours, theirs, names),
            Entry(f"{ours}attention.qkv.weight", weights, STACK),
            Entry(f"{ours}attention.qkv.q_bias", (f"{attention}query.bias",)),
            Entry(f"{ours}attention.qkv.v_bias", (f"{attention}value.bias",)),
        ]
        if image.layer_scale is not None:
            entries += [Entry(f"{ours}gamma{n}", (f"{theirs}lambda_{n}",)) for n in (1, 2)]
        if image.relative_bias == "layers":
            own = f"{attention}relative_position_bias.{TABLE}"
            entries.append(Entry(f"image_tower.relative.{i}.table", (own,)))
    return entries


def config_of(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BEiTConfig | ClassifierConfig:
    """Our config of a `BeitConfig`.

    Raises:
        UserError: the network has no counterpart here.
    """
    values = DEFAULTS | dict(values)
    shared, own = values["use_shared_relative_position_bias"], values["use_relative_position_bias"]
    classifies = "classifier.weight" in tensors
    known = (classifies or "lm_head.weight" in tensors) and values["hidden_act"] == "gelu"
    if shared and own or not values["use_mean_pooling"] or not known:
        raise UserError(
            "of transformers' BEiT these are known here: masked image modelling and classification, with "
            "GELU, mean pooling, and one kind of relative positions at most"
        )
    image = beit_vit(
        image_size=values["image_size"],
        patch_size=values["patch_size"],
        channels=values["num_channels"],
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        hidden=values["intermediate_size"],
        eps=values["layer_norm_eps"],
        drop_path=values["drop_path_rate"],
        layer_scale=values["layer_scale_init_value"] or None,
        absolute_positions=values["use_absolute_position_embeddings"],
        relative_bias="shared" if shared else "layers" if own else "none",
        pool="mean" if classifies else "cls",
        mean=HALF,
        std=HALF,
    )
    if not classifies:
        return BEiTConfig(image=image, codes=tensors["lm_head.weight"].shape[0])
    names = values.get("id2label") or {}
    classes = tensors["classifier.weight"].shape[0]
    return ClassifierConfig(image=image, labels=tuple(names.get(str(i), str(i)) for i in range(classes)))


def from_transformers(tensors: Mapping[str, Tensor], values: Mapping[str, Any], **looks: Any) -> System:
    """A model of ours with transformers' weights.

    Args:
        values: its config.json. looks: of its pictures, from `hf_pictures.read`.

    Raises:
        UserError: a tensor is missing, or the network has no counterpart here.
    """
    config = config_of(values, tensors)
    config = replace(config, image=replace(config.image, **looks))
    model = Classifier(config) if isinstance(config, ClassifierConfig) else BEiT(config)
    ours, missing, _ = to_ours(layout(config), tensors)
    if missing:
        raise UserError(f"these weights of transformers' BEiT lack {len(missing)}, the first {missing[0]}")
    load_theirs(model, ours, "transformers' BEiT")
    return model


def to_transformers(model: BEiT | Classifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a model of ours under transformers' names, and its config.json."""
    config, image = model.config, model.config.image
    values = {
        "model_type": "beit",
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "num_channels": image.channels,
        "hidden_size": image.width,
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.heads,
        "intermediate_size": image.hidden,
        "layer_norm_eps": image.eps,
        "drop_path_rate": image.drop_path,
        "layer_scale_init_value": image.layer_scale or 0.0,
        "use_absolute_position_embeddings": image.absolute_positions,
        "use_relative_position_bias": image.relative_bias == "layers",
        "use_shared_relative_position_bias": image.relative_bias == "shared",
        "use_mean_pooling": True,
        "use_mask_token": isinstance(model, BEiT),
    }
    if isinstance(config, ClassifierConfig):
        named = {str(i): name for i, name in enumerate(config.labels)}
        values |= {"architectures": ["BeitForImageClassification"], "id2label": named}
        values |= {"label2id": {name: i for i, name in enumerate(config.labels)}}
    else:
        values |= {"architectures": ["BeitForMaskedImageModeling"], "vocab_size": config.codes}
    tensors = to_theirs(layout(config), model.state_dict())
    same_network(config, config_of(values, tensors), "transformers' BEiT")
    return tensors, values
