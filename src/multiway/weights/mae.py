"""MAE's official layouts: pre-training, and the fine-tuned classifier, which is timm's ViT."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from multiway.systems.mae import MAEConfig
from multiway.systems.mae_heads import ClassifierConfig, mae_vit
from multiway.systems.vit import ViTConfig
from multiway.weights.beit import block, depth_of, tower
from multiway.weights.keymap import Entry, Layout, linear


def layout(config: MAEConfig) -> Layout:
    """`MaskedAutoencoderViT` of models_mae.py."""
    entries = [
        *tower("image_tower.", "", config.image),
        Entry("mask_token", ("mask_token",)),
        Entry("decoder_positions", ("decoder_pos_embed",)),
        *(
            entry
            for name in ("embed", "norm", "pred")
            for entry in linear(f"decoder_{name}", f"decoder_{name}")
        ),
    ]
    for i in range(config.decoder_layers):
        entries += block(f"decoder.{i}.", f"decoder_blocks.{i}.", ViTConfig())
    return Layout(tuple(entries))


def classifier_layout(config: ClassifierConfig) -> Layout:
    """`VisionTransformer` of models_vit.py; without classes there is no head, as in a published encoder."""
    entries = tower("image_tower.", "", config.image)
    if config.probe:  # main_linprobe.py puts the norm before the head, as one sequence
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        entries += [Entry(f"norm.{name}", (f"head.0.{name}",)) for name in statistics]
        entries += linear("head", "head.1")
    elif config.labels:
        entries += linear("head", "head")
    return Layout(tuple(entries))


def layout_of(config: MAEConfig | ClassifierConfig) -> Layout:
    """The layout of either kind of checkpoint."""
    return layout(config) if isinstance(config, MAEConfig) else classifier_layout(config)


def is_mae(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are of MAE, of its encoder alone, or of any other plain ViT in timm's layout."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"} <= tensors.keys()


def config_of(tensors: Mapping[str, Tensor]) -> MAEConfig | ClassifierConfig:
    """The sizes of a checkpoint, read off its shapes; heads are 64 wide (huge: 80), in a decoder 32.

    An encoder alone is a classifier without classes, to be fine-tuned.
    """
    width, channels, _, size = tensors["patch_embed.proj.weight"].shape
    depth, full = depth_of(tensors, "blocks."), "mask_token" in tensors
    image = mae_vit(
        image_size=size * round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        patch_size=size,
        channels=channels,
        width=width,
        depth=depth,
        heads=max(width // (80 if width == 1280 else 64), 1),
        hidden=tensors["blocks.0.mlp.fc1.bias"].shape[0],
        sincos=full,
        pool="mean" if "fc_norm.weight" in tensors else "cls",
    )
    if not full:
        probe = "head.1.weight" in tensors
        head = tensors.get("head.1.weight" if probe else "head.weight")
        classes = 0 if head is None else len(head)
        return ClassifierConfig(image=image, labels=tuple(str(i) for i in range(classes)), probe=probe)
    decoder = tensors["decoder_embed.weight"].shape[0]
    return MAEConfig(
        image=image,
        decoder_width=decoder,
        decoder_layers=depth_of(tensors, "decoder_blocks."),
        decoder_heads=max(decoder // 32, 1),
        decoder_hidden=tensors["decoder_blocks.0.mlp.fc1.bias"].shape[0],
    )
