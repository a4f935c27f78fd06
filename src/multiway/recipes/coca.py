"""CoCa's recipes: the paper's base model, and small ones on the bundled drawings."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import albef_emoji, albef_emoji_scratch
from multiway.systems.clip import CLIPTextConfig
from multiway.systems.coca_config import CoCaConfig, MultimodalConfig, PoolerConfig, coca_vit
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

#: The small recipes' text: their own vocabulary, [SEP] at the end.
SMALL = CLIPTextConfig(vocab_size=3000, width=192, layers=3, heads=3, hidden=768, positions=32)
WORDS = TokenizerConfig(vocab="trained", add_sep=True)


def coca_base() -> Run:
    """CoCa-Base as in the paper (section 4.1), random crops alone; give --data.train.0.path SHARDS.

    Where it leaves the paper: AdamW instead of Adafactor (the same betas), with it a schedule that ends as a
    cosine instead of a line, and CLIP's vocabulary.
    """
    augment = Augment(crop_scale=(0.9, 1.0), flip=0.0, rand_n=0)
    return Run(
        name="coca_base",
        system=CoCaConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=288, augment=augment, workers=8),
        train=TrainConfig(
            steps=500_000,
            batch_size=65_536,
            accumulate=16,
            lr=8e-4,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_steps=10_000,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            precision="bf16",
        ),
    )


def coca_emoji() -> Run:
    """A small CoCa on the bundled drawings, its image tower pretrained, its text from scratch."""
    align = albef_emoji()[0]
    system = CoCaConfig(
        image=align.system.image,
        text=SMALL,
        multimodal=MultimodalConfig(layers=3, heads=3, hidden=768),
        pooler=PoolerConfig(queries=16, heads=3),
        tokenizer=WORDS,
        embed_dim=192,
        positives="ids",
        caption_length=(0, 20),
    )
    return Run(
        name="coca_emoji",
        system=system,
        data=align.data,
        train=replace(align.train, freeze=(), lr_scale={}),
        init=Init(image_tower="efficientnet_lite0"),
    )


def coca_experts() -> Run:
    """CoCa with modality experts, from scratch on the drawings: an open question of the field.

    The layers of the unimodal half are those of pictures too: self-attention is shared, each modality has a
    feed-forward of its own, as in VLMo. `studies/coca.py` sets it beside the plain one.
    """
    base, scratch = coca_emoji(), albef_emoji_scratch()
    image = coca_vit(image_size=64, patch_size=8, width=192, depth=1, heads=3, hidden=768)
    system = replace(base.system, image=image, experts=True)
    return Run(name="coca_experts", system=system, data=scratch.data, train=scratch.train)
