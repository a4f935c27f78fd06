"""ViLT's recipes: the official base model, and a small one of the bundled drawings.

    multiway train vilt_emoji --out runs/vilt_emoji
    multiway match cat.png "cat face" "red apple" --model runs/vilt_emoji/model

`vilt_scenes` is beside its siblings in `recipes/scenes.py`.
"""

from __future__ import annotations

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.systems.vilt_config import ViLTConfig, vilt_vit
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig
from multiway.train.run import Run, TrainConfig

#: Pictures are resized, and nothing else is done to them in pre-training (section 4.2).
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)


def vilt_base() -> Run:
    """ViLT-B/32 (section 4.2; config.py: task_mlm_itm, step200k), from a ViT-B/32 of ImageNet-21k.

    Give both: --data.train.0.path SHARDS --init.image-tower vit_base_patch32_384.safetensors.
    """
    return Run(
        name="vilt_base",
        system=ViLTConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=384, augment=PLAIN, workers=8),
        train=TrainConfig(
            steps=200_000,
            batch_size=4096,
            accumulate=8,
            lr=1e-4,
            min_lr=0.0,
            warmup_steps=2500,
            schedule="linear",
            optimizer="transformers_adamw",
            betas=(0.9, 0.98),
            weight_decay=0.01,
            precision="bf16",
        ),
    )


def vilt_emoji() -> Run:
    """A small ViLT of the bundled drawings, from random weights; minutes on two cores.

    Where it leaves the paper: more words are masked, for names are short, and the drawings are turned,
    shifted and recoloured a little.
    """
    system = ViLTConfig(
        image=vilt_vit(image_size=64, patch_size=16, width=128, depth=4, heads=4, hidden=512, dropout=0.0),
        text=TextConfig(vocab_size=3000, positions=32, dropout=0.0),
        tokenizer=TokenizerConfig(vocab="trained", cleaning="albef", add_sep=True, max_length=32),
        longest_side=96,
        mlm_probability=0.3,
    )
    names = tuple(Source(path="emoji", split="train", texts=texts, weight=0.5) for texts in ("first", "all"))
    mild = Augment(crop_scale=None, flip=0.5, rand_n=0, rotate=10, translate=0.05, zoom=(0.8, 1.1), hue=0.02)
    return Run(
        name="vilt_emoji",
        system=system,
        data=DataConfig(train=names, image_size=64, augment=mild, merge_equal_texts=True),
        train=TrainConfig(
            steps=600,
            batch_size=64,
            lr=1e-3,
            min_lr=1e-5,
            warmup_steps=60,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            clip_grad=1.0,
            save_every=100,
            keep_last=1,
        ),
    )
