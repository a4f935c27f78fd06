"""How much of a picture should MAE remove? Its figure 5 (arXiv:2111.06377), on the bundled drawings.

    python studies/mae.py            run every arm that has no result yet, two at a time, then judge
    python studies/mae.py --judge    only judge what is there
    python studies/mae.py --tiny     a few steps of everything, elsewhere: does it run?

Every arm is the same MAE and sees the same drawings of `train` for the same number of steps; they differ in
the share of patches that is removed. `none` is not trained at all. Then a linear probe of the frozen tower's
mean patch learns the drawings' nine groups (animals, food, flags, ...) from `train`, and is asked of drawings
that nothing was trained on: new names, and an unseen style.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn
from arms import ROOT, SEEDS, Claim, Study, file_name, in_processes, keep, main

import multiway
from multiway.data.dataset import DataConfig, Source
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.systems.base import System
from multiway.systems.mae import MAE, MAEConfig
from multiway.systems.mae_heads import mae_vit
from multiway.tasks import probe
from multiway.train.build import build
from multiway.train.parallel import seed_all
from multiway.train.run import Run

RATIOS = {"10 %": 0.1, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "90 %": 0.9}
ARMS = ("none", *RATIOS)
SIDE, PATCH = 64, 8
METRICS = {
    "combination": "top-1 of nine groups by a linear probe, 294 drawings of new names",
    "style": "top-1 of nine groups by a linear probe, drawings of an unseen style",
}
PAPER = "the paper's linear probe on ImageNet: 54.6 at 10 %, 73.5 at 75 %"
CLAIMS = (
    Claim(says="removing most patches beats removing few", better="75 %", worse="10 %", paper=PAPER),
    Claim(says="three quarters beat half", better="75 %", worse="50 %", paper="the paper's best is 75 %"),
    Claim(
        says="three quarters beat nine tenths", better="75 %", worse="90 %", paper="the paper's best is 75 %"
    ),
    Claim(
        says="pre-training beats random weights",
        better="75 %",
        worse="none",
        paper="no figure in the paper: it compares fine-tuned networks there",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps, and pictures that the probe learns from and is asked of (None: all)."""

    steps: int = 2000
    pictures: int | None = None


def config(ratio: float) -> MAEConfig:
    """A MAE of a size that a core trains in minutes."""
    image = mae_vit(image_size=SIDE, patch_size=PATCH, width=128, depth=4, heads=4, hidden=512, sincos=True)
    sizes = {"decoder_width": 64, "decoder_layers": 2, "decoder_heads": 4, "decoder_hidden": 256}
    return MAEConfig(image=image, mask_ratio=ratio, **sizes)


def pretraining(name: str, seed: int, budget: Budget) -> Run:
    """The drawings' pictures alone."""
    return Run(
        name="masked",
        system=config(RATIOS[name]),
        data=DataConfig(
            train=(Source(path="emoji", split="train", use="images"),),
            image_size=SIDE,
            augment=drawn.PLAIN,
            seed=seed,
        ),
        train=drawn.training(budget.steps, seed, 1.5e-3, betas=(0.9, 0.95), clip_grad=None),
    )


def probed(model: System, budget: Budget) -> dict[str, float]:
    """Both metrics."""
    train = LabelledPictures(LabelledSource(path="emoji", split="train", label="group"))
    found = {}
    for split in METRICS:
        source = LabelledSource(path="emoji", split=split, label="group")
        data = LabelledPictures(source, labels=train.labels)
        pair = (train, data) if budget.pictures is None else (Some(train, budget.pictures), Some(data, 20))
        found[split] = round(probe.measure(model, *pair, pool="mean", batch_size=64).result["top1"], 2)
    return found


class Some(LabelledPictures):
    """Every so many of the samples, for the tiny run."""

    def __init__(self, data: LabelledPictures, count: int):
        self.data, self.labels = data, data.labels
        self.rows = range(0, len(data), max(len(data) // count, 1))

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> Any:
        return self.data.image(self.rows[i])

    def label(self, i: int) -> int:
        return self.data.label(self.rows[i])


def arm(study: Study, name: str, seed: int, budget: Budget) -> None:
    """One arm: pre-training, then the probe."""

    def measure() -> dict[str, Any]:
        out: Path = study.work / file_name(name, seed)
        if name == "none":
            seed_all(seed)
            model, spent = MAE(config(0.75)).eval(), {}
        else:
            spent = {"masked": drawn.trained(pretraining(name, seed, budget), out, build)}
            model = multiway.load(out / "model")
        count = sum(p.numel() for p in model.image_tower.parameters()) / 1e3
        return {"metrics": probed(model, budget), "parameters": count, "spent": spent}

    keep(study, name, seed, measure)


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("mae-study-tiny" if tiny else "mae-study")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "mae"
    return Study(name="mae", arms=ARMS, claims=CLAIMS, metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """Every arm that has no result yet, all arms of a seed before the next seed."""
    budget = Budget(steps=2, pictures=60) if tiny else Budget()
    seeds = SEEDS[:1] if tiny else SEEDS
    in_processes(arm, [(study, name, seed, budget) for seed in seeds for name in ARMS], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run)
