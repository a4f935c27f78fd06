"""Reasoning about two pictures: ALBEF, VLMo and BEiT-3 on drawn scenes and on NLVR1's own pictures.

    python scripts/reasoning.py [--systems albef vlmo beit3] [--parts drawn nlvr1] [--nlvr FOLDER]
    python scripts/reasoning.py --tiny      a few steps of everything, elsewhere: does it run?

For each system: its recipe on drawn scenes and captions (BEiT-3's after one of visual tokens and before one
of ITC, ALBEF's before its own text assignment); fine-tuning on drawn pairs of pictures, of which sentences
say what either holds, then on those together with pairs that sentences relate; measured on new ones of the
latter, half of whose sentences are true. Then for NLVR1 the same recipes go on with drawn boxes and captions;
fine-tuning on drawn strips of boxes, of which sentences say one thing that is there, then on those together
with all kinds of sentences and NLVR1's own train split; measured on new drawn strips and on its val split.
FOLDER holds NLVR1's shard folders `train` and `val`; without it that part is left out. Beside each accuracy
stand its interval, what the more frequent answer reaches, and the same with other pairs' pictures. Writes
docs/figures/reasoning.json after every part of a system. A run is resumed where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from work import FIGURES, ROOT, trained, write

import multiway
from multiway import recipes
from multiway.data.box_text import make_simple_claim
from multiway.data.labelled import LabelledSource
from multiway.data.pair_shards import write_box_pairs, write_boxes, write_scene_pairs
from multiway.data.scene_shards import write_shards as write_scenes
from multiway.data.scene_text import EITHER
from multiway.data.two_pictures import PicturePairs
from multiway.recipes.scenes import PAPER, SIDE, reasoning
from multiway.tasks import finetune, nlvr2
from multiway.tasks.pretrain import pretrain
from multiway.train.run import Run, provenance

#: system -> its recipes, one after another; each starts from the one before, or from its visual tokens.
RECIPES = {
    "albef": ("albef", "assignment"),
    "vlmo": ("vlmo",),
    "beit3": ("vqkd", "beit3", "beit3_retrieval"),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Samples that are drawn, and optimizer steps."""

    scenes: int = 16_000
    boxes: int = 16_000
    either: int = 30_000
    pairs: int = 30_000
    simple: int = 20_000
    strips: int = 40_000
    more_strips: tuple[int, ...] = (60_000, 90_000)  # a round each
    test: int = 2_000
    either_steps: int = 1_000
    scene_steps: int = 4_000
    simple_steps: int = 1_000
    strip_steps: int = 3_000
    more_steps: tuple[int, ...] = (3_000, 4_500)
    pretrain_steps: int | None = None  # None: the recipe's own
    box_steps: int = 600


TINY = Sizes(
    scenes=300,
    boxes=300,
    either=300,
    pairs=300,
    simple=300,
    strips=300,
    more_strips=(300, 300),
    test=40,
    either_steps=3,
    scene_steps=3,
    simple_steps=3,
    strip_steps=3,
    more_steps=(3, 3),
    pretrain_steps=3,
    box_steps=3,
)


#: Pixels of a picture of two boxes beside each other: at 80 by 80 their smallest items are 4 wide.
STRIP = (SIDE, 2 * SIDE)
#: Mean and deviation of its channels: boxes are grey, as scenes are white.
GREY: dict[str, Any] = {"mean": (0.827, 0.827, 0.827), "std": PAPER["std"]}
_pairs = partial(write_scene_pairs, image_size=SIDE)


