"""`make demo`: pre-train ALBEF on the bundled drawings, evaluate and search what it never saw, show it.

    python scripts/demo.py [--full | --scratch] [--out DIR] [--figures]

Writes DIR/model (a model folder), DIR/index.html (a page to look at), DIR/results.json and DIR/run (the
training run). The default trains from pretrained towers by the public protocol and is measured on
`combination` (names never trained on) and `style` (a hand never seen). `--full` trains the same on all
bundled drawings, so that none is left to measure it with.
`--scratch` starts from no pretrained weight at all.
`--figures` also writes the results for the docs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from demo_page import Answer, Question, write_page

import multiway
from multiway import recipes
from multiway.cli.main import main as run_cli
from multiway.data import emoji
from multiway.data.dataset import Dataset, Source
from multiway.search.index import build
from multiway.search.query import Searcher
from multiway.systems.base import System
from multiway.tasks.match import match
from multiway.tasks.retrieval import measure

ROOT = Path(__file__).resolve().parents[1]
RERANKED = 16
SHOWN = 6  # pictures a query
HELD_BACK = {
    "combination": "names never trained on, made of words that occur in other names",
    "style": "trained names, drawn by a hand never seen",
}
FREE_QUERIES = (
    "a yellow fruit",
    "someone is running",
    "a sad face",
    "an animal that lives in water",
    "a musical instrument",
    "a red heart",
)


@dataclass
class Demo:
    """One demonstration: its recipe and folder, and what it found out."""

    recipe: str
    out: Path
    measured: bool
    results: dict[str, Any] = field(default_factory=dict)

    def train(self) -> System:
        """Train (or go on with a run that was interrupted), and load the model that was kept."""
        run = self.out / "run"
        if (run / "model").exists():
            shutil.rmtree(run)  # a finished run: the demonstration starts anew
        start = time.perf_counter()
        code = run_cli(["train", self.recipe, "--out", str(run)])
        seconds = time.perf_counter() - start
        if code:
            sys.exit(code)
        if not (run / "model").exists():
            sys.exit("stopped: the same command goes on from here")
        kept = run / "best" if (run / "best").exists() else run / "model"
        shutil.rmtree(self.out / "model", ignore_errors=True)
        shutil.copytree(kept, self.out / "model")
        model = multiway.load(self.out / "model")
        self.results |= {
            "recipe": self.recipe,
            "training_seconds": round(seconds, 1),
            "parameters": sum(p.numel() for p in model.parameters()),
            "curves": {path.parent.name: _curve(path) for path in sorted(run.rglob("metrics.jsonl"))},
        }
        return model

    def measure(self, model: System) -> None:
        """Both held-back splits, first lines, by contrast and re-ranked."""
        self.results["k"] = RERANKED
        self.results["splits"] = {}
        for split in HELD_BACK if self.measured else ():
            drawings = Dataset(Source(path="emoji", split=split))
            found = measure(model, drawings, texts="first", k=RERANKED)
            self.results["splits"][split] = found.result
            print(f"{split}: {found.sentence()}")
            for stage in ("itc", "itm"):
                values = found.result[stage]
                print(f"  {stage}  " + "  ".join(f"{name} {value:g}" for name, value in values.items()))

    def search(self, model: System) -> list[Question]:
        """Text searches over the held-back drawings: free ones, and names of `combination` drawn by lot."""
        names = _export(self.out / "pictures")
        build(model, self.out / "pictures", self.out / "index")
        searcher = Searcher(model, self.out / "index")
        held_back = sorted({name for key, name in names.items() if key.startswith("combination/")})
        chosen = random.Random(0).sample(held_back, 6)
        questions = []
        for query in (*FREE_QUERIES, *chosen):
            right = {key for key, name in names.items() if name == query}
            hits = searcher.text(query, top=SHOWN, k=RERANKED)
            answers = [
                Answer(
                    self.out / "pictures" / hit.key, names[hit.key], hit.probability or 0.0, hit.key in right
                )
                for hit in hits
            ]
            questions.append(Question(query, answers, known=bool(right)))
            print(f"{query!r}: {', '.join(answer.text for answer in answers[:3])}")
        return questions

    def describe(self, model: System) -> list[Question]:
        """The best names of some held-back drawings, the shortlist by contrast and its order by matching."""
        questions = []
        lot = random.Random(1)
        for split in HELD_BACK:
            source = emoji.open_split(split)
            names = sorted({source.texts(i)[0] for i in range(len(source))})
            features = model.encode_text(names)
            for i in lot.sample(range(len(source)), 6):
                path = self.out / "pictures" / split / f"{source.key(i)}.jpg"
                scores = (model.encode_image(path) @ features.T)[0]
                shortlist = [names[j] for j in scores.topk(RERANKED).indices.tolist()]
                found = match(model, [path], shortlist)
                order = sorted(range(len(found)), key=lambda j: found[j].logit or 0.0, reverse=True)[:3]
                truth = source.texts(i)[0]
                answers = [
                    Answer(None, shortlist[j], found[j].probability or 0.0, shortlist[j] == truth)
                    for j in order
                ]
                questions.append(Question(truth, answers, picture=path, split=split))
        return questions


def _export(folder: Path) -> dict[str, str]:
    """Write the held-back drawings as files; key in the folder -> name."""
    shutil.rmtree(folder, ignore_errors=True)
    names = {}
    for split in HELD_BACK:
        source = emoji.open_split(split)
        (folder / split).mkdir(parents=True)
        for i in range(len(source)):
            key = f"{split}/{source.key(i)}.jpg"
            (folder / key).write_bytes(source.image(i))
            names[key] = source.texts(i)[0]
    return names


def _curve(path: Path, points: int = 200) -> list[tuple[int, float]]:
    """(step, loss) of the training, thinned by means."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    size = max(len(losses) // points, 1)
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [(part[-1][0], round(sum(loss for _, loss in part) / len(part), 4)) for part in parts]


def main() -> None:
    """Run the demonstration and print where its parts are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--full", action="store_true", help="train on all bundled drawings")
    kind.add_argument("--scratch", action="store_true", help="without any pretrained weight")
    parser.add_argument("--out", type=Path, help="default: demo, demo-full or demo-scratch")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--figures", action="store_true", help="also write docs/figures/demo*.json")
    args = parser.parse_args()
    suffix = "full" if args.full else "scratch" if args.scratch else ""
    name = "_".join(filter(None, ("albef_emoji", suffix)))
    out = args.out or ROOT / "-".join(filter(None, ("demo", suffix)))
    out.mkdir(parents=True, exist_ok=True)
    recipes.get(name)  # before anything is written

    start = time.perf_counter()
    demo = Demo(args.recipe or name, out, measured=not args.full)
    model = demo.train()
    demo.measure(model)
    searches, namings = demo.search(model), demo.describe(model)
    rest = time.perf_counter() - start - demo.results["training_seconds"]
    demo.results |= {
        "rest_seconds": round(rest, 1),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "cpu": platform.processor()},
        "versions": {"multiway": multiway.__version__, "torch": torch.__version__},
    }
    write_page(out / "index.html", demo.results, HELD_BACK, searches, namings)
    text = json.dumps(demo.results, indent=1) + "\n"
    (out / "results.json").write_text(text)
    if args.figures:
        figures = ROOT / "docs" / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        (figures / ("_".join(filter(None, ("demo", suffix))) + ".json")).write_text(text)
    print(f"model in {out / 'model'}; look at {out / 'index.html'}")


if __name__ == "__main__":
    main()
