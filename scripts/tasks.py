"""Every task on real data: one small ALBEF of drawn scenes, fine-tuned for each, beside its controls.

    python scripts/tasks.py [--only ROW ...] [--out runs/tasks] [--nlvr FOLDER] [--flickr8k FOLDER]
    python scripts/tasks.py --tiny      a few steps of everything, elsewhere: does it run?

ALBEF's recipe for drawn scenes, with a vocabulary of the words that are needed, is fine-tuned by the public
path from a table and pictures, and measured on held-back ones: questions about drawn scenes, about easy-vqa's
pictures (`pip install --no-deps easy-vqa`) and about the bundled drawings; classes of all three; and Grad-CAM
on drawn boxes, after retrieval of phrases without boxes. Beside each stand the same model with other samples'
pictures (grounding: texts) and what knows nothing of the picture: the most frequent class, the answer that
training most often gave to the very question, a blind guess of a box. `lora` compares adapters with all
weights on easy-vqa's classes, each in a process of its own. Reasoning and captions are those of
`reasoning.py` and `captions.py`, which are run where their figures are missing and FOLDER is given. Writes
docs/figures/tasks.json after each row. A row in OUT is not run again; one that was interrupted goes on from
its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tasks_data import Files, Missing, Sizes, Sources
from work import FIGURES, ROOT, trained, write

import multiway
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.data.labelled import LabelledSource, TaskData
from multiway.data.questions import Questions
from multiway.data.referring import Referring
from multiway.recipes.scenes import PLAIN, albef_scenes, training
from multiway.systems.base import System
from multiway.tasks import finetune, grounding, vqa
from multiway.tasks.pretrain import pretrain
from multiway.train.run import LoRAConfig, Run, TrainConfig, provenance

CPU: dict[str, Any] = {"batch_size": 32, "device": "cpu"}
DRAWINGS = Augment(crop_scale=(0.8, 1.0), rand_n=0, flip=0.5)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fine-tuning of the base.

    Attributes:
        files: what it learns from, and what it is measured on.
        steps: optimizer steps. lr: the peak.
    """

    task: str
    files: Callable[[Files], Sources]
    steps: int
    lr: float = 5e-4
    augment: Augment = PLAIN


ROWS: dict[str, Row] = {
    "vqa-scenes": Row(task="vqa", files=Files.scene_questions, steps=1600),
    "vqa-easy": Row(task="vqa", files=Files.easy_questions, steps=1200),
    "vqa-drawings": Row(task="vqa", files=Files.drawing_questions, steps=600, augment=DRAWINGS),
    "classify-scenes": Row(task="classify", files=Files.scene_classes, steps=800, lr=1e-3),
    "classify-easy": Row(task="classify", files=Files.easy_classes, steps=800, lr=1e-3),
    "classify-drawings": Row(
        task="classify", files=Files.drawing_groups, steps=500, lr=1e-3, augment=DRAWINGS
    ),
}
#: Steps on phrases, before Grad-CAM.
GROUNDING = 1000
#: Of the row that both are compared on; the learning rate of adapters is several times the full one's.
COMPARED = "classify-easy"
WAYS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lr": 3e-3, "lora": LoRAConfig(rank=8)}}
#: row -> the script that makes its figures, those, and the flags that name its data.
ELSEWHERE = {
    "reasoning": ("reasoning.py", "reasoning", lambda args: args.nlvr and ["--nlvr", args.nlvr]),
    "captions": ("captions.py", "captions_photos", lambda args: args.flickr8k and ["photos", args.flickr8k]),
}


