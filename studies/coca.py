"""What makes CoCa (arXiv:2205.01917, tables 8a to 8f), and do modality experts add to it? On drawn scenes.

    python studies/coca.py            run every arm that has no result yet, two at a time, then judge
    python studies/coca.py --judge    only judge what is there
    python studies/coca.py --tiny     a few steps of everything, elsewhere: does it run?

Every arm sees the same pairs in the same order for the same number of steps. It is the base model but for one
thing:

    base         cascaded pooler, weights 1 (contrast) and 2 (captions), one forward for both losses
    caption1     both weights 1          caption0     no captions: a dual encoder
    single       open_clip's pooler      parallel     both poolers look at the picture
    experts      the unimodal layers are pictures' too: shared attention, a feed-forward for each modality

`experts` has as many layers on every token as `base`: three of the tower's four are then shared ones, so
that compute is equal and parameters are fewer. The three weights are also tried for three times as many steps
(`base long`, ...): what captions do to the contrast may take longer than the contrast itself.

Beside them, of each seed's base model: the seconds of a step with one forward and with two (the text read
once with [CLS] and once without), with both losses of both; and CoCa's three ways to classify, here the
colour of a scene's only thing: by the class's name, by a new pooler over the frozen tower, fine-tuned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn
import torch
from arms import ROOT, SEEDS, Claim, Study, file_name, in_processes, judge, keep, main, read
from drawn import PATCH, SIDE, Sizes, World
from torch import Tensor

import multiway
from multiway.batch import Batch
from multiway.data import scenes
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledPictures, LabelledSource, TaskData
from multiway.objectives import language
from multiway.recipes.scenes import PAPER
from multiway.systems.clip import CLIPTextConfig
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import CoCaConfig, MultimodalConfig, PoolerConfig, coca_vit
from multiway.systems.contrast import contrast
from multiway.tasks import caption, classify, finetune, retrieval, zero_shot
from multiway.tasks.caption_many import Options
from multiway.train.build import build
from multiway.train.run import Run

WIDTH, HEADS, HIDDEN, LAYERS = 96, 3, 384, 3
LONG = " long"
MODELS = ("base", "caption1", "caption0", "single", "parallel", "experts")
ARMS = (*MODELS, *(name + LONG for name in MODELS[:3]))
METRICS = {
    "retrieval": "mean R@1 of texts and of pictures, 500 new scenes, by the contrast",
    "cider": "CIDEr-D of captions of 200 of them, 0 where captions are not trained",
}
PROMPTS = tuple(f"a {size} {{}} {shape}" for size in scenes.SIZES for shape in scenes.SHAPES)
WEIGHTS = (
    (
        "captions help the contrast",
        "caption0",
        "table 8b, zero-shot ImageNet: 71.6 with captions, 70.7 without",
    ),
    (
        "weight 2 on captions beats weight 1",
        "caption1",
        "table 8c: 2:1 is the best of three (no figure at hand)",
    ),
)
CLAIMS = (
    *(
        Claim(says=says + when, better="base" + long, worse=worse + long, paper=paper)
        for says, worse, paper in WEIGHTS
        for long, when in (("", ""), (LONG, ", three times the steps"))
    ),
    Claim(
        says="cascaded poolers beat parallel ones",
        better="base",
        worse="parallel",
        paper="table 8f: cascade is better (no figure at hand)",
    ),
    Claim(
        says="cascaded poolers beat open_clip's single one",
        better="base",
        worse="single",
        paper="the paper has no such pooler",
    ),
    Claim(
        says="modality experts help CoCa at equal compute",
        better="experts",
        worse="base",
        paper="nobody has published it",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimizer steps; test scenes that are captioned; scenes of one thing; timed steps."""

    pairs: int = 400
    colours: int = 200
    captions: int = 200
    pictures: int = 600
    timed: int = 15


