"""LoRA beside full fine-tuning and a head alone: what each reaches, holds in memory, writes and takes.

    python scripts/lora.py [--steps 200] [--rank 8] [--out runs/lora]

A small ViT learns the groups of the bundled drawings; from it each way learns their subgroups, and is
measured on drawings by a hand that none has seen (`style`). Learning rates were not searched; adapters take
ten times the full one's, as is usual. Writes docs/figures/lora.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import multiway
from multiway.data.augment import Augment
from multiway.data.labelled import LabelledPictures, LabelledSource, TaskData
from multiway.systems.mae_heads import mae_vit
from multiway.tasks import classify
from multiway.tasks.finetune import TRAIN, build, finetune, labels_of, plan
from multiway.train.parallel import Ranks
from multiway.train.run import LoRAConfig, Run, provenance

ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "width": 96,
    "depth": 4,
    "heads": 3,
    "hidden": 384,
}
CPU = Ranks(0, 1, torch.device("cpu"))


def run_of(model: Path, label: str, steps: int, **changes: Any) -> Run:
    """Classes of the training drawings, from `model`."""
    data = TaskData(
        train=(LabelledSource(path="emoji", label=label, split="train"),),
        augment=Augment(crop_scale=(0.7, 1.0), rand_n=0, flip=0.5),
    )
    train = replace(TRAIN, epochs=None, steps=steps, warmup_steps=steps // 10, save_every=steps, **changes)
    return plan("classify", model, data, train=train)


def base(out: Path, steps: int) -> Path:
    """A classifier of groups, from fresh weights."""
    if not (out / "base" / "model").exists():
        torch.manual_seed(0)
        fresh = multiway.create("mae", image=mae_vit(**SIZES, sincos=True), decoder_width=48, decoder_heads=3)
        multiway.save(fresh, out / "fresh")
        finetune("classify", run_of(out / "fresh", "group", steps, lr=1e-3), out / "base")
    return out / "base" / "model"


def measure(run: Run, out: Path) -> dict[str, Any]:
    """Train and test one way."""
    system, _ = build("classify", run, CPU)
    frozen = [p for name, p in system.named_parameters() if name.startswith(run.train.freeze or ("?",))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    began = time.process_time()
    finetune("classify", run, out)
    seconds = time.process_time() - began
    model = multiway.load(out / "model")
    data = LabelledPictures(
        LabelledSource(path="emoji", label="subgroup", split="style"), labels=labels_of(model.config)
    )
    found = classify.measure(model, data).result
    checkpoint = out / "checkpoints" / f"step-{run.train.steps:08d}"
    return {
        "top1": found["top1"],
        "interval": found["interval"],
        "majority": found["majority"],
        "trained_parameters": trained,
        "training_bytes": 12 * trained,  # gradient and AdamW's two moments, float32
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.iterdir()),
        "cpu_seconds_a_step": round(seconds / run.train.steps, 4),
    }


def main() -> None:
    """Every way, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="of each way; the base takes three times as many"
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "lora")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures" / "lora.json")
    args = parser.parse_args()
    start = base(args.out, 3 * args.steps)
    ways: dict[str, dict[str, Any]] = {
        "full": {"lr": 3e-4},
        "lora": {"lr": 3e-3, "lora": LoRAConfig(rank=args.rank)},
        "head": {"lr": 3e-3, "freeze": ("image_tower",)},
    }
    figures: dict[str, Any] = {
        **provenance(),
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "setting": {"steps": args.steps, "rank": args.rank, "batch": TRAIN.batch_size, **SIZES},
        "ways": {},
    }
    figures["command"] = f"python scripts/lora.py --steps {args.steps} --rank {args.rank}"
    for name, changes in ways.items():
        figures["ways"][name] = measure(run_of(start, "subgroup", args.steps, **changes), args.out / name)
        args.figures.parent.mkdir(parents=True, exist_ok=True)
        args.figures.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
