"""One table that nobody has published: the line's systems at one size, on the same pairs, side by side.

    python studies/family.py            run every part that has no result yet, two at a time, then the table
    python studies/family.py --judge    only the table, of what is there
    python studies/family.py --tiny     a few steps of everything, elsewhere: does it run?

First each system's cost is measured: processor seconds, memory, counted FLOPs and passes of a training step
of 32 pairs on one core. Then a learning rate is chosen for each by the mean loss at the end of short runs;
what is fine-tuned has one rate for all. Then each is trained from scratch, at a rate that stays as it is
after the warm-up, so that one run passes all budgets:

    steps   the same number of optimizer steps
    flops   the same number of counted FLOPs
    time    the same number of seconds, by the cost that was measured

At each it is asked for all that it defines: retrieval by its contrast and re-ranked by its matching head,
captions, and, after a fine-tuning that is alike for all, questions and pairs of pictures. BEiT-3's masked
pre-training has neither contrast nor captions: it is fine-tuned for both on the same pairs, on top of its
budget, and for questions and pairs of pictures after its contrast. The generalist's captions answer one
prompt, and questions are prompts to it. No arm has momentum models, queues or dropout. What learns from
pictures alone (MAE, BEiT) has none of these measures. The drawn world has three seeds, the bundled emoji one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import drawn
import torch
from arms import ROOT, SEEDS, Study, in_processes, keep, main
from drawn import PatchCodes, Sizes
from family_members import CODES, PROMPT, WORDS, World, drawings, members, scenes
from family_table import METRICS, SYSTEMS, table
from torch import Tensor

import multiway
from multiway.core.block import Block
from multiway.core.flops import counted
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledSource
from multiway.data.questions import Questions
from multiway.errors import UserError
from multiway.generation import GenerationConfig
from multiway.metrics.captions import summary
from multiway.systems.asking import Asking
from multiway.systems.base import System
from multiway.tasks import finetune, retrieval, vqa
from multiway.train.build import build
from multiway.train.parallel import Ranks
from multiway.train.run import Init, Run

RATES, WARMUP = (5e-4, 1e-3, 2e-3), 40
#: Opens a world in whichever process it is called.
Open = Callable[[], World]
WORLDS: dict[str, tuple[int, ...]] = {"scenes": SEEDS, "emoji": SEEDS[:1]}
ASKED = ("scenes",)  # the world that has questions


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the arms have in common.

    Attributes:
        steps: of the arms of equal steps. compute: so many steps of the system `of` are the budget of FLOPs
            and of time.
        sweep: steps of a run that tries a learning rate. after: of a fine-tuning on the same pairs.
        task: of 64 samples each, of a fine-tuning for questions, or for two pictures.
        repeats: of a step that is timed.
    """

    steps: int = 500
    compute: int = 1000
    of: str = "coca"
    sweep: int = 100
    after: int = 150
    task: int = 200
    repeats: int = 25


def world_of(name: str, work: Path, sizes: Sizes) -> World:
    """The drawn scenes, or the bundled emoji; what is drawn is written once."""
    return (scenes if name == "scenes" else drawings)(work / name, sizes)


def make(world: World, run: Run, ranks: Ranks) -> tuple[System, Any]:
    """A run's system and loader; masked data modelling gets visual tokens from the pictures themselves."""
    system, loader = build(run, ranks)
    if run.system.system == "beit3":
        system.learn_from(PatchCodes(world.pictures(run.train.seed), CODES, run.train.seed))
    return system, loader


def pretrain(world: World, name: str, seed: int, lr: float, steps: int) -> Run:
    """A system from scratch; a longer run begins as a shorter one does."""
    member, data = members(world)[name], world.data(seed)
    return Run(
        name="pretrain",
        system=member.pretrain,
        data=replace(data, train=tuple(replace(source, prompt=member.prompt) for source in data.train)),
        train=drawn.training(steps, seed, lr, schedule="constant", warmup_steps=WARMUP),
        init=Init(gain=member.gain),
    )


