"""Do experts per modality help, and which? VLMo's and BEiT-3's claims, on drawn scenes.

    python studies/experts.py            run every arm that has no result yet, two at a time, then judge
    python studies/experts.py --judge    only judge what is there
    python studies/experts.py --tiny     a few steps of everything, elsewhere: does it run?

Every arm is one BEiT-3 network, learns masked data modelling on the same pairs for as many steps, is then
fine-tuned for retrieval (ITC), and that one for two pictures, all alike: without ITC, which trains the class
tokens, fine-tuning on two pictures stayed at chance. The arms differ in what a token goes through:

    experts            a feed-forward for pictures, one for texts, and a third one for pairs in the top layer
    single             one feed-forward for all
    nojoint            two feed-forwards, and none for pairs
    doubled            as nojoint, and attention's projections and norm exist twice too

A token goes through one feed-forward in all of them, so arms of one width have equal compute (`_compute`) and
unequal numbers of parameters. In an arm at equal parameters (`_params`) the feed-forwards are so wide that it
has as many as the arm that it is compared with. The released BEiT-3's further norms are in no arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import drawn
import torch
from arms import ROOT, SEEDS, Claim, Study, in_processes, keep, main
from drawn import METRICS, PATCH, SIDE, PatchCodes, Sizes, World
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from multiway.core.block import Block, Stack
from multiway.core.init import unit_gain, widen
from multiway.recipes.scenes import PAPER
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.beit3_config import BEiT3Config, TextConfig
from multiway.systems.patches import ImageConfig
from multiway.tasks import finetune
from multiway.text import Tokenizer
from multiway.train.build import build_loader
from multiway.train.parallel import Ranks
from multiway.train.run import Run

CODES = 128
WIDTH, DEPTH, HEADS, HIDDEN = 96, 4, 3, 384


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a token goes through.

    Attributes:
        experts: a feed-forward a modality, or one for all. doubled: attention likewise.
        joint: top layers with a feed-forward for pairs. hidden: width of the feed-forwards' middle.
    """

    experts: bool = True
    doubled: bool = False
    joint: int = 0
    hidden: int = HIDDEN