class Work:
    """One folder of models, files and results.

    Args:
        steps: of the base and, where it is given, of every row.
    """

    def __init__(self, out: Path, sizes: Sizes, base_steps: int, steps: int | None = None):
        self.out, self.base_steps, self.steps = out, base_steps, steps
        self.files = Files(out / "data", sizes)

    def base(self) -> tuple[Path, float]:
        """ALBEF of drawn scenes with their captions, and its CPU seconds."""
        run, vocabulary = albef_scenes(), self.files.vocabulary()
        system = replace(
            run.system,
            text=replace(run.system.text, vocab_size=len(vocabulary.read_text().splitlines())),
            tokenizer=replace(run.system.tokenizer, vocab=str(vocabulary)),
        )
        data = replace(run.data, train=(Source(path=self.files.scenes()),))
        run = replace(run, system=system, data=data, train=training(self.base_steps, 1e-3, **CPU))
        out = self.out / "base"
        return trained(out, lambda: pretrain(run, out), time.process_time)

    def plan(self, row: Row, **changes: Any) -> tuple[Run, dict[str, LabelledSource]]:
        """The run of a row, and what it is measured on."""
        source, tests = row.files(self.files)
        train: TrainConfig = training(self.steps or row.steps, **CPU | {"lr": row.lr} | changes)
        data = TaskData(train=(source,), augment=row.augment)
        return finetune.plan(row.task, self.base()[0], data, train=train), tests

    def tuned(self, name: str) -> dict[str, Any]:
        """A row of the table."""
        run, tests = self.plan(ROWS[name])
        out = self.out / name
        model, seconds = trained(out, lambda: finetune.finetune(run.name, run, out), time.process_time)
        found = measured(run, multiway.load(model), tests)
        return {"steps": run.train.steps, "cpu_seconds": round(seconds, 1), "tests": found}

    def grounding(self) -> dict[str, Any]:
        """Grad-CAM on drawn boxes after ITC and ITM of phrases, without their boxes (ALBEF, section 6)."""
        train = training(self.steps or GROUNDING, **CPU | {"lr": 5e-4})
        data = DataConfig(train=(self.files.phrases(),), augment=PLAIN, merge_equal_texts=True)
        run, out = finetune.plan("retrieval", self.base()[0], data, train=train), self.out / "grounding"
        model, seconds = trained(out, lambda: finetune.finetune("retrieval", run, out), time.process_time)
        boxes = Referring(LabelledSource(path=f"scenes:{self.files.sizes.test}:45"))
        found = grounding.measure(multiway.load(model), boxes, batch_size=64)
        assert found.outcomes is not None
        intervals = found.outcomes.intervals()
        names = ("pointing", "accuracy")
        tests = {
            name: {
                "n": found.result["n"],
                "right": found.result[name],
                "interval": intervals[name],
                "shuffled": found.result["shuffled"][name],
                "blind": found.result["chance"][name],
            }
            for name in names
        }
        return {"steps": run.train.steps, "cpu_seconds": round(seconds, 1), "tests": tests}

    def way(self, name: str) -> dict[str, Any]:
        """One way to fine-tune, and what this process held above what it had before."""
        run, tests = self.plan(ROWS[COMPARED], **WAYS[name])
        before, out = memory("VmRSS"), self.out / f"lora-{name}"
        began = time.process_time()
        finetune.finetune(run.name, run, out, resume="never")
        seconds, peak = time.process_time() - began, memory("VmHWM") - before
        checkpoint = next((out / "checkpoints").glob("step-*"))
        (test,) = measured(run, multiway.load(out / "model"), tests).values()
        return {
            **test,
            "trained_parameters": trained_parameters(run),
            "peak_bytes": peak,
            "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.iterdir()),
            "cpu_seconds_a_step": round(seconds / (run.train.steps or 1), 4),
        }


def trained_parameters(run: Run) -> int:
    """How many parameters a run trains."""
    from multiway.train.parallel import Ranks

    system, _ = finetune.build(run.name, run, Ranks(0, 1, torch.device("cpu")))
    return sum(p.numel() for p in system.parameters() if p.requires_grad)


def memory(name: str) -> int:
    """Bytes of this process by Linux: VmRSS, what it holds, or VmHWM, the most that it held."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def measured(run: Run, model: System, tests: dict[str, LabelledSource]) -> dict[str, Any]:
    """Each test's figure with its interval, and its controls."""
    task, results = finetune.TASKS[run.name], {}
    for name, source in tests.items():
        data = task.open((source,), finetune.labels_of(model.config), None)
        found = task.measure(model, data, batch_size=64)
        assert found.outcomes is not None
        results[name] = {
            "n": found.result["n"],
            "right": found.result[task.metric],
            "interval": found.outcomes.intervals()[task.metric],
            "shuffled": found.result["shuffled"][task.metric],
            "shuffled_interval": found.result["shuffled"]["interval"],
            "blind": found.result["majority"],
        }
        if isinstance(data, Questions):
            results[name]["blind"] = vqa.by_question(Questions(run.data.train), data)
    return results


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """Every way in a process of its own."""
    ways = {}
    for name in WAYS:
        command = [sys.executable, __file__, "--way", name, "--out", str(args.out)]
        done = subprocess.run([*command, *["--tiny"] * args.tiny], check=True, stdout=subprocess.PIPE)
        ways[name] = json.loads(done.stdout.splitlines()[-1])
    return {"steps": ROWS[COMPARED].steps, "rank": WAYS["lora"]["lora"].rank, "ways": ways}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*ROWS, "grounding", "lora", *ELSEWHERE)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names)
    )
    parser.add_argument("--nlvr", help="folder with NLVR1's shard folders train and val")
    parser.add_argument("--flickr8k", help="folder with Flickr8k's shard folders train and val")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tasks")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, in OUT-tiny")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    out, target = args.out, FIGURES / "tasks.json"
    work = Work(out, Sizes(), 2400)
    if args.tiny:
        out = out.with_name(out.name + "-tiny")
        sizes = Sizes(scenes=100, questions=300, classes=600, test=40, most=400)
        work, target = Work(out, sizes, 3, 3), out / "tasks.json"
    if args.way:
        print(json.dumps(work.way(args.way)))
        return
    make: dict[str, Callable[[], dict[str, Any]]] = {name: partial(work.tuned, name) for name in ROWS}
    make |= {"grounding": work.grounding, "lora": partial(compared, args)}
    figures = json.loads(target.read_text()) if target.exists() else {"rows": {}}
    for name in args.only:
        if name in ELSEWHERE:
            script, file, flags = ELSEWHERE[name]
            if not args.tiny and not (FIGURES / f"{file}.json").exists() and (chosen := flags(args)):
                subprocess.run([sys.executable, Path(__file__).with_name(script), *chosen], check=True)
            continue
        kept = out / "rows" / f"{name}.json"
        if not kept.exists():
            try:
                found = make[name]()
            except Missing as error:
                print(f"{name}: not run: {error}")
                continue
            machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
            write(kept, {**found, "seed": 0, "machine": machine, "made_by": provenance()})
        figures["rows"][name] = json.loads(kept.read_text())
        write(target, figures)
        print(f"{name}: {figures['rows'][name]}", flush=True)


if __name__ == "__main__":
    main()
