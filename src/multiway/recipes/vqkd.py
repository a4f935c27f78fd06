"""VQ-KD's recipes: the official tokenizer, and a small one of the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.systems.vqkd import VQKDConfig, vqkd_vit
from multiway.train.run import Init, Run, TrainConfig

#: Steps of an epoch of ImageNet-1k at VQ-KD's batch of 512.
EPOCH = 1_281_167 // 512


def vqkd_base() -> Run:
    """`vqkd_encoder_base_decoder_3x768x12_clip` (BEiT v2, section 3.1; TOKENIZER.md).

    Give --data.train.0.path SHARDS and --init.teacher a CLIP ViT-B/16.
    """
    augment = Augment(crop_scale=(0.08, 1.0), rand_n=0)
    return Run(
        name="vqkd_base",
        system=VQKDConfig(),
        data=DataConfig(
            train=(Source(path="shards", use="images"),), image_size=224, augment=augment, workers=8
        ),
        train=TrainConfig(
            epochs=100,
            batch_size=512,
            lr=2e-4,  # 5e-5 for each 128 of the batch
            min_lr=1e-5,
            warmup_lr=0.0,
            warmup_steps=10 * EPOCH,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            precision="bf16",
        ),
        init=Init(teacher="runs/clip_base/model"),
    )


def vqkd_emoji() -> Run:
    """128 visual tokens of the bundled drawings, taught by EfficientNet-Lite0; a minute of one core.

    4 x 4 patches of 16 pixels, and the teacher sees the drawings at 128 pixels, so that its grid is the same.
    Where it leaves the paper, as a run has so few steps: features are centred, the codebook starts when the
    encoder tells patches apart, and follows it faster.
    """
    image = vqkd_vit(image_size=64, patch_size=16, width=128, depth=3, heads=2, hidden=512)
    system = VQKDConfig(
        image=image,
        decoder_layers=1,
        codes=128,
        code_width=16,
        decay=0.95,
        target_width=1280,
        teacher_size=128,
        centre=True,
        start_after=50,
    )
    augment = replace(MILD, crop_scale=(0.5, 1.0))
    return Run(
        name="vqkd_emoji",
        system=system,
        data=DataConfig(
            train=(Source(path="emoji", split="train", use="images"),), image_size=64, augment=augment
        ),
        train=TrainConfig(
            steps=300,
            batch_size=32,
            lr=1e-3,
            min_lr=1e-5,
            warmup_lr=0.0,
            warmup_steps=30,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
        ),
        init=Init(teacher="efficientnet_lite0"),
    )