def coca(world: World, name: str) -> CoCaConfig:
    """One of `MODELS`, which a core trains in minutes."""
    experts = name == "experts"
    sizes: dict[str, int] = {"width": WIDTH, "heads": HEADS, "hidden": HIDDEN}
    depth = 4 - LAYERS if experts else 4
    form = name if name in ("single", "parallel") else "cascade"
    weight = {"caption0": 0.0, "caption1": 1.0}.get(name, 2.0)
    return CoCaConfig(
        image=coca_vit(image_size=SIDE, patch_size=PATCH, depth=depth, sincos=True, **PAPER, **sizes),
        text=CLIPTextConfig(vocab_size=drawn.words(world), layers=LAYERS, positions=24, **sizes),
        multimodal=MultimodalConfig(layers=2, heads=HEADS, hidden=HIDDEN),
        pooler=PoolerConfig(form=form, queries=8, heads=HEADS),
        tokenizer=drawn.tokenizer(world),
        embed_dim=WIDTH,
        experts=experts,
        positives="ids",
        caption_weight=weight,
        caption_length=(0, 22),
    )


def arm(study: Study, world: World, name: str, seed: int, budget: Budget) -> None:
    """Train one arm and measure it; of the base model more."""

    def measure() -> dict[str, Any]:
        out = study.work / file_name(name, seed)
        kind = name.removesuffix(LONG)
        train = drawn.training(budget.pairs * (1 if name == kind else 3), seed, 1e-3)
        run = Run(name=name, system=coca(world, kind), data=drawn.data(world.pairs(seed), seed), train=train)
        spent = drawn.trained(run, out, build)
        model = multiway.load(out / "model")
        assert isinstance(model, CoCa)
        found: dict[str, Any] = {"metrics": measured(model, world, budget), "spent": spent}
        found["parameters"] = sum(p.numel() for p in model.parameters()) / 1e3
        if name == "base":
            found["forwards"] = forwards(model, world, budget)
            found["colours"] = colours(study.work, out / "model", model, seed, budget)
        return found

    keep(study, name, seed, measure)


def measured(model: CoCa, world: World, budget: Budget) -> dict[str, float]:
    """Both metrics."""
    pairs, _ = world.tests()
    data = Dataset(Source(path=pairs))
    ranked = retrieval.evaluate(model, data, k=16, batch_size=64)["itc"]
    found = {"retrieval": round((ranked["tr_r1"] + ranked["ir_r1"]) / 2, 2), "cider": 0.0}
    if model.config.caption_weight:
        few = First(data, budget.captions)
        scores = caption.measure(model, few, options=Options(method="greedy"), batch_size=32).result
        found["cider"] = round(scores["cider"], 2)
    return found


class First:
    """The first samples of a data set."""

    def __init__(self, data: Any, count: int):
        self.data, self.count = data, min(count, len(data))

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)


# --- one forward against two