class World:
    """Folders of drawn data, each drawn once."""

    def __init__(self, folder: Path, sizes: Sizes):
        self.folder, self.sizes = folder, sizes

    def scenes(self) -> str:
        """Scenes with captions."""
        return self._once("scenes", lambda f: write_scenes(f, self.sizes.scenes, seed=11, image_size=SIDE))

    def boxes(self) -> str:
        """Pictures of one or two boxes, with captions."""
        return self._once("boxes", partial(write_boxes, n=self.sizes.boxes, seed=12))

    def either(self) -> str:
        """Pairs of scenes with simpler sentences: what either holds."""
        return self._once("either-23", partial(_pairs, n=self.sizes.either, seed=23, kinds=EITHER))

    def pairs(self, test: bool = False) -> str:
        """Pairs of scenes with sentences that relate them."""
        count, seed = (self.sizes.test, 22) if test else (self.sizes.pairs, 21)
        return self._once(f"pairs-{seed}", partial(_pairs, n=count, seed=seed))

    def simple_strips(self) -> str:
        """Strips of boxes with simple sentences."""
        write = partial(write_box_pairs, n=self.sizes.simple, seed=33, make=make_simple_claim)
        return self._once("simple-strips-33", write)

    def strips(self, test: bool = False) -> str:
        """Strips of boxes with all kinds of sentences."""
        count, seed = (self.sizes.test, 32) if test else (self.sizes.strips, 34)
        return self._once(f"strips-{seed}", partial(write_box_pairs, n=count, seed=seed))

    def more_strips(self, turn: int) -> str:
        """Other strips of the same kinds, of a round of its own."""
        seed = 35 + turn
        write = partial(write_box_pairs, n=self.sizes.more_strips[turn], seed=seed)
        return self._once(f"strips-{seed}", write)

    def _once(self, name: str, write: Callable[[Path], object]) -> str:
        folder = self.folder / name
        if not (folder / "whole").exists():
            write(folder)
            (folder / "whole").touch()
        return str(folder)


