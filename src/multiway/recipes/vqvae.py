"""VQ-VAE's recipes: picture tokens of the bundled drawings, and of drawn scenes."""

from __future__ import annotations

from dataclasses import replace

from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.recipes.scenes import PLAIN, SIDE, training
from multiway.systems.vqvae import VQVAEConfig
from multiway.train.run import Run


def vqvae_emoji() -> Run:
    """8 x 8 tokens of 8 pixels for the bundled drawings, 512 codes; minutes on two cores."""
    system = VQVAEConfig(
        image_size=64,
        strides=(2, 2, 2),
        width=96,
        codes=512,
        code_width=32,
        decay=0.95,
        start_after=400,
        revived=32,
    )
    augment = replace(MILD, crop_scale=(0.7, 1.0))
    return Run(
        name="vqvae_emoji",
        system=system,
        data=DataConfig(
            train=(Source(path="emoji", split="train", use="images"),), image_size=64, augment=augment
        ),
        train=training(1200, 4e-3, batch_size=32, weight_decay=1e-4),
    )


def vqvae_scenes() -> Run:
    """10 x 10 tokens of 8 pixels for drawn scenes, four a cell, 512 codes; a minute or two on one core.

    One token a cell has to say kind and place of a thing at once: it then takes places for colours. And
    colours come last: codes that start earlier tell light from dark alone.
    """
    system = VQVAEConfig(
        image_size=SIDE,
        strides=(8,),
        width=128,
        blocks=0,
        codes=512,
        code_width=16,
        decay=0.95,
        start_after=900,
        revived=16,
    )
    return Run(
        name="vqvae_scenes",
        system=system,
        data=DataConfig(train=(Source(path="scenes:8000:13", use="images"),), image_size=SIDE, augment=PLAIN),
        train=training(2000, 1e-2, batch_size=16, weight_decay=1e-4),
    )
