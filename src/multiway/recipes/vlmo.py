"""VLMo's recipes: the official base model in its three stages, and a small one of the bundled drawings.

    multiway train vqkd_emoji --out runs/vqkd_emoji      visual tokens
    multiway train beit2_emoji --out runs/beit2_emoji    the stage of pictures
    multiway train vlmo_emoji --out runs/vlmo_emoji      the stages of texts and of pairs

`vlmo_scenes` is beside its siblings in `recipes/scenes.py`.
"""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.beit import beit2_emoji, beit_base
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo_config import TextConfig, VLMoConfig
from multiway.systems.vlmo_stages import frozen
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig


def _texts(pairs: VLMoConfig, longest: int) -> VLMoConfig:
    """The stage of texts before a stage of pairs."""
    return replace(
        pairs,
        stage="text",
        joint_layers=0,
        text=replace(pairs.text, positions=longest),
        tokenizer=replace(pairs.tokenizer, max_length=longest),
    )


def vlmo_base() -> tuple[Run, Run, Run]:
    """VLMo-base (section 4.1; config.py: task_textmlm_base, task_mlm_itm_itc_base, both with the README's
    step200k).

    Stages want data of their own: train them one by one, as --stage text --data.train.0.path TEXTS.txt
    --init.checkpoint BEIT; --stage image also wants --init.visual-tokenizer.
    """
    pairs = VLMoConfig()
    text = _texts(pairs, pairs.relative_positions)
    train = TrainConfig(
        steps=200_000,
        batch_size=1024,
        accumulate=4,
        lr=2e-4,
        min_lr=0.0,
        warmup_steps=2500,
        schedule="linear",
        optimizer="transformers_adamw",
        betas=(0.9, 0.98),
        weight_decay=0.01,
        precision="bf16",
    )
    augment = Augment(crop_scale=(0.5, 1.0))
    data = DataConfig(train=(Source(path="shards"),), image_size=224, augment=augment, workers=8)
    texts = replace(data, train=(Source(path="texts.txt", use="texts"),))
    frozen_parts = frozen("text", text)
    image = beit_base()  # pictures in -1..1 as in the stages that follow
    seen = replace(image.system.image, mean=pairs.image.mean, std=pairs.image.std)
    return (
        replace(image, name="image", system=replace(image.system, image=seen)),
        Run(
            name="text",
            system=text,
            data=texts,
            train=replace(train, freeze=frozen_parts),
        ),
        Run(name="pairs", system=pairs, data=data, train=train),
    )


def vlmo_emoji() -> tuple[Run, Run]:
    """Texts, then pairs, of the bundled drawings, from the BEiT v2 of `beit2_emoji`; minutes of one core.

    Where it leaves the paper: the texts are the drawings' own names, positives share a name, and more words
    are masked, for names are short.
    """
    image = beit2_emoji()
    sizes = image.system.image
    pairs = VLMoConfig(
        image=ImageConfig(
            image_size=sizes.image_size, patch_size=sizes.patch_size, mean=sizes.mean, std=sizes.std
        ),
        text=TextConfig(vocab_size=3000, positions=32, dropout=0.0),
        tokenizer=TokenizerConfig(vocab="trained", cleaning="albef", add_sep=True, max_length=32),
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        hidden=sizes.hidden,
        joint_layers=1,
        drop_path=0.0,
        relative_positions=32,
        mlm_probability=0.3,
        positives="ids",
    )
    text = _texts(pairs, pairs.relative_positions)
    names = tuple(Source(path="emoji", split="train", texts=texts, weight=0.5) for texts in ("first", "all"))
    data = replace(image.data, train=names, merge_equal_texts=True)
    alone = replace(data, train=(Source(path="emoji", split="train", use="texts"),), merge_equal_texts=False)
    train = replace(image.train, steps=200, warmup_steps=20, betas=(0.9, 0.98), weight_decay=0.01)
    return (
        Run(
            name="text",
            system=text,
            data=alone,
            train=replace(train, freeze=frozen("text", text)),
            init=Init(checkpoint="runs/beit2_emoji/model"),
        ),
        Run(
            name="pairs",
            system=pairs,
            data=data,
            train=replace(train, steps=700, warmup_steps=70, batch_size=64),
        ),
    )