def pretrained(
    study: Study, world: World, place: str, name: str, seed: int, lr: float, steps: int
) -> tuple[Path, dict[str, float]]:
    """A run up to so many steps, which goes on from fewer: the folder of its model, and what was spent."""
    out = study.work / f"{place}-{name}-lr{lr:g}-s{seed}"
    here = out / f"after-{steps}"
    if not (here / "spent.json").exists():
        spent = drawn.trained(pretrain(world, name, seed, lr, steps), out, partial(make, world))
        shutil.copytree(out / "model", here / "model", dirs_exist_ok=True)
        shutil.move(out / "spent.json", here)
        return here, spent
    return here, json.loads((here / "spent.json").read_text())


# --- what a step costs


def costs(study: Study, open_: Open, place: str, budget: Budget) -> None:
    """Seconds, FLOPs, passes and memory of each system's training step of 32 pairs."""
    if all(study.path(f"{place}-{name}-cost", 0).exists() for name in SYSTEMS):
        return
    world = open_()
    runs = {name: pretrain(world, name, 0, RATES[0], budget.steps) for name in SYSTEMS}
    seconds = drawn.step_seconds(runs, partial(make, world), budget.repeats)
    for name, run in runs.items():
        keep(study, f"{place}-{name}-cost", 0, partial(cost, world, run, seconds[name]))


def cost(world: World, run: Run, seconds: float) -> dict[str, Any]:
    """What a step costs that takes so many seconds."""
    system, loader = make(world, run, Ranks(0, 1, torch.device("cpu")))
    batch, state = next(iter(loader.iterate())), system.init_state()

    def losses() -> Tensor:
        return system.losses(batch, state, None, torch.Generator().manual_seed(0))["loss"]

    with counted() as counter:
        losses().backward()
    system.zero_grad(set_to_none=True)
    return {
        "metrics": {},
        "step": {
            "seconds": seconds,
            "gflops": round(counter.get_total_flops() / 1e9, 3),
            "passes": passes(system, losses, run.train.batch_size),
            "kept_mb": round(kept(system, losses) / 2**20, 1),
            "parameters": sum(p.numel() for p in system.parameters() if p.requires_grad) / 1e3,
        },
    }


def passes(system: System, losses: Callable[[], Tensor], pairs: int) -> float:
    """How often a step's losses send a pair through the blocks, on average over them: a block that reads the
    texts, and the pairs with two negatives for each, counts four times, however they are put in batches.
    """
    rows: list[int] = []
    blocks = [module for module in system.modules() if isinstance(module, Block)]

    def count(block: Block, given: tuple[Tensor, ...], options: dict[str, Any], output: Tensor) -> None:
        ragged = options.get("ragged")
        rows.append(len(given[0]) if ragged is None else ragged.batch)

    hooks = [block.register_forward_hook(count, with_kwargs=True) for block in blocks]
    losses()
    for hook in hooks:
        hook.remove()
    return round(sum(rows) / len(blocks) / pairs, 2)


