"""The recipes of BEiT and BEiT v2: the official pre-trainings, and a small one of the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.data.patch_masks import BlockMask
from multiway.recipes.albef import MILD
from multiway.systems.beit_config import BEiTConfig, beit_vit
from multiway.train.run import Init, Run, TrainConfig

#: Steps of an epoch of ImageNet-1k at the official batch of 2048.
EPOCH = 1_281_167 // 2048


def beit_base() -> Run:
    """BEiT-B/16 with DALL-E's tokens (BEiT, section 3.1; README.md, ImageNet-1k).

    Give --data.train.0.path SHARDS and --init.visual-tokenizer the dVAE.
    """
    image = beit_vit(drop_path=0.1)
    augment = Augment(crop_scale=(0.08, 1.0), rand_n=0, brightness=0.4, contrast=0.4, saturation=0.4)
    return Run(
        name="beit_base",
        system=BEiTConfig(image=image),
        data=DataConfig(
            train=(Source(path="shards", use="images"),), image_size=224, augment=augment, workers=8
        ),
        train=TrainConfig(
            epochs=800,
            batch_size=2048,
            lr=1.5e-3,
            min_lr=1e-5,
            warmup_lr=0.0,
            warmup_steps=10 * EPOCH,
            weight_decay=0.05,
            clip_grad=3.0,
            precision="bf16",
        ),
        init=Init(visual_tokenizer="runs/dvae"),
    )


def beit2_base() -> Run:
    """BEiT v2 B/16 with VQ-KD's tokens and aggregation (section 3.1; PRETRAINING.md, 1600 epochs)."""
    run = beit_base()
    system = replace(run.system, mask=BlockMask(exact=True), early_layer=9)
    return replace(
        run,
        name="beit2_base",
        system=system,
        data=replace(run.data, augment=replace(run.data.augment, crop_scale=(0.2, 1.0))),
        train=replace(run.train, epochs=1600),
        init=Init(visual_tokenizer="runs/vqkd_base/model"),
    )


def beit2_emoji() -> Run:
    """BEiT v2 on the bundled drawings, with the tokens of `vqkd_emoji`; minutes of one core."""
    image = beit_vit(image_size=64, patch_size=16, width=128, depth=4, heads=2, hidden=512)
    system = BEiTConfig(
        image=image,
        codes=128,
        mask=BlockMask(patches=6, smallest=1, exact=True),
        early_layer=3,
        aggregation_layers=1,
    )
    augment = replace(MILD, crop_scale=(0.5, 1.0))
    return Run(
        name="beit2_emoji",
        system=system,
        data=DataConfig(
            train=(Source(path="emoji", split="train", use="images"),), image_size=64, augment=augment
        ),
        train=TrainConfig(
            steps=600,
            batch_size=32,
            lr=1e-3,
            min_lr=1e-5,
            warmup_lr=0.0,
            warmup_steps=60,
            weight_decay=0.05,
            clip_grad=3.0,
        ),
        init=Init(visual_tokenizer="runs/vqkd_emoji/model"),
    )
