"""Does training in stages help? VLMo's claim (arXiv:2111.02358, section 3.3), on drawn scenes.

    python studies/stagewise.py            run every arm that has no result yet, two at a time, then judge
    python studies/stagewise.py --judge    only judge what is there
    python studies/stagewise.py --tiny     a few steps of everything, elsewhere: does it run?

Every arm is the same VLMo and sees the same pairs for the same number of steps, in the same order. They
differ in what it starts from:

    random   fresh weights
    image    BEiT's masked image modelling on other pictures (stage 1)
    both     that, and then masked language modelling on other captions, attention standing still (stage 2)

The stages before the pairs are extra compute on data without pairs, as in the paper: the budget of pairs is
what is held equal. Visual tokens are k-means clusters of patches, so the first stage brings no knowledge from
outside. Then each model is fine-tuned on pairs of pictures, all alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import drawn
import torch
from arms import ROOT, SEEDS, Claim, Study, in_processes, keep, main
from drawn import METRICS, SIDE, PatchCodes, Sizes, World

import multiway
from multiway.core.init import BEIT_STD, unit_gain
from multiway.data.dataset import Dataset, Source
from multiway.data.patch_masks import BlockMask
from multiway.recipes.scenes import PAPER
from multiway.systems.base import System
from multiway.systems.beit_config import BEiTConfig, beit_vit
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo_config import TextConfig, VLMoConfig
from multiway.systems.vlmo_stages import frozen
from multiway.tasks import finetune
from multiway.train.build import build
from multiway.train.parallel import Ranks
from multiway.train.run import Init, Run

#: An object lies on several patches, so a masked one can be told from its neighbours; of patches as large as
#: the cells of a scene, the first stage learned no more than how frequent each token is.
PATCH, CODES = 10, 128
WIDTH, DEPTH, HEADS, HIDDEN = 96, 4, 3, 384
GAIN = unit_gain(WIDTH)
ARMS = ("random", "image", "both")
CLAIMS = (
    Claim(
        says="starting from pictures and texts beats starting from random weights",
        better="both",
        worse="random",
        paper="the paper's: random is the lowest (no figure at hand)",
    ),
    Claim(
        says="starting from pictures beats starting from random weights",
        better="image",
        worse="random",
        paper="the paper's: random is the lowest (no figure at hand)",
    ),
    Claim(
        says="the stage of texts adds to that of pictures",
        better="both",
        worse="image",
        paper="the paper's NLVR2 dev / test-P: 82.09 / 82.49 after both, 80.33 / 81.06 after pictures",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps of each stage: batches of 64 pictures, 32 texts, 32 pairs, 64 pairs of pictures."""

    image: int = 800
    text: int = 2000
    pairs: int = 400
    reasoning: int = 200


def image_run(world: World, seed: int, budget: Budget) -> Run:
    """Stage 1."""
    image = beit_vit(image_size=SIDE, patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, hidden=HIDDEN)
    image = replace(image, **PAPER)
    system = BEiTConfig(image=image, codes=CODES, mask=BlockMask(patches=16, smallest=1))
    return Run(
        name="image",
        system=system,
        data=drawn.data(world.pictures(seed), seed),
        train=drawn.training(budget.image, seed, 1e-3, batch_size=64),
        init=Init(gain=unit_gain(WIDTH, BEIT_STD)),  # BEiT draws smaller than VLMo
    )


def vlmo(world: World, **changes: Any) -> VLMoConfig:
    """VLMo of a size that a core trains in minutes; one joint layer."""
    options: dict[str, Any] = {
        "image": ImageConfig(image_size=SIDE, patch_size=PATCH, **PAPER),
        "text": TextConfig(vocab_size=drawn.words(world), positions=32, dropout=0.0),
        "tokenizer": drawn.tokenizer(world),
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "hidden": HIDDEN,
        "joint_layers": 1,
        "drop_path": 0.0,
        "relative_positions": 32,
        "positives": "ids",
        # of few words, and for few steps: with the paper's 0.15 and 0.25 fusion hardly began to learn
        "mlm_probability": 0.3,
        "mlm_weight": 1.0,
    }
    return VLMoConfig(**(options | changes))