def planned(recipe: str, world: World, boxes: bool, init: dict[str, str]) -> Run:
    """A recipe of drawn scenes; with `boxes`, of boxes instead, larger and shorter."""
    run: Run = recipes.get(f"{recipe}_scenes")()
    size, source, steps, seen = SIDE, world.scenes(), world.sizes.pretrain_steps, {}
    if boxes:
        size, source, steps, seen = STRIP, world.boxes(), world.sizes.box_steps, GREY
    steps = min(steps or run.train.steps, run.train.steps)
    system = replace(run.system, image=replace(run.system.image, image_size=size, **seen))
    if recipe == "vqkd":  # the teacher's patches are of 32 pixels, and its codebook must start in time
        teacher = tuple(2 * side for side in STRIP) if boxes else system.teacher_size
        system = replace(system, teacher_size=teacher, start_after=min(system.start_after, steps // 3))
    return replace(
        run,
        system=system,
        data=replace(run.data, train=(replace(run.data.train[0], path=source),), image_size=size),
        train=replace(run.train, steps=steps, warmup_steps=steps // 10),
        init=replace(run.init, **init),
    )


def pretrained(name: str, world: World, work: Path, boxes: bool = False) -> tuple[Path, float]:
    """A system's recipes on drawn scenes, or with `boxes` going on from there: last model, all seconds."""
    init: dict[str, str] = {}
    total = 0.0
    for recipe in RECIPES[name]:
        if boxes and recipe != "vqkd" and "checkpoint" not in init:
            init["checkpoint"] = str(work / f"{recipe}-scenes" / "model")
        out = work / f"{recipe}-{'boxes' if boxes else 'scenes'}"
        run = planned(recipe, world, boxes, init)
        model, seconds = trained(out, partial(pretrain, run, out), time.process_time)
        init, total = {"visual_tokenizer" if recipe == "vqkd" else "checkpoint": str(model)}, total + seconds
    return model, total


def tuned(
    model: Path,
    sources: tuple[LabelledSource, ...],
    steps: int,
    out: Path,
    image_size: int | tuple[int, int] = SIDE,
    flip: float = 0.0,
) -> tuple[Path, float]:
    """A model fine-tuned on pairs of pictures, each mirrored with probability `flip`."""
    data, train = reasoning(*sources, steps=steps)
    data = replace(data, augment=replace(data.augment, flip=flip))

    def tune() -> Any:
        run = finetune.plan("nlvr2", model, data, train=train)
        image = replace(run.system.image, image_size=image_size)
        return finetune.finetune("nlvr2", replace(run, system=replace(run.system, image=image)), out)

    return trained(out, tune, time.process_time)


def figures(model: Path, path: str) -> dict[str, Any]:
    """Accuracy with intervals and controls."""
    found = nlvr2.measure(multiway.load(model), PicturePairs(LabelledSource(path=path)), batch_size=64)
    return found.result | {"pairs_per_second": round(found.result["n"] / found.seconds, 1)}


def drawn_part(name: str, world: World, work: Path) -> dict[str, Any]:
    """What is measured of one system on drawn pairs of pictures."""
    base, first = pretrained(name, world, work)
    # to find a thing that is named comes before what relates two pictures, which no model learned at once
    either, pairs = LabelledSource(path=world.either()), LabelledSource(path=world.pairs())
    model, second = tuned(base, (either,), world.sizes.either_steps, work / f"{name}-either")
    model, third = tuned(model, (pairs, either), world.sizes.scene_steps, work / f"{name}-pairs")
    return {
        "parameters": sum(p.numel() for p in multiway.load(model).parameters()),
        "seconds": {"pretrain": first, "either": second, "pairs": third},
        "drawn_pairs": figures(model, world.pairs(test=True)),
    }


def nlvr1_part(name: str, world: World, work: Path, nlvr: Path) -> dict[str, Any]:
    """What is measured of one system on NLVR1's own pictures, and on drawn ones of their kind."""
    _, first = pretrained(name, world, work)
    base, second = pretrained(name, world, work, boxes=True)
    simple, drawn = LabelledSource(path=world.simple_strips()), LabelledSource(path=world.strips())
    model, third = tuned(base, (simple,), world.sizes.simple_steps, work / f"{name}-simple", STRIP)
    # NLVR1's own strips three times as often as drawn ones: there are few of them
    real = LabelledSource(path=str(nlvr / "train"), weight=3.0)
    model, fourth = tuned(
        model, (simple, drawn, real), world.sizes.strip_steps, work / f"{name}-strips", STRIP
    )
    # by now each has been seen several times: other drawn ones, and all of them mirrored too
    real, more = replace(real, weight=5.0), {}
    for turn, steps in enumerate(world.sizes.more_steps):
        stage = f"more-{turn + 1}" if turn else "more"
        sources = (simple, LabelledSource(path=world.more_strips(turn)), real)
        model, more[stage] = tuned(model, sources, steps, work / f"{name}-{stage}", STRIP, flip=0.5)
    return {
        "seconds": {"pretrain": first, "boxes": second, "simple": third, "strips": fourth} | more,
        "drawn_strips": figures(model, world.strips(test=True)),
        "nlvr1_val": figures(model, str(nlvr / "val")),
    }


def keep(target: Path, name: str, part: str, figures: dict[str, Any]) -> None:
    """A part's figures, beside those that are there."""
    found = json.loads(target.read_text()) if target.exists() else {"systems": {}}
    system = found["systems"].setdefault(name, {})
    seconds = system.get("seconds", {}) | figures["seconds"]
    made_by = system.get("made_by", {}) | {part: provenance()}
    system.update(figures | {"seconds": seconds, "made_by": made_by})
    write(target, found)
    print(f"{name}: {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES))
    parser.add_argument("--parts", nargs="+", choices=("drawn", "nlvr1"), default=("drawn", "nlvr1"))
    parser.add_argument("--nlvr", type=Path, default=ROOT.parent / "shared" / "data" / "nlvr")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "reasoning")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, in OUT-tiny")
    args = parser.parse_args()
    out = args.out.with_name(args.out.name + "-tiny") if args.tiny else args.out
    target = out / "reasoning.json" if args.tiny else FIGURES / "reasoning.json"
    world = World(out / "data", TINY if args.tiny else Sizes())
    nlvr = args.nlvr if (args.nlvr / "train").is_dir() else None
    if nlvr is None:
        print(f"there is no {args.nlvr / 'train'}: NLVR1's pictures are left out")
    for name in args.systems:
        if "drawn" in args.parts:
            keep(target, name, "drawn", drawn_part(name, world, out))
        if "nlvr1" in args.parts and nlvr is not None:
            keep(target, name, "nlvr1", nlvr1_part(name, world, out, nlvr))
    print(f"written to {target}")


if __name__ == "__main__":
    main()
