"""Time and memory of one ALBEF pre-training step: our fast path beside the plain path, with the same weights.

    python benchmarks/albef_step.py [--threads N] [--repeats N] [--device cpu|cuda] [--out FILE.json]

The plain path is the same modules in the official code's schedule of work (`plain_albef.py`), with AdamW
parameter by parameter as there; the fast one has the fused AdamW that `multiway train` has. A step is losses,
backward, AdamW and `advance` (enqueue, EMA). ViT-B at 256 px, batch 8, texts as long as Flickr8k's captions
(a histogram of token lengths; no caption is needed), padded to each batch's longest as in the official code.
Times are interleaved, plain and fast on the same batch one after the other, and the speedup is the median of
these pairs' ratios; memory is the peak of a process of its own for each path. Dropout is off, so that both
paths must give the same losses.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from plain_albef import PlainALBEF

from multiway.batch import Batch
from multiway.core.flops import counted
from multiway.systems.albef import ALBEF, ALBEFConfig, Draws
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig

HERE = Path(__file__).parent
PARTS = ("forward", "backward", "optimizer", "advance")
SIZES = {
    "base": {"image_size": 256, "image": {}, "text": {}, "queue_size": 65536},
    # for the test of this file
    "tiny": {
        "image_size": 32,
        "image": {"width": 32, "depth": 2, "heads": 2, "hidden": 64},
        "text": {"width": 32, "layers": 1, "fusion_layers": 1, "heads": 2, "hidden": 64},
        "queue_size": 64,
    },
}


def build(size: str, device: str) -> dict[str, ALBEF]:
    """The fast and the plain path over the very same seeded random weights, dropout off."""
    torch.manual_seed(0)
    sizes = SIZES[size]
    image = ViTConfig(image_size=sizes["image_size"], patch_size=16, **sizes["image"])
    text = BertConfig(dropout=0.0, **sizes["text"])
    config = ALBEFConfig(image=image, text=text, queue_size=sizes["queue_size"])
    fast = ALBEF(config).to(device).train()
    plain = copy.copy(fast)  # shares all modules
    plain.__class__ = PlainALBEF
    return {"plain": plain, "fast": fast}


def draw(seed: int, batch: int, image_size: int, device: str) -> tuple[Batch, Draws]:
    """Random pictures, token ids of recorded lengths, and every random choice of the step."""
    g = torch.Generator().manual_seed(seed)
    histogram = json.loads((HERE / "flickr8k_token_lengths.json").read_text())
    weights = torch.tensor(list(histogram.values()), dtype=torch.float)
    lengths = torch.tensor([int(n) for n in histogram])[torch.multinomial(weights, batch, True, generator=g)]
    width = int(lengths.max())
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = torch.randint(1000, 30522, (batch, width), generator=g)
    ids[:, 0] = 101
    chosen = (torch.rand(batch, width, generator=g) < 0.15) & mask.bool()
    chosen[:, 0] = False
    chosen[0, 1] = True  # at least one
    other = torch.arange(batch).roll(1)
    draws = Draws(
        negative_image=other,
        negative_text=other,
        mlm_input_ids=(ids * mask).masked_fill(chosen, 103),
        mlm_labels=ids.masked_fill(~chosen, -100),
    )
    image = torch.randn(batch, 3, image_size, image_size, generator=g)
    data = Batch(image=image, input_ids=ids * mask, attention_mask=mask, ids=torch.arange(batch))
    moved = {name: value.to(device) for name, value in vars(draws).items()}
    return data.to(device), Draws(**moved)


class Trainer:
    """Both paths, over one set of weights, one state and one optimizer."""

    def __init__(self, size: str, device: str):
        self.models = build(size, device)
        fast = self.models["fast"]
        self.state = fast.init_state(steps_per_epoch=1000)
        fast.begin(self.state)
        self.optimizer = build_optimizer(fast, TrainConfig(steps=1, lr=1e-5))
        self.device = device

    def step(self, path: str, batch: Batch, draws: Draws) -> dict[str, float]:
        """Seconds of each of PARTS of one step."""
        for group in self.optimizer.param_groups:
            group["fused"], group["foreach"] = path == "fast", False
        times = [self._now()]
        out = self.models[path].losses(batch, self.state, draws)
        times.append(self._now())
        out["loss"].backward()
        times.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        times.append(self._now())
        self.models[path].advance(self.state, [out])
        times.append(self._now())
        return {part: times[i + 1] - times[i] for i, part in enumerate(PARTS)}

    def count(self, path: str, batch: Batch, draws: Draws) -> tuple[int, dict[str, float]]:
        """FLOPs of forward and backward (a multiply and an add are two), and the losses; nothing moves."""
        with counted() as counter:
            out = self.models[path].losses(batch, self.state, draws)
            out["loss"].backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops(), {k: float(v.detach()) for k, v in out.items() if v.ndim == 0}

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def peak(args: argparse.Namespace, fast: bool) -> dict[str, int]:
    """Peak bytes of two steps in their own process: `total`, and `over_weights`, less model and optimizer."""
    command = [sys.executable, __file__, "--memory-of", "fast" if fast else "plain", "--size", args.size]
    command += ["--threads", str(args.threads), "--batch", str(args.batch), "--device", args.device]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(args: argparse.Namespace) -> dict[str, int]:
    """What `peak` asks of its process."""
    trainer, path = Trainer(args.size, args.device), args.memory_of
    image_size = SIZES[args.size]["image_size"]
    trainer.step(path, *draw(0, args.batch, image_size, args.device))  # makes the optimizer's moments
    gc.collect()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.step(path, *draw(1, args.batch, image_size, args.device))
        total = torch.cuda.max_memory_allocated()
    else:
        weights = (trainer.models["fast"], trainer.state)
        before = sum(t.nbytes for module in weights for t in module.state_dict().values())
        before += sum(t.nbytes for s in trainer.optimizer.state.values() for t in s.values())
        trainer.step(path, *draw(1, args.batch, image_size, args.device))
        total = resident_peak()
    return {"total": total, "over_weights": total - before}


def resident_peak() -> int:
    """The most bytes that this process held.

    Linux hands getrusage's figure on from the process that started this one, if it was larger; VmHWM is ours.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compare(args: argparse.Namespace) -> dict:
    """All figures, as the object that is written."""
    image_size = SIZES[args.size]["image_size"]
    trainer, first = Trainer(args.size, args.device), draw(0, args.batch, image_size, args.device)
    counted = {path: trainer.count(path, *first) for path in trainer.models}
    flops = {path: count for path, (count, _) in counted.items()}
    losses = {path: values for path, (_, values) in counted.items()}
    parts: dict[str, list[dict[str, float]]] = {path: [] for path in trainer.models}
    for path in parts:
        trainer.step(path, *first)  # warm-up
    for repeat in range(args.repeats):
        data = draw(1 + repeat, args.batch, image_size, args.device)
        for path in sorted(parts, reverse=repeat % 2 == 0):  # each goes first as often
            parts[path].append(trainer.step(path, *data))
    del trainer
    gc.collect()
    seconds = {path: [sum(step.values()) for step in steps] for path, steps in parts.items()}
    median = {path: statistics.median(times) for path, times in seconds.items()}
    ratios = [plain / fast for plain, fast in zip(seconds["plain"], seconds["fast"], strict=True)]
    difference = max(abs(losses["plain"][k] - losses["fast"][k]) for k in losses["plain"])
    return {
        "command": f"python benchmarks/albef_step.py --threads {args.threads} --repeats {args.repeats} "
        f"--batch {args.batch} --size {args.size} --device {args.device}",
        "machine": {"device": args.device, "threads": torch.get_num_threads(), "cpu": _cpu()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "setting": {
            "size": args.size,
            "image_size": image_size,
            "batch": args.batch,
            "repeats": args.repeats,
        },
        "seconds": seconds,
        "median_seconds": median,
        "median_seconds_of_parts": {
            path: {part: statistics.median(step[part] for step in steps) for part in PARTS}
            for path, steps in parts.items()
        },
        "speedup": statistics.median(ratios),
        "speedup_of_pairs": ratios,
        "flops": flops,
        "flops_ratio": flops["plain"] / flops["fast"],
        "peak_bytes": {"plain": peak(args, False), "fast": peak(args, True)},
        "losses": losses,
        "largest_loss_difference": difference,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps a path")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, help="default: docs/figures/albef_step.json (with _cuda on a GPU)"
    )
    parser.add_argument("--memory-of", choices=("plain", "fast"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(memory(args)))
        return
    figures = compare(args)
    suffix = "_cuda" if args.device == "cuda" else ""
    out = args.out or HERE.parent / "docs" / "figures" / f"albef_step{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    for name in ("plain", "fast"):
        gib = figures["peak_bytes"][name]["total"] / 2**30
        print(f"{name:<6}{figures['median_seconds'][name]:8.3f} s a step   {gib:6.2f} GiB peak")
    print(
        f"{figures['speedup']:.2f} times as fast; "
        f"losses differ by at most {figures['largest_loss_difference']:.1e}"
    )
    if figures["largest_loss_difference"] > 1e-5:
        sys.exit("error: the two paths do not give the same losses")


if __name__ == "__main__":
    main()