def forwards(model: CoCa, world: World, budget: Budget) -> dict[str, Any]:
    """Seconds of a step (losses and gradients) and the losses, of one forward and of two."""
    data, size = Dataset(Source(path=world.pairs(0))), 32
    samples = [data.sample(i) for i in range(size)]
    ids, mask = model.tokenize([sample.texts[0] for sample in samples])
    batch = Batch(
        image=model.prepare([sample.image for sample in samples]),
        input_ids=ids,
        attention_mask=mask,
        ids=torch.arange(size),
    )
    ways = {"one": lambda: model.losses(batch, model.init_state()), "two": lambda: two_forwards(model, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, dict[str, float]] = {}
    for _ in range(budget.timed):
        for name, way in ways.items():  # in turn, so that a busy machine slows both
            model.zero_grad()
            began = time.perf_counter()
            out = way()
            out["loss"].backward()
            seconds[name].append(time.perf_counter() - began)
            losses[name] = {key: round(out[key].item(), 5) for key in ("itc", "lm")}
    middle = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    return {
        "seconds": {name: round(value, 4) for name, value in middle.items()},
        "ratio": round(middle["two"] / middle["one"], 3),
        "losses": losses,
    }


def two_forwards(model: CoCa, batch: Batch) -> dict[str, Tensor]:
    """The unimodal half once for the contrast and once more for captions, as if words could see [CLS]."""
    config, (ids, mask) = model.config, batch.text()
    pooled = model.pool(model.image_tower(batch.need("image")))
    text = model.text_features(model.read(ids, mask))
    hidden = model.caption_hidden(model.read(ids, mask), mask, model.context(pooled))
    labels = model.labels(ids, mask)
    known = labels != -100
    found = {
        "itc": contrast(config, batch, model.image_features(pooled), text, model.logit_scale),
        "lm": language.lm(model.logits(hidden[known]), labels[known]),
    }
    found["loss"] = config.contrastive_weight * found["itc"] + config.caption_weight * found["lm"]
    return found


# --- three ways to classify


def colours(work: Path, base: Path, model: CoCa, seed: int, budget: Budget) -> dict[str, float]:
    """Top-1 on new scenes of one thing: by name, with a new pooler on the frozen tower, fine-tuned."""
    train, test = (one_thing(work / f"colours-{n}-s{seed}", budget.pictures, n, seed) for n in (0, 1))
    held_back = LabelledPictures((LabelledSource(path=str(test)),))
    named = zero_shot.measure(model, held_back, templates=PROMPTS)
    found = {"zero_shot": named.result["top1"]}
    source = TaskData(train=(LabelledSource(path=str(train)),), augment=drawn.PLAIN, seed=seed)
    for way, frozen in (("frozen", ("image_tower",)), ("fine_tuned", ())):
        options = drawn.training(budget.colours, seed, 1e-3, freeze=frozen, batch_size=32)
        run = finetune.plan("classify", base, source, train=options)
        out = work / f"{way}-s{seed}"
        drawn.trained(run, out, lambda run, ranks: finetune.build("classify", run, ranks))
        found[way] = classify.evaluate(multiway.load(out / "model"), held_back)["top1"]
    return {name: round(value, 2) for name, value in found.items()}


def one_thing(folder: Path, count: int, part: int, seed: int) -> Path:
    """Pictures of single things in a folder a colour."""
    if (folder / "whole").exists():
        return folder
    made, number = 0, 0
    while made < count:
        scene = scenes.make_scene(900 + 10 * seed + part, number)
        number += 1
        if len(scene.things) != 1:
            continue
        place = folder / scene.things[0].colour
        place.mkdir(parents=True, exist_ok=True)
        scenes.draw_scene(scene, SIDE).save(place / f"{number}.png")
        made += 1
    (folder / "whole").touch()
    return folder


def say(study: Study) -> str:
    """The verdicts; what one forward saves; the three ways to classify."""
    rows = [row for row in read(study) if row["arm"] == "base"]
    lines = ["", "| base, seed | one forward, ms | two, ms | ratio | losses of one | of two |"]
    lines.append("| ---: | ---: | ---: | ---: | --- | --- |")
    for row in rows:
        found = row["forwards"]
        ms = [f"{1000 * found['seconds'][way]:.0f}" for way in ("one", "two")]
        losses = ["{itc:.4f}, {lm:.4f}".format(**found["losses"][way]) for way in ("one", "two")]
        lines.append("| " + " | ".join([str(row["seed"]), *ms, f"{found['ratio']:.2f}", *losses]) + " |")
    ways = {"zero_shot": "by name", "frozen": "new pooler, frozen tower", "fine_tuned": "fine-tuned"}
    lines += ["", f"| colours, seed | {' | '.join(ways.values())} |", "| ---: |" + " ---: |" * len(ways)]
    for row in rows:
        lines.append(
            "| " + " | ".join([str(row["seed"]), *(f"{row['colours'][w]:.1f}" for w in ways)]) + " |"
        )
    return judge(study) + "\n" + "\n".join(lines)


def make_study(tiny: bool) -> Study:
    work = ROOT / "runs" / ("coca-tiny" if tiny else "coca")
    results = work / "results" if tiny else ROOT / "studies" / "results" / "coca"
    return Study(name="coca", arms=ARMS, claims=CLAIMS, metrics=METRICS, work=work, results=results)


def run(study: Study, workers: int, tiny: bool) -> None:
    """Every arm."""
    sizes = Sizes(pairs=200, reasoning=1, test=20, test_reasoning=1) if tiny else Sizes()
    budget = Budget(pairs=3, colours=3, captions=5, pictures=40, timed=2) if tiny else Budget()
    world = World(study.work / "data", sizes)
    for seed in SEEDS:
        world.pairs(seed)
    world.tests()
    in_processes(arm, [(study, world, a, s, budget) for s in SEEDS for a in ARMS], workers)


if __name__ == "__main__":
    main(__doc__, make_study, run, say)
