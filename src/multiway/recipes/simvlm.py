"""SimVLM's recipes: the paper's pre-training, and small ones of the bundled drawings and of drawn scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.recipes.scenes import GAIN, PLAIN, SIDE, training
from multiway.systems.conv_tower import StemConfig
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.simvlm_config import SimVLMConfig
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

#: Stages of one bottleneck each, at a stride of 16.
STEM: dict[str, Any] = {"width": 16, "blocks": (1, 1, 1)}
SIZES: dict[str, Any] = {"encoder_layers": 3, "decoder_layers": 3, "positions": 40}


def simvlm_base() -> Run:
    """The paper's base model (section 4.1 and appendix A): 4096 pairs and 512 texts a step.

    Give --data.train.0.path PAIRS and --data.train.1.path TEXTS (a .txt with one a line), their weights such
    that an epoch has eight pairs for each text. What the paper leaves out (augmentation, warm-up) is ours.
    """
    augment = Augment(crop_scale=(0.5, 1.0), rand_n=0)
    return Run(
        name="simvlm_base",
        system=SimVLMConfig(),
        data=DataConfig(
            train=(Source(path="pairs"), Source(path="texts.txt", use="texts")),
            image_size=224,
            augment=augment,
            workers=8,
        ),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=4608,
            lr=5e-4,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_steps=10_000,
            weight_decay=0.01,
            precision="bf16",
        ),
    )


def simvlm_emoji() -> Run:
    """The bundled drawings with their names and tags, and the same texts alone; minutes on two cores."""
    system = SimVLMConfig(
        image=StemConfig(image_size=64, width=16, blocks=(1, 1)),
        text=PrefixConfig(vocab_size=3000, width=192, heads=3, hidden=768, **SIZES),
        tokenizer=TokenizerConfig(vocab="trained", add_sep=True, max_length=32),
        prompt="",
        caption_length=(1, 16),
    )
    sources = tuple(Source(path="emoji", split="train", use=use) for use in ("pairs", "texts"))
    return Run(
        name="simvlm_emoji",
        system=system,
        data=DataConfig(
            train=(sources[0], replace(sources[1], weight=0.25)),
            image_size=64,
            augment=replace(MILD, crop_scale=(0.7, 1.0)),
        ),
        train=training(1200, 1e-3),
        init=Init(head="frequencies"),
    )


def simvlm_scenes() -> Run:
    """Drawn scenes and their captions, and captions of other scenes alone; a token a cell of a scene."""
    system = SimVLMConfig(
        image=StemConfig(image_size=SIDE, **STEM),
        text=PrefixConfig(vocab_size=200, width=128, heads=4, hidden=512, **SIZES),
        tokenizer=TokenizerConfig(vocab="trained", cleaning="none", add_sep=True, max_length=32),
        prompt="",
        caption_length=(3, 24),
    )
    texts = Source(path="scenes:2000:15", use="texts")
    return Run(
        name="simvlm_scenes",
        system=system,
        data=DataConfig(train=(Source(path="scenes:16000:11"), texts), image_size=SIDE, augment=PLAIN),
        train=training(1500, 1e-3),
        init=Init(gain=GAIN),
    )
