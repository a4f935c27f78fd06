"""FLIP's recipes: the official pre-training, its unmasked tuning, and both small, on the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.systems.flip import FLIPConfig, flip_text, flip_vit
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

BATCH = 65_536
#: Steps of an epoch of LAION-400M.
EPOCH = 400_000_000 // BATCH


def flip_base() -> Run:
    """FLIP-B/16 with half of the patches, 32 epochs (appendix A); give --data.train.0.path."""
    augment = Augment(crop_scale=(0.5, 1.0), flip=0.0, rand_n=0)
    return Run(
        name="flip_base",
        system=FLIPConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=224, augment=augment, workers=8),
        train=TrainConfig(
            epochs=32,
            batch_size=BATCH,
            accumulate=8,
            lr=4e-6 * BATCH / 256,
            min_lr=0.0,
            warmup_steps=EPOCH,
            schedule="mae",
            betas=(0.9, 0.95),
            weight_decay=0.2,
            precision="bf16",
        ),
    )


def flip_tuned() -> Run:
    """Unmasked tuning of `flip_base`: 0.32 epochs of whole pictures at 1 % of the rate (section 3)."""
    run = flip_base()
    steps = round(0.32 * EPOCH)
    train = replace(run.train, epochs=None, steps=steps, lr=4e-8 * BATCH / 256, warmup_steps=steps // 10)
    return replace(
        run,
        name="flip_tuned",
        system=replace(run.system, drop=0.0),
        train=train,
        init=Init(checkpoint="runs/flip_base/model"),
    )


def flip_emoji() -> tuple[Run, Run]:
    """A small FLIP on the bundled drawings from nothing, then tuned on whole ones; minutes on two cores."""
    sizes = {"width": 192, "heads": 3, "hidden": 768}
    system = FLIPConfig(
        image=flip_vit(image_size=64, patch_size=8, depth=6, **sizes),
        text=flip_text(vocab_size=3000, layers=3, **sizes),
        tokenizer=TokenizerConfig(vocab="trained", max_length=32),
        embed_dim=192,
        positives="ids",
    )
    part = Run(
        name="parts",
        system=system,
        data=DataConfig(
            train=(Source(path="emoji", split="train"),),
            image_size=64,
            augment=replace(MILD, crop_scale=(0.5, 1.0)),
            merge_equal_texts=True,
        ),
        train=TrainConfig(
            steps=1000,
            batch_size=128,
            lr=1e-3,
            min_lr=0.0,
            warmup_steps=100,
            schedule="mae",
            betas=(0.9, 0.95),
            weight_decay=0.2,
        ),
    )
    tuning = replace(part.train, steps=100, lr=1e-4, warmup_steps=10)
    return part, replace(part, name="whole", system=replace(system, drop=0.0), train=tuning)