def text_run(world: World, seed: int, budget: Budget, image: Path) -> Run:
    """Stage 2, from stage 1."""
    system = vlmo(world, stage="text", joint_layers=0)
    return Run(
        name="text",
        system=system,
        data=drawn.data(world.texts(seed), seed),
        train=drawn.training(budget.text, seed, 1e-3, freeze=frozen("text", system)),
        init=Init(checkpoint=str(image / "model"), gain=GAIN),
    )


def pairs_run(world: World, seed: int, budget: Budget, start: Path | None) -> Run:
    """Stage 3."""
    return Run(
        name="pairs",
        system=vlmo(world),
        data=drawn.data(world.pairs(seed), seed),
        train=drawn.training(budget.pairs, seed, 1e-3),
        init=Init(checkpoint=None if start is None else str(start / "model"), gain=GAIN),
    )


def make_with_codes(run: Run, ranks: Ranks) -> tuple[System, Any]:
    """A run's system and loader, with the visual tokens of its own pictures."""
    system, loader = build(run, ranks)
    system.learn_from(PatchCodes(run.data.train[0].path, CODES, run.train.seed, PATCH))
    return system, loader


def entropy(run: Run) -> float:
    """Of how frequent each visual token is, in nats: about the loss of a model that sees no other patch."""
    source = run.data.train[0].path
    codes, data = PatchCodes(source, CODES, run.train.seed, PATCH), Dataset(Source(path=source))
    images = (drawn.pixels(data.image(i))[None] for i in range(min(len(data), 500)))
    tokens = torch.cat([codes.visual_tokens(image) for image in images]).flatten()
    share = tokens.bincount(minlength=CODES) / len(tokens)
    return round(float(torch.special.entr(share).sum()), 4)


def stage(world: World, work: Path, name: str, seed: int, budget: Budget) -> dict[str, float]:
    """Stage 1 or 2 of a seed, which arms share."""
    image = work / f"image-s{seed}"
    if name == "image":
        run = image_run(world, seed, budget)
        return drawn.trained(run, image, make_with_codes) | {"entropy": entropy(run)}
    return drawn.trained(text_run(world, seed, budget, image), work / f"text-s{seed}", build)


def arm(study: Study, world: World, name: str, seed: int, budget: Budget) -> None:
    """One arm: pairs, then two pictures, then both measures."""

    def measure() -> dict[str, Any]:
        start = {"random": None, "image": f"image-s{seed}", "both": f"text-s{seed}"}[name]
        out, two = study.work / f"pairs-{name}-s{seed}", study.work / f"reasoning-{name}-s{seed}"
        run = pairs_run(world, seed, budget, None if start is None else study.work / start)
        spent = {"pairs": drawn.trained(run, out, build)}
        for before in {"image": ("image",), "both": ("image", "text")}.get(name, ()):
            spent[before] = stage(world, study.work, before, seed, budget)
        data = drawn.labelled(world.reasoning(seed), seed)
        train = drawn.training(budget.reasoning, seed, 2e-4, batch_size=64)
        run = finetune.plan("nlvr2", out / "model", data, train=train)
        make = lambda run, ranks: finetune.build("nlvr2", run, ranks)  # noqa: E731
        spent["reasoning"] = drawn.trained(run, two, make)
        dual, judge = multiway.load(out / "model"), multiway.load(two / "model")
        count = sum(p.numel() for p in dual.parameters()) / 1e3
        return {"metrics": drawn.measured(dual, judge, world), "parameters": count, "spent": spent}

    keep(study, name, seed, measure)


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("stagewise-tiny" if tiny else "stagewise")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "stagewise"
    return Study(name="stagewise", arms=ARMS, claims=CLAIMS, metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """The stages first, which arms share; then the arms."""
    sizes = Sizes(pairs=200, reasoning=200, test=20, test_reasoning=40) if tiny else Sizes()
    budget = Budget(image=3, text=3, pairs=3, reasoning=3) if tiny else Budget()
    world = World(study.work / "data", sizes)
    world.prepare(SEEDS)
    # several workers share the stages of all seeds; one finishes a seed, and has its results, before the next
    for seeds in [SEEDS] if workers > 1 else [(seed,) for seed in SEEDS]:
        missing = [seed for seed in seeds if not all(study.path(a, seed).exists() for a in ARMS)]
        for name in ("image", "text"):
            in_processes(stage, [(world, study.work, name, seed, budget) for seed in missing], workers)
        in_processes(arm, [(study, world, a, seed, budget) for seed in seeds for a in ARMS], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run)
