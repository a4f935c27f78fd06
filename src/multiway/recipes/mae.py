"""MAE's recipes: the official pre-training, and a small one of the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.systems.mae import MAEConfig
from multiway.systems.mae_heads import mae_vit
from multiway.train.run import Run, TrainConfig

#: Steps of an epoch of ImageNet-1k at the official batch of 4096.
EPOCH = 1_281_167 // 4096


def mae_base() -> Run:
    """MAE-B/16 for 800 epochs, crops and flips alone (table 8; PRETRAIN.md).

    Give --data.train.0.path SHARDS.
    """
    augment = Augment(crop_scale=(0.2, 1.0), rand_n=0)
    return Run(
        name="mae_base",
        system=MAEConfig(),
        data=DataConfig(
            train=(Source(path="shards", use="images"),), image_size=224, augment=augment, workers=8
        ),
        train=TrainConfig(
            epochs=800,
            batch_size=4096,
            lr=1.5e-4 * 4096 / 256,
            min_lr=0.0,
            warmup_steps=40 * EPOCH,
            schedule="mae",
            betas=(0.9, 0.95),
            weight_decay=0.05,
            precision="bf16",
        ),
    )


def mae_emoji() -> Run:
    """A small MAE on the bundled drawings; minutes on two cores.

    8 x 8 patches of 8 pixels, 16 of them seen. Where it leaves the paper, as a run has so few steps: a higher
    learning rate and a warm-up of a tenth.
    """
    image = mae_vit(image_size=64, patch_size=8, width=192, depth=6, heads=3, hidden=768, sincos=True)
    system = MAEConfig(image=image, decoder_width=96, decoder_layers=2, decoder_heads=3, decoder_hidden=384)
    return Run(
        name="mae_emoji",
        system=system,
        data=DataConfig(
            train=(Source(path="emoji", split="train", use="images"),),
            image_size=64,
            augment=replace(MILD, crop_scale=(0.5, 1.0)),
        ),
        train=TrainConfig(
            steps=1500,
            batch_size=64,
            lr=1.5e-3,
            min_lr=0.0,
            warmup_steps=150,
            schedule="mae",
            betas=(0.9, 0.95),
            weight_decay=0.05,
        ),
    )