def kept(system: System, losses: Callable[[], Tensor]) -> int:
    """Bytes that a step's losses keep for the backward pass, the weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in system.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses()  # its graph must live until everything was seen
    return sum(found.values())


def steps_of(study: Study, place: str, name: str, budget: Budget) -> dict[str, int]:
    """Budget -> optimizer steps of a system; no fewer than those that tried a rate, which are its first."""

    def step(of: str) -> dict[str, float]:
        return json.loads(study.path(f"{place}-{of}-cost", 0).read_text())["step"]

    own, like = step(name), step(budget.of)
    equal = {
        "steps": budget.steps,
        "flops": round(budget.compute * like["gflops"] / own["gflops"]),
        "time": round(budget.compute * like["seconds"] / own["seconds"]),
    }
    return {by: max(steps, budget.sweep) for by, steps in equal.items()}


def blind(study: Study, open_: Open, place: str) -> None:
    """What a guess gets right that knows no picture."""

    def measure() -> dict[str, Any]:
        questions = open_().questions
        assert questions is not None  # asked for only then
        train, test = questions
        told = [Questions(LabelledSource(path=path)) for path in (*map(train, WORLDS[place]), test)]
        found = [vqa.by_question(asked, told[-1]) for asked in told[:-1]]
        return {"metrics": {"vqa": round(fmean(found), 2)}}

    keep(study, f"{place}-blind", 0, measure)


# --- learning rates


def sweep(study: Study, open_: Open, place: str, name: str, lr: float, budget: Budget) -> None:
    """A short run; its mean loss over the last fifth decides."""

    def measure() -> dict[str, Any]:
        out, _ = pretrained(study, open_(), place, name, SEEDS[0], lr, budget.sweep)
        return {"metrics": {}, "lr": lr, "loss": drawn.last_loss(out.parent, 5)}

    keep(study, f"{place}-{name}-lr{lr:g}", 0, measure)


def best_rate(study: Study, place: str, name: str) -> float:
    """The learning rate of the lowest loss."""
    found = [json.loads(study.path(f"{place}-{name}-lr{lr:g}", 0).read_text()) for lr in RATES]
    return min(found, key=lambda row: row["loss"])["lr"]


# --- the arms


def arms(study: Study, open_: Open, place: str, name: str, seed: int, budget: Budget) -> None:
    """One system and one seed: every budget in its turn, the smallest first."""
    steps = steps_of(study, place, name, budget)
    for by in sorted(steps, key=lambda by: steps[by]):
        arm(study, open_, place, name, by, seed, budget)


def arm(study: Study, open_: Open, place: str, name: str, by: str, seed: int, budget: Budget) -> None:
    """One system, one budget, one seed: pre-training, what follows it, and every measure."""

    def measure() -> dict[str, Any]:
        world, lr = open_(), best_rate(study, place, name)
        steps = steps_of(study, place, name, budget)[by]
        out, pre = pretrained(study, world, place, name, seed, lr, steps)
        spent: dict[str, Any] = {"pretrain": pre}
        models, base = {"pretrain": multiway.load(out / "model").eval()}, out
        for task, system in members(world)[name].after.items():
            folder = out / task
            run = Run(
                name=task,
                system=system,
                data=world.data(seed),
                train=drawn.training(budget.after, seed, 5e-4),
                init=Init(checkpoint=str(out / "model")),
            )
            spent[task] = drawn.trained(run, folder, build)
            models[task] = multiway.load(folder / "model").eval()
            base = folder if task == "retrieval" else base
        return {"metrics": measured(world, models, base, seed, budget), "lr": lr, "spent": spent}

    keep(study, f"{place}-{name}-{by}", seed, measure)


def measured(
    world: World, models: dict[str, System], out: Path, seed: int, budget: Budget
) -> dict[str, float | None]:
    """Every metric that the system defines; None: it does not."""
    test, base = Dataset(world.test), models["pretrain"]
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    texts = "first" if world.first else "all"
    searcher = models.get("retrieval", base)
    if searcher.has_itc or searcher.has_itm:
        ranks = retrieval.evaluate(searcher, test, texts=texts, k=16, batch_size=64)
        for metric, stage in (("itc", "itc"), ("reranked", "itm")):
            if ranks.get(stage):
                found[metric] = round((ranks[stage]["tr_r1"] + ranks[stage]["ir_r1"]) / 2, 2)
    writer, captions = models.get("caption", base), []
    if isinstance(writer, Asking) or type(writer).caption is not System.caption:
        for first in range(0, len(test), 50):
            captions += written(writer, [test.image(i) for i in range(first, min(first + 50, len(test)))])
        references = [test.texts(i)[:1] if world.first else test.texts(i) for i in range(len(test))]
        found["cider"] = round(summary(captions, references)["cider"], 2)
    for metric, task, sources in (
        ("vqa", "vqa", world.questions),
        ("reasoning", "nlvr2", world.reasoning),
    ):
        if sources is not None and has_network(base, task):
            found[metric] = round(tuned(task, sources, out, seed, budget), 2)
    if isinstance(base, Asking) and world.prompted is not None and world.questions is not None:
        found["vqa"] = round(asked(world, out, seed, budget), 2)
    return found


def written(system: System, images: list[Any]) -> list[str]:
    """Captions by beam search."""
    if not isinstance(system, Asking):
        return system.caption(images)
    return system.answer(images, [PROMPT] * len(images), config=GenerationConfig(max_length=WORDS))


def asked(world: World, out: Path, seed: int, budget: Budget) -> float:
    """A generalist's accuracy on the test source's questions after fine-tuning on questions as prompts."""
    folder, source = out / "vqa", Source(path=world.prompted(seed))
    train = drawn.training(budget.task, seed, 2e-4, batch_size=64)
    config, init = multiway.load(out / "model").config, Init(checkpoint=str(out / "model"))
    data = replace(world.data(seed), train=(source,), merge_equal_texts=False)
    drawn.trained(Run(name="vqa", system=config, data=data, train=train, init=init), folder, build)
    model, test = multiway.load(folder / "model").eval(), Questions(LabelledSource(path=world.questions[1]))
    right = 0
    for first in range(0, len(test), 50):
        rows = range(first, min(first + 50, len(test)))
        said = model.answer([test.image(i) for i in rows], [test.asked(i).question for i in rows])
        right += sum(answer in test.asked(i).answers for i, answer in zip(rows, said, strict=True))
    return 100 * right / len(test)


def has_network(system: System, task: str) -> bool:
    """Whether a system says what its network for a task is."""
    try:
        system.fine_tuning(task, ("yes", "no"))
    except UserError:
        return False
    return True


def tuned(
    task: str, sources: tuple[Callable[[int], str], str], out: Path, seed: int, budget: Budget
) -> float:
    """Accuracy on the test source after fine-tuning on the training source."""
    data, folder = drawn.labelled(sources[0](seed), seed), out / task
    train = drawn.training(budget.task, seed, 2e-4, batch_size=64)
    run = finetune.plan(task, out / "model", data, train=train)
    image = run.system.image
    if hasattr(image, "drop_path"):  # BLIP's fine-tunings have it officially; no arm has
        run = replace(run, system=replace(run.system, image=replace(image, drop_path=0.0)))
    drawn.trained(run, folder, lambda run, ranks: finetune.build(task, run, ranks))
    model, kind = multiway.load(folder / "model").eval(), finetune.task_of(task)
    samples = kind.open((LabelledSource(path=sources[1]),), finetune.labels_of(run.system), None)
    return kind.evaluate(model, samples, batch_size=64)["accuracy"]


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("family-tiny" if tiny else "family")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "family"
    return Study(name="family", arms=SYSTEMS, claims=(), metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """Costs one at a time, so that they do not disturb each other; then rates, then arms."""
    sizes = Sizes(pairs=200, reasoning=200, test=20, test_reasoning=40) if tiny else Sizes(test=250)
    budget = Budget(steps=3, compute=3, sweep=2, after=2, task=2, repeats=1) if tiny else Budget()
    open_ = {place: partial(world_of, place, study.work, sizes) for place in WORLDS}
    for make_world in open_.values():
        make_world()
    everything = [(place, name) for place in WORLDS for name in SYSTEMS]
    in_processes(costs, [(study, open_[place], place, budget) for place in WORLDS], 1)
    in_processes(blind, [(study, open_[place], place) for place in WORLDS if place in ASKED], 1)
    in_processes(sweep, [(study, open_[p], p, n, lr, budget) for p, n in everything for lr in RATES], workers)
    runs = sorted(((p, n, seed) for p, n in everything for seed in WORLDS[p]), key=lambda run: run[2])
    in_processes(arms, [(study, open_[p], p, n, seed, budget) for p, n, seed in runs], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run, partial(table, places=tuple(WORLDS)))
