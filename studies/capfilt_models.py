"""The study's models: small BLIPs, how they are trained, and how they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from capfilt_worlds import SIDE, Test, plain
from PIL import Image

import multiway
from multiway.bootstrap.filters import ModelFilter
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.metrics.captions import summary
from multiway.systems.base import System
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, blip_tokenizer, med_config
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import ViTConfig
from multiway.tasks.pretrain import pretrain
from multiway.tasks.retrieval import evaluate
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

BATCH = 32
SCENES_VIT = ViTConfig(image_size=SIDE, patch_size=16, width=128, depth=3, heads=4, hidden=512)
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)  # left and right, colour and count must stay true


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps of a model from scratch, and of a fine-tuning."""

    steps: int
    tune: int


#: Sized by the clock: a step takes about a quarter of a second on one core.
BUDGETS = {"scenes": Budget(steps=1200, tune=400), "emoji": Budget(steps=900, tune=300)}
WIDTH = {"scenes": 128, "emoji": 192}


def blip(world: str, vocabulary: Path) -> BLIPConfig:
    """BLIP without momentum and queue, of a size that a core trains in minutes.

    In scenes a patch is a cell of the picture. Emoji are seen through a frozen EfficientNet-Lite0.
    """
    size = len(vocabulary.read_text().splitlines()) + 2
    tokenizer: TokenizerConfig = replace(blip_tokenizer(24, cleaning="none"), vocab=str(vocabulary))
    if world == "scenes":
        image: Any = SCENES_VIT
    else:
        image = BackboneConfig(name="efficientnet_lite0", image_size=96, frozen_blocks="all")
    width = WIDTH[world]
    text = med_config(
        vocab_size=size,
        width=width,
        fusion_layers=3,
        heads=4,
        hidden=4 * width,
        positions=32,
        dropout=0.0,
    )
    return BLIPConfig(
        image=image,
        text=text,
        tokenizer=tokenizer,
        embed_dim=64 if world == "scenes" else 192,
        temperature=0.05,
        temperature_range=(0.01, 0.5),
        momentum=None,
        queue_size=0,
        alpha=0.0,
        positives="ids",
        label_smoothing=0.0,
        rerank="itm+itc",
        caption_length=(2, 22),
    )


def training(steps: int, seed: int, lr: float) -> TrainConfig:
    """AdamW with a cosine."""
    return TrainConfig(
        steps=steps,
        batch_size=BATCH,
        lr=lr,
        min_lr=lr / 50,
        warmup_lr=lr / 50,
        warmup_steps=steps // 10,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        clip_grad=1.0,
        seed=seed,
        save_every=200,
        keep_last=1,
        device="cpu",
    )


def data(world: str, sources: Sequence[str], seed: int) -> DataConfig:
    """Tars of pairs; equal texts are positives of each other."""
    return DataConfig(
        train=tuple(Source(path=path) for path in sources),
        image_size=SIDE if world == "scenes" else 96,
        augment=PLAIN,
        merge_equal_texts=True,
        cache_views=0 if world == "scenes" else 1,
        seed=seed,
    )


def pretrained(
    world: str, vocabulary: Path, tower: str, sources: Sequence[str], *, steps: int, seed: int
) -> Run:
    """A new model on pairs; its image tower starts from `tower`, which was taught classes."""
    return Run(
        name="pretrain",
        system=blip(world, vocabulary),
        data=data(world, sources, seed),
        train=training(steps, seed, 1e-3),
        init=Init(image_tower=tower, gain=(768 / WIDTH[world]) ** 0.5),
    )


def tuned(kind: str, world: str, vocabulary: Path, human: str, base: Path, *, steps: int, seed: int) -> Run:
    """Captioner, filter, or both in one (`shared`), from the same checkpoint on the human pairs."""
    whole = blip(world, vocabulary)
    system: Any = whole
    if kind == "captioner":
        system = CaptionerConfig(
            image=whole.image,
            text=whole.text,
            tokenizer=whole.tokenizer,
            prompt="",
            label_smoothing=0.0,
            caption_length=whole.caption_length,
        )
    elif kind == "filter":
        system = replace(whole, lm_weight=0.0)
    return Run(
        name=kind,
        system=system,
        data=data(world, [human], seed),
        train=training(steps, seed, 3e-4),
        init=Init(checkpoint=str(base / "model")),
    )


def trained(run: Run, out: Path) -> Path:
    """Train, or go on, or take what is there; returns the run's folder."""
    if not (out / "model" / "config.json").exists():
        result = pretrain(run, out)
        if result.stopped_by is not None:
            raise KeyboardInterrupt(result.stopped_by)
    return out


class ItcFilter:
    """The practitioners' baseline: the contrastive similarity alone."""

    threshold = None

    def __init__(self, model: System):
        self.model = model

    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        image = self.model.encode_image(list(pictures))
        found = []
        for row, lines in zip(image, texts, strict=True):
            found.append((self.model.encode_text(list(lines)) @ row).tolist() if lines else [])
        return found


def measured(model: System, tests: Sequence[Test]) -> tuple[dict[str, float], dict[str, list]]:
    """Metrics in percent, `SPLIT/name`, and the outcome of each picture.

    `tr_r1`, `ir_r1`: retrieval in two stages. `retrieval`: their mean. `caption_true`: captions by beam
    search that are so of their picture. `cider`. `told_apart`: P(match) of the true text above that of a
    false one.
    """
    metrics: dict[str, float] = {}
    items: dict[str, list] = {}
    for test in tests:
        source = Source(path=test.source, split=test.split, texts="first")
        found = evaluate(model, Dataset(source), texts="first", k=16)["itm"]
        captions = [c for i in range(0, len(test.images), 50) for c in model.caption(test.images[i : i + 50])]
        true = [float(plain(c) in allowed) for c, allowed in zip(captions, test.true, strict=True)]
        scores: dict[str, list[float]] = {}
        check = ModelFilter(model)
        for i in range(0, len(test.images), 50):
            part = range(i, min(i + 50, len(test.images)))
            rows = check(
                [test.images[j] for j in part], [[test.texts[j], *test.false[j].values()] for j in part]
            )
            for j, row in zip(part, rows, strict=True):
                for kind, score in zip(test.false[j], row[1:], strict=True):
                    scores.setdefault(kind, []).append(float(row[0] > score) + 0.5 * (row[0] == score))
        everything = [x for values in scores.values() for x in values]
        cider = summary(captions, [[text] for text in test.texts])["cider"]
        metrics |= {
            f"{test.name}/tr_r1": found["tr_r1"],
            f"{test.name}/ir_r1": found["ir_r1"],
            f"{test.name}/retrieval": (found["tr_r1"] + found["ir_r1"]) / 2,
            f"{test.name}/caption_true": 100 * sum(true) / len(true),
            f"{test.name}/cider": cider,
            f"{test.name}/told_apart": 100 * sum(everything) / len(everything),
            **{f"{test.name}/told_apart/{kind}": 100 * sum(v) / len(v) for kind, v in scores.items()},
        }
        items |= {f"{test.name}/caption_true": true, f"{test.name}/captions": captions[:20]}
    return {name: round(value, 3) for name, value in metrics.items()}, items


def load(folder: Path) -> System:
    """A trained model, ready to be asked."""
    torch.set_num_threads(1)
    return multiway.load(str(folder / "model")).eval()
