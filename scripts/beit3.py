"""One BEiT-3 for three tasks: masked data modelling alone, then three fine-tunings of the same checkpoint.

    python scripts/beit3.py [--out runs/beit3]
    python scripts/beit3.py --tiny      a few steps of everything, elsewhere: does it run?

On the bundled drawings: `vqkd_emoji` and `beit3_emoji`, then retrieval, captions and the drawings' groups,
each from the model of `beit3_emoji` and, as many steps, from fresh weights. They are measured on what
training never saw: retrieval and captions on names of known words (`combination`), groups on drawings by
another hand (`style`); beside each figure stands the same with other drawings' pictures. Writes
docs/figures/beit3.json. A run is resumed where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from work import FIGURES, ROOT, trained, write

import multiway
from multiway import recipes
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledPictures, LabelledSource, TaskData
from multiway.tasks import caption, classify, finetune, retrieval
from multiway.tasks.pretrain import pretrain
from multiway.train.build import build_system
from multiway.train.run import Init, Run, provenance

#: task -> the split that it is measured on.
TASKS = {"retrieval": "combination", "captioner": "combination", "groups": "style"}


class Work:
    """Where models lie, how long they are trained, and what that took."""

    def __init__(self, out: Path, steps: int | None):
        self.out, self.steps = out, steps
        self.seconds: dict[str, float] = {}

    def run(self, name: str, **init: Path) -> Run:
        """A recipe that starts from the models `init` names; a tiny one has few steps."""
        run: Run = recipes.get(name)()
        if self.steps is not None:
            run = replace(run, train=replace(run.train, steps=self.steps, batch_size=24, warmup_steps=1))
            if name == "vqkd_emoji":  # its codebook would start only after some steps
                run = replace(run, system=replace(run.system, start_after=0, codes=64))
            if name == "beit3_emoji":
                run = replace(run, system=replace(run.system, codes=64))
        return replace(run, init=replace(run.init, **{field: str(path) for field, path in init.items()}))

    def train(self, name: str, train: Callable[[Path], Any]) -> Path:
        """The model called `name`, trained unless it is there."""
        out = self.out / name
        path, self.seconds[name] = trained(out, lambda: train(out), clock=time.process_time)
        return path

    def fresh(self) -> Path:
        """The network of `beit3_emoji` before its first step."""
        path = self.out / "fresh"
        if not path.exists():
            run = replace(self.run("beit3_emoji"), init=Init())
            torch.manual_seed(run.train.seed)
            multiway.save(build_system(run, print), path)
        return path

    def tuned(self, task: str, start: str, model: Path) -> Path:
        """`model` fine-tuned for a task."""
        name = f"{task}-{start}"
        if task != "groups":
            run = self.run(f"beit3_emoji_{task}", checkpoint=model)
            return self.train(name, lambda out: pretrain(run, out))
        run = self.run("beit3_emoji_captioner")
        data = TaskData(train=(groups("train"),), augment=run.data.augment)

        def train(out: Path) -> Any:
            return finetune.finetune("classify", finetune.plan("classify", model, data, train=run.train), out)

        return self.train(name, train)


def groups(split: str) -> LabelledSource:
    """Drawings with the group they belong to: food and drink, symbols, ..."""
    return LabelledSource(path="emoji", label="group", split=split)


def figures(task: str, path: Path, split: str) -> dict[str, Any]:
    """What a model reaches, with 95 % intervals; under `shuffled` with other drawings' pictures."""
    model, data = multiway.load(path), Dataset(Source(path="emoji", split=split))
    found: Any
    if task == "retrieval":
        found = retrieval.measure(model, data, texts="first")
        result = {**found.result["itc"], "n": found.result["n_images"], "shuffled": found.shuffled}
    elif task == "captioner":
        found = caption.measure(model, data, texts="first", batch_size=32)
        result = found.result
    else:
        labels = finetune.labels_of(model.config)
        found = classify.measure(model, LabelledPictures(groups(split), labels=labels))
        result = found.result
    return result | {"intervals": found.outcomes.intervals()}


def main() -> None:
    """Train, measure, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "beit3")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, in OUT-tiny")
    args = parser.parse_args()
    out = args.out.with_name(args.out.name + "-tiny") if args.tiny else args.out
    target = out / "beit3.json" if args.tiny else FIGURES / "beit3.json"
    work = Work(out, 2 if args.tiny else None)
    vqkd = work.run("vqkd_emoji")
    codes = work.train("vqkd", lambda folder: pretrain(vqkd, folder))
    masked = work.run("beit3_emoji", visual_tokenizer=codes)
    starts = {
        "pretrained": work.train("beit3", lambda folder: pretrain(masked, folder)),
        "fresh": work.fresh(),
    }
    found: dict[str, Any] = {"tasks": {}}
    for start, model in starts.items():
        for task, split in TASKS.items():
            result = figures(task, work.tuned(task, start, model), split)
            print(f"{task}, {start}, {split}: {result}", flush=True)
            found["tasks"].setdefault(task, {"split": split})[start] = result
            found["core_seconds"] = work.seconds
            found["parameters"] = sum(p.numel() for p in multiway.load(starts["pretrained"]).parameters())
            found["machine"] = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
            found |= provenance()
            write(target, found)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
