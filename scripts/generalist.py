"""One generalist for every task of the drawn world: train it, measure it, show what it draws.

    python scripts/generalist.py [--out runs/generalist] [--steps N]

Trains `vqvae_scenes` and `generalist_scenes` (a run is resumed where it was interrupted), measures every task
on scenes of worlds that training never saw, beside the same prompts with other pictures, and writes
docs/figures/generalist.json and OUT/index.html, a page of its drawings beside real pictures and its answers.
Then, for each task, a specialist: the same network, which learns that task alone, for as many samples of it
as the generalist saw.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from demo_page import STYLE
from PIL import Image
from work import FIGURES, train, trained, write

import multiway
from multiway import recipes
from multiway.tasks.generalist import drawings, measure
from multiway.tasks.pretrain import pretrain

TASKS = ("caption", "question", "classify", "ground", "region")
ABOUT = {
    "caption": "captions, word for word",
    "question": "answers to questions",
    "classify": "one of 64 classes",
    "ground": "boxes, overlap above one half",
    "region": "what is in a box",
}


def main() -> None:
    """Train, measure, write the figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalist"))
    parser.add_argument("--steps", type=int, help="of the generalist; the recipe's without it")
    parser.add_argument("--n", type=int, default=400, help="samples a task")
    args = parser.parse_args()
    steps = [] if args.steps is None else ["--steps", str(args.steps)]
    coder, out = args.out / "vqvae", args.out / "model-run"
    seconds = {"vqvae_scenes": train("vqvae_scenes", coder, [])}
    flags = ["--init.visual-tokenizer", str(coder / "model"), *steps]
    seconds["generalist_scenes"] = train("generalist_scenes", out, flags)
    model = multiway.load(out / "model")
    tasks = {task: measure(model, task, n=args.n) for task in TASKS}
    drawn, pictures = drawings(model, n=args.n // 2)
    examples = {task: found.pop("examples") for task, found in tasks.items()}
    run = json.loads((out / "run.json").read_text())["run"]
    results = {
        "recipe": "generalist_scenes",
        "steps": run["train"]["steps"],
        "batch_size": run["train"]["batch_size"],
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tasks": tasks,
        "drawings": drawn,
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"multiway": multiway.__version__, "torch": torch.__version__},
    }
    write(FIGURES / "generalist.json", results)
    write_page(args.out / "index.html", results, pictures[:40], examples)
    for task in (*TASKS, "draw"):
        alone, count = specialist(task, coder / "model", args.out / f"{task}-run", results["steps"])
        if task == "draw":
            drawn |= {"r1_specialist": drawings(alone, n=args.n // 2)[0]["r1"], "specialist_steps": count}
        else:
            found = measure(alone, task, n=args.n)["own"]
            tasks[task]["specialist"] = found | {"steps": count}
        write(FIGURES / "generalist.json", results)
    for task, found in tasks.items():
        print(f"{task:<9} " + ", ".join(f"{n} {found[n]['right']:5.1f}" for n in found if n != "n"))
    print(", ".join(f"{name} {value}" for name, value in drawn.items()))


def specialist(task: str, coder: Path, out: Path, steps: int) -> tuple[Any, int]:
    """The recipe's network after one task of its mixture alone, and its steps: that task's share."""
    run = recipes.get("generalist_scenes")()
    (source,) = (source for source in run.data.train if source.path.startswith(f"prompts:{task}:"))
    count = round(steps * source.weight / sum(source.weight for source in run.data.train))
    run = replace(
        run,
        name=f"specialist_{task}",
        data=replace(run.data, train=(replace(source, weight=1.0),)),
        train=replace(run.train, steps=count, warmup_steps=count // 10),
        init=replace(run.init, visual_tokenizer=str(coder)),
    )
    return multiway.load(trained(out, lambda: pretrain(run, out))[0]), count


def write_page(
    path: Path,
    results: dict[str, Any],
    pictures: Sequence[tuple[str, Image.Image, Image.Image]],
    examples: dict[str, list[tuple[str, str, str]]],
) -> None:
    """The page: figures, drawings beside real pictures of the same caption, and answers."""
    rows = "".join(
        f"<tr><th>{ABOUT[task]}</th><td>{found['own']['right']:.1f} %</td>"
        f"<td>{found['shuffled']['right']:.1f} %</td></tr>"
        for task, found in results["tasks"].items()
    )
    drawn = results["drawings"]
    cards = "".join(
        f"<figure><div class=thumb><img src='{_inline(made)}' alt=''></div>"
        f"<div class=thumb><img src='{_inline(real)}' alt=''></div>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, made, real in pictures
    )
    said = "".join(_answers(ABOUT[task], rows_) for task, rows_ in examples.items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>multiway generalist</title>",
        f"<style>{STYLE}</style><main><h1>One model, every task</h1>",
        f"<p class=soft>{results['steps']:,} steps of {results['batch_size']}, ",
        f"{results['parameters'] / 1e6:.1f} M parameters. Nothing below was seen in training; mistakes are ",
        "left in.</p><div class=scroll><table><thead><tr><th></th><th>right</th><th>with other pictures</th>",
        f"</tr></thead>{rows}</table></div><h2>Text to picture</h2>",
        "<p>The drawing above, a real picture of the same caption below. ",
        f"Of {drawn['n']} drawings {drawn['r1']:.1f} % are nearest to the real picture of their caption ",
        f"(dealt to other captions {drawn['r1_shuffled']:.1f} %; the VQ-VAE's own limit ",
        f"{drawn['r1_codes']:.1f} %); {drawn['shown']:.1f} % show all that the caption says and nothing ",
        f"else.</p><div class=hits>{cards}</div><h2>Answers</h2>{said}</main></html>\n",
    ]
    path.write_text("".join(parts), encoding="utf-8")


def _answers(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><td>{escape(prompt)}</td><td>{escape(found)}</td><td>{escape(right)}</td></tr>"
        for prompt, right, found in rows
    )
    head = "<thead><tr><th>prompt</th><th>answer</th><th>right</th></tr></thead>"
    return f"<h3>{title}</h3><div class=scroll><table>{head}{cells}</table></div>"


def _inline(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


if __name__ == "__main__":
    main()
