"""The generalist's recipes: one model for all tasks, by a mixture of prompts and answers (PaLI, 3.3)."""

from __future__ import annotations

from dataclasses import replace

from multiway.core.init import unit_gain
from multiway.data.dataset import DataConfig, Source
from multiway.data.prompts import BINS
from multiway.recipes.scenes import PAPER, PLAIN, SIDE, training
from multiway.recipes.vqvae import vqvae_scenes
from multiway.systems.generalist_config import GeneralistConfig, generalist_tokenizer
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.vit import ViTConfig
from multiway.train.run import Init, Run, TrainConfig

#: How often each task is seen, beside the others: drawing has the most tokens, boxes are the hardest.
MIXTURE = {"caption": 1.0, "question": 1.0, "classify": 0.4, "ground": 1.6, "region": 0.4, "draw": 1.4}


def generalist_base() -> Run:
    """SimVLM's base size with location and picture tokens; no paper's run is repeated here.

    Give --data.train.0.path, whose texts are `prompt TAB answer`, and --init.visual-tokenizer the VQ-VAE.
    """
    return Run(
        name="generalist_base",
        system=GeneralistConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=224, augment=PLAIN, workers=8),
        train=TrainConfig(
            steps=100_000,
            batch_size=1024,
            lr=5e-4,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_steps=10_000,
            weight_decay=0.01,
            precision="bf16",
        ),
        init=Init(visual_tokenizer="runs/vqvae/model"),
    )


def generalist_scenes() -> Run:
    """Six tasks of drawn scenes from random weights, with the picture tokens of `vqvae_scenes`.

    A patch of the image encoder is a cell of a scene, a picture token a quarter of one.
    """
    sizes = {"width": 112, "heads": 4, "hidden": 384}
    text = PrefixConfig(vocab_size=250, encoder_layers=2, decoder_layers=2, positions=144, **sizes)
    system = GeneralistConfig(
        # positions as large as what patches show, from the start: of 0.02 they were learned late, and of
        # sines and cosines, which differ little on so small a grid, later
        image=ViTConfig(image_size=SIDE, patch_size=16, depth=2, position_std=0.7, **PAPER, **sizes),
        text=text,
        tokenizer=replace(generalist_tokenizer(BINS, 40), vocab="trained"),
        pictures=vqvae_scenes().system,
    )
    gain = unit_gain(text.width)
    sources = tuple(
        Source(path=f"prompts:{task}:20000:{seed}", weight=weight)
        for seed, (task, weight) in enumerate(MIXTURE.items(), 21)
    )
    return Run(
        name="generalist_scenes",
        system=system,
        data=DataConfig(train=sources, image_size=SIDE, augment=PLAIN),
        train=training(4000, 1e-3, batch_size=32),
        init=Init(visual_tokenizer="runs/vqvae_scenes/model", gain=gain, table_gain=gain),
    )