FULL, SINGLE = Form(joint=1), Form(experts=False)
NOJOINT, DOUBLED = Form(), Form(doubled=True)
#: arm -> (form, the form whose number of parameters it shall have; None: its own)
ARMS: dict[str, tuple[Form, Form | None]] = {
    "experts": (FULL, None),
    "single_compute": (SINGLE, None),
    "single_params": (SINGLE, FULL),
    "nojoint_compute": (NOJOINT, None),
    "nojoint_params": (NOJOINT, FULL),
    "doubled_compute": (DOUBLED, None),
    "doubled_params": (DOUBLED, NOJOINT),
}
MOME = "the paper's NLVR2 dev / test-P (VLMo): 80.13 / 80.31 with experts, 78.81 / 79.27 without"
SHARED = "the paper's (VLMo, table 7): shared is better (no figure at hand); BEiT-3 as released is doubled"
JOINT = "the paper's (VLMo): without it results fall (no figure at hand)"
CLAIMS = (
    Claim(
        says="experts beat one feed-forward, equal compute",
        better="experts",
        worse="single_compute",
        paper=MOME,
    ),
    Claim(
        says="experts beat one feed-forward, equal parameters",
        better="experts",
        worse="single_params",
        paper=MOME,
    ),
    Claim(
        says="shared attention beats doubled attention, equal compute",
        better="nojoint_compute",
        worse="doubled_compute",
        paper=SHARED,
    ),
    Claim(
        says="shared attention beats doubled attention, equal parameters",
        better="nojoint_compute",
        worse="doubled_params",
        paper=SHARED,
    ),
    Claim(
        says="a joint expert on top helps, equal compute",
        better="experts",
        worse="nojoint_compute",
        paper=JOINT,
    ),
    Claim(
        says="a joint expert on top helps, equal parameters",
        better="experts",
        worse="nojoint_params",
        paper=JOINT,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps of 64 samples: of masked data modelling, of ITC, and of two pictures."""

    masked: int = 800
    retrieval: int = 200
    reasoning: int = 400


class One(nn.ModuleDict):
    """One module, whichever expert is asked for."""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__("all")


def vary(system: Any, form: Form) -> None:
    """Give a BEiT-3 network of the paper's form the blocks of `form`, freshly initialised."""
    network, config = system.network, system.config
    network.joint_from = config.depth - form.joint

    def block(i: int) -> Block:
        names = ("image", "text") if form.experts else ("all",)
        if i >= network.joint_from:
            names = (*names, "joint")
        sizes = config.width, config.heads, form.hidden
        made = Block(*sizes, experts=names, eps=config.eps, doubled=form.doubled)
        if not form.experts:
            made.ffn, made.norm2 = One(made.ffn), One(made.norm2)
        return made

    network.blocks = Stack(block(i) for i in range(config.depth))
    network.start_small()
    widen(network, unit_gain(config.width))


def beit3(world: World) -> BEiT3Config:
    """BEiT-3 of a size that a core trains in minutes."""
    return BEiT3Config(
        form="paper",
        joint_layers=0,
        image=ImageConfig(image_size=SIDE, patch_size=PATCH, **PAPER),
        text=TextConfig(vocab_size=drawn.words(world), positions=32),
        tokenizer=drawn.tokenizer(world),
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        hidden=HIDDEN,
        codes=CODES,
        pair_text_mask=0.4,
        head_scale=unit_gain(4 * WIDTH),
    )


def built(config: Any, form: Form) -> Any:
    """A system with the blocks of `form`."""
    system: Any = NETWORKS[config.system].network()(config)
    vary(system, form)
    return system


@cache
def parameters(world: World, form: Form) -> int:
    """Of the network alone."""
    with torch.device("meta"):
        return sum(p.numel() for p in built(beit3(world), form).network.parameters())


def fitted(world: World, form: Form, like: Form | None) -> Form:
    """The form with feed-forwards so wide that it has as many parameters as another one."""
    if like is None:
        return form
    few, many = (parameters(world, replace(form, hidden=hidden)) for hidden in (8, 16))
    each = (many - few) / 8  # the number is linear in the width
    return replace(form, hidden=8 * round((8 + (parameters(world, like) - few) / each) / 8))


@torch.no_grad()
def mflops(system: Any) -> float:
    """Of one pair's forward pass."""
    image, ids = torch.zeros(1, 3, SIDE, SIDE), torch.full((1, 12), 5)
    with FlopCounterMode(display=False) as counter:
        system.eval().fuse(image, ids, torch.ones_like(ids))
    return counter.get_total_flops() / 1e6


def make(form: Form, start: Path | None, run: Run, ranks: Ranks) -> tuple[System, Any]:
    """A stage's system and loader: fresh with visual tokens, or from the stage before."""
    system = built(run.system, form)
    system.tokenizer = Tokenizer.load(run.system.tokenizer)
    if start is None:
        system.learn_from(PatchCodes(run.data.train[0].path, CODES, run.train.seed))
    else:
        take(system, start)
    if run.name == "reasoning":
        return system, finetune.build_loader("nlvr2", run, system, ranks)
    return system, build_loader(run, system, ranks)


def take(system: System, folder: Path) -> None:
    """Every tensor of a stage's model that has a place in the next one."""
    given, own = load_file(folder / "model" / "model.safetensors"), system.state_dict()
    system.load_state_dict({n: t for n, t in given.items() if n in own}, strict=False)


def arm(study: Study, world: World, name: str, seed: int, budget: Budget) -> None:
    """One arm: masked data modelling, then both fine-tunings, then both measures."""

    def measure() -> dict[str, Any]:
        form = fitted(world, *ARMS[name])
        folders = {s: study.work / f"{s}-{name}-s{seed}" for s in ("masked", "retrieval", "reasoning")}
        base, pairs = beit3(world), drawn.data(world.pairs(seed), seed)
        training = partial(drawn.training, seed=seed, batch_size=64)
        probe = built(base, form)
        heads = {task: probe.fine_tuning(task) for task in ("retrieval", "nlvr2")}
        two = drawn.labelled(world.reasoning(seed), seed)
        runs = {
            "masked": Run(name="masked", system=base, data=pairs, train=training(budget.masked, lr=1e-3)),
            "retrieval": Run(
                name="retrieval",
                system=replace(heads["retrieval"], positives="ids"),
                data=pairs,
                train=training(budget.retrieval, lr=5e-4),
            ),
            "reasoning": Run(
                name="reasoning",
                system=heads["nlvr2"],
                data=two,
                train=training(budget.reasoning, lr=2e-4),
            ),
        }
        spent, models, start = {}, {}, None
        for stage, run in runs.items():
            spent[stage] = drawn.trained(run, folders[stage], partial(make, form, start))
            if start is not None:
                models[stage] = built(run.system, form).eval()
                models[stage].tokenizer = Tokenizer.load(run.system.tokenizer)
                take(models[stage], folders[stage])
            start = folders[stage]
        return {
            "metrics": drawn.measured(models["retrieval"], models["reasoning"], world),
            "parameters": parameters(world, form) / 1e3,
            "mflops": round(mflops(probe), 2),
            "hidden": form.hidden,
            "spent": spent,
        }

    keep(study, name, seed, measure)


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("experts-tiny" if tiny else "experts")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "experts"
    return Study(name="experts", arms=tuple(ARMS), claims=CLAIMS, metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """Every arm that has no result yet, all arms of a seed before the next seed."""
    sizes = Sizes(pairs=200, reasoning=200, test=20, test_reasoning=40) if tiny else Sizes()
    budget = Budget(masked=2, retrieval=2, reasoning=2) if tiny else Budget()
    world = World(study.work / "data", sizes)
    world.prepare(SEEDS)
    in_processes(arm, [(study, world, name, seed, budget) for seed in SEEDS for name in ARMS], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run)
