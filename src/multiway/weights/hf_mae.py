"""transformers' `ViTMAEForPreTraining`, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from multiway.errors import UserError
from multiway.systems.mae import MAE, MAEConfig
from multiway.systems.mae_heads import mae_vit
from multiway.weights.keymap import Entry, Layout, linear, pairs, to_ours, to_theirs
from multiway.weights.parts import hf_vit_block
from multiway.weights.strict import load_theirs, same_network

#: What a config.json that leaves a value out means by that (`ViTMAEConfig`).
DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
#: The fifth version saves the decoder's layers under another name, and reads both.
NEWER, OLDER = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."


def layout(config: MAEConfig) -> Layout:
    """Keys of `ViTMAEForPreTraining`, as published ones have them."""
    embeddings = "vit.embeddings."
    entries = [
        Entry("image_tower.cls_token", (f"{embeddings}cls_token",)),
        Entry("image_tower.positions", (f"{embeddings}position_embeddings",)),
        *linear("image_tower.patches.proj", f"{embeddings}patch_embeddings.projection"),
        *linear("image_tower.norm", "vit.layernorm"),
        Entry("mask_token", ("decoder.mask_token",)),
        Entry("decoder_positions", ("decoder.decoder_pos_embed",)),
        *pairs("", "decoder.", [(f"decoder_{name}",) * 2 for name in ("embed", "norm", "pred")]),
    ]
    for i in range(config.image.depth):
        entries += hf_vit_block(f"image_tower.blocks.{i}.", f"vit.encoder.layer.{i}.")
    for i in range(config.decoder_layers):
        entries += hf_vit_block(f"decoder.{i}.", f"{OLDER}{i}.")
    return Layout(tuple(entries))


def config_of(values: Mapping[str, Any]) -> MAEConfig:
    """Our config of a `ViTMAEConfig`.

    Raises:
        UserError: the network has no counterpart here.
    """
    values = DEFAULTS | dict(values)
    if values["hidden_act"] != "gelu" or not values["qkv_bias"] or not isinstance(values["patch_size"], int):
        raise UserError(
            "of transformers' ViTMAE those with GELU, biases of queries, keys and values, and square patches "
            "are known here"
        )
    size = values["image_size"]
    return MAEConfig(
        image=mae_vit(
            image_size=size if isinstance(size, int) else tuple(size),
            patch_size=values["patch_size"],
            channels=values["num_channels"],
            width=values["hidden_size"],
            depth=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            hidden=values["intermediate_size"],
            eps=values["layer_norm_eps"],
            sincos=True,
        ),
        decoder_width=values["decoder_hidden_size"],
        decoder_layers=values["decoder_num_hidden_layers"],
        decoder_heads=values["decoder_num_attention_heads"],
        decoder_hidden=values["decoder_intermediate_size"],
        mask_ratio=values["mask_ratio"],
        normalised=values["norm_pix_loss"],
    )


def from_transformers(tensors: Mapping[str, Tensor], values: Mapping[str, Any], **looks: Any) -> MAE:
    """A model of ours with transformers' weights.

    Args:
        values: its config.json. looks: of its pictures, from `hf_pictures.read`.

    Raises:
        UserError: a tensor is missing (`ViTMAEModel` has no decoder), or the network has no counterpart here.
    """
    config = config_of(values)
    config = replace(config, image=replace(config.image, **looks))
    tensors = {name.replace(NEWER, OLDER): tensor for name, tensor in tensors.items()}
    model, (ours, missing, _) = MAE(config), to_ours(layout(config), tensors)
    if missing:
        raise UserError(f"these weights of transformers' ViTMAE lack {len(missing)}, the first {missing[0]}")
    load_theirs(model, ours, "transformers' ViTMAE")
    return model


def to_transformers(model: MAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a model of ours under transformers' names, and its config.json."""
    config, image = model.config, model.config.image
    values = {
        "model_type": "vit_mae",
        "architectures": ["ViTMAEForPreTraining"],
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "num_channels": image.channels,
        "hidden_size": image.width,
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.heads,
        "intermediate_size": image.hidden,
        "layer_norm_eps": image.eps,
        "decoder_hidden_size": config.decoder_width,
        "decoder_num_hidden_layers": config.decoder_layers,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": config.decoder_hidden,
        "mask_ratio": config.mask_ratio,
        "norm_pix_loss": config.normalised,
    }
    same_network(config, config_of(values), "transformers' ViTMAE")
    return to_theirs(layout(config), model.state_dict()), values
