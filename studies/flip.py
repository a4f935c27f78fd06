"""Is half a picture enough? FLIP's claim (arXiv:2212.00794, table 1, figure 1), on drawn scenes.

    python studies/flip.py            run every arm that has no result yet, two at a time, then judge
    python studies/flip.py --judge    only judge what is there
    python studies/flip.py --tiny     a few steps of everything, elsewhere: does it run?

Every arm is the same pair of towers and sees the same pairs in the same order; what it leaves out of each
picture differs: nothing (CLIP), half, or three quarters of 100 patches. `whole`, `half` and `quarter` train
for the same time, measured on this machine before the first arm: the less is seen, the more steps. `half
steps` and `quarter steps` train for as many steps as `whole` instead, in less time. All are asked of whole
pictures, without the tuning on whole ones that FLIP ends with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import drawn
from arms import ROOT, SEEDS, Claim, Study, file_name, in_processes, keep, main
from drawn import SIDE, Sizes, World

import multiway
from multiway.data.dataset import Dataset, Source
from multiway.recipes.scenes import PAPER
from multiway.systems.flip import FLIPConfig, flip_text, flip_vit
from multiway.tasks import retrieval
from multiway.train.build import build
from multiway.train.run import Run

#: Arm -> (share of the patches that is left out, whether it gets as much time as `whole`).
ARMS = {
    "whole": (0.0, True),
    "half": (0.5, True),
    "quarter": (0.75, True),
    "half steps": (0.5, False),
    "quarter steps": (0.75, False),
}
PATCH = 8
METRICS = {"retrieval": "mean R@1 of texts and of pictures, 500 new scenes, whole pictures, by ITC"}
TABLE = "the paper's table 1 (ImageNet zero-shot, equal epochs): 68.6 whole, 69.6 half, 68.2 a quarter"
CLAIMS = (
    Claim(says="in equal time, half a picture beats the whole", better="half", worse="whole", paper=TABLE),
    Claim(says="in equal time, a quarter beats the whole", better="quarter", worse="whole", paper=TABLE),
    Claim(
        says="with equal steps, the whole beats half a picture",
        better="whole",
        worse="half steps",
        paper="the paper's table 1 at an equal batch of 16k: 68.6 whole, 68.5 half",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps of `whole`, and how often a step is timed."""

    steps: int = 600
    timed: int = 25


def config(world: World, drop: float) -> FLIPConfig:
    """Towers of a size that a core trains in minutes."""
    sizes = {"width": 96, "heads": 3, "hidden": 384}
    return FLIPConfig(
        image=flip_vit(image_size=SIDE, patch_size=PATCH, depth=4, **PAPER, **sizes),
        text=flip_text(vocab_size=drawn.words(world), layers=2, positions=24, **sizes),
        tokenizer=drawn.tokenizer(world),
        embed_dim=96,
        positives="ids",
        drop=drop,
    )


def run_of(world: World, name: str, seed: int, steps: int) -> Run:
    """The contrast of an arm."""
    return Run(
        name="pairs",
        system=config(world, ARMS[name][0]),
        data=drawn.data(world.pairs(seed), seed),
        train=drawn.training(steps, seed, 1e-3),
    )


def step_seconds(world: World, budget: Budget) -> dict[str, float]:
    """Seconds of a step by the share that is left out."""
    runs = {str(drop): run_of(world, name, 0, budget.steps) for name, (drop, _) in ARMS.items()}
    return drawn.step_seconds(runs, build, budget.timed)


def steps_of(name: str, seconds: dict[str, float], budget: Budget) -> int:
    """Optimizer steps of an arm."""
    drop, equal_time = ARMS[name]
    return round(budget.steps * seconds["0.0"] / seconds[str(drop)]) if equal_time else budget.steps


def arm(study: Study, world: World, name: str, seed: int, budget: Budget) -> None:
    """One arm: contrast, then retrieval."""

    def measure() -> dict[str, Any]:
        seconds = json.loads((study.work / "step_seconds.json").read_text())
        out, steps = study.work / file_name(name, seed), steps_of(name, seconds, budget)
        spent = {"pairs": drawn.trained(run_of(world, name, seed, steps), out, build)}
        model = multiway.load(out / "model")
        found = retrieval.evaluate(model, Dataset(Source(path=world.tests()[0])), k=16, batch_size=64)["itc"]
        return {
            "metrics": {"retrieval": round((found["tr_r1"] + found["ir_r1"]) / 2, 2)},
            "parameters": sum(p.numel() for p in model.parameters()) / 1e3,
            "steps": steps,
            "step_seconds": seconds,
            "spent": spent,
        }

    keep(study, name, seed, measure)


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("flip-study-tiny" if tiny else "flip-study")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "flip"
    return Study(name="flip", arms=tuple(ARMS), claims=CLAIMS, metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """The time of a step first, with nothing beside it; then every arm that has no result yet."""
    sizes = Sizes(pairs=200, reasoning=1, test=20, test_reasoning=1) if tiny else Sizes()
    budget = Budget(steps=2, timed=1) if tiny else Budget()
    world, seeds = World(study.work / "data", sizes), SEEDS[:1] if tiny else SEEDS
    for seed in seeds:
        world.pairs(seed)
    world.tests(), world.vocabulary()
    timed = study.work / "step_seconds.json"
    if not timed.exists():
        timed.write_text(json.dumps(step_seconds(world, budget)) + "\n")
    in_processes(arm, [(study, world, name, seed, budget) for seed in seeds for name in ARMS], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run)
