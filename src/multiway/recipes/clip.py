"""CLIP's recipes: the paper's ViT-B/32, and two from pretrained image weights on the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data import emoji
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import albef_emoji
from multiway.systems.clip import CLIPConfig, CLIPTextConfig
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig


def clip_base() -> Run:
    """ViT-B/32 as in the paper (tables 18 and 19), random crops alone; give --data.train.0.path SHARDS."""
    augment = Augment(crop_scale=(0.9, 1.0), flip=0.0, rand_n=0)
    return Run(
        name="clip_base",
        system=CLIPConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=224, augment=augment, workers=8),
        train=TrainConfig(
            epochs=32,
            batch_size=32768,
            accumulate=8,
            lr=5e-4,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_steps=2000,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.2,
            precision="bf16",
        ),
    )


def clip_emoji() -> Run:
    """A small CLIP on the bundled drawings, its image tower pretrained, its text tower from scratch."""
    align = albef_emoji()[0]
    text = CLIPTextConfig(vocab_size=3000, width=192, layers=3, heads=3, hidden=768, positions=32)
    system = CLIPConfig(
        image=align.system.image,
        text=text,
        tokenizer=TokenizerConfig(vocab="trained", add_sep=True),
        embed_dim=192,
        positives="ids",
    )
    train = replace(align.train, freeze=(), lr_scale={})
    return Run(
        name="clip_emoji",
        system=system,
        data=align.data,
        train=train,
        init=Init(image_tower="efficientnet_lite0"),
    )


def clip_emoji_languages() -> Run:
    """One text tower and one vocabulary for the drawings' names in ten languages.

    The image tower is locked (LiT, Zhai et al. 2022), here up to one linear map. Each step shows a picture
    with one of its names; those that `emoji.held_back` keeps are in none.
    """
    run = clip_emoji()
    words = TokenizerConfig(vocab="trained", cleaning="multilingual", add_sep=True, max_length=32)
    system = replace(
        run.system,
        image=replace(run.system.image, frozen_blocks="all"),
        text=replace(run.system.text, vocab_size=8000, width=128, layers=2, heads=2, hidden=512),
        tokenizer=words,
        image_pool="mean",
    )
    names = Source(path="emoji", split="train:" + "+".join(emoji.LANGUAGES))
    return replace(
        run,
        name="clip_emoji_languages",
        system=system,
        data=replace(run.data, train=(names,)),
        train=replace(run.train, steps=1500, batch_size=128, lr=2e-3, min_lr=4e-5, warmup_steps=100),
    )
