"""What the side-by-side benchmarks share: the peer's weights, interleaved timing, the matrix rates."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).parent
VOCABULARY = 30524
DEC, ENC, SEP = 30522, 30523, 102
#: ViT-S/16 at 224 px and a 12-layer text stack of its width; `tiny` is for the test of these files.
SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 384, "hidden": 1536, "layers": 12, "heads": 6, "image_size": 224},
    "tiny": {"width": 32, "hidden": 64, "layers": 2, "heads": 2, "image_size": 32},
}


def peer(kind: type[nn.Module], size: str) -> nn.Module:
    """One of transformers' BLIP classes with seeded random weights, so wide that scores differ clearly."""
    sizes = SIZES[size]
    shared = {
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
    }
    text = {"vocab_size": VOCABULARY, "encoder_hidden_size": sizes["width"], "bos_token_id": DEC}
    text |= {"sep_token_id": SEP, "eos_token_id": SEP, "pad_token_id": 0, "max_position_embeddings": 512}
    vision = {"image_size": sizes["image_size"], "patch_size": 16}
    config = transformers.BlipConfig(
        text_config=shared | text, vision_config=shared | vision, image_text_hidden_size=sizes["width"]
    )
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return model


def interleave(
    paths: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each path, one after the other in every repeat, after one call of each that does not count.

    Of two repeats, the second runs the paths in the opposite order.

    Args:
        clock: `time.process_time` counts this process's work alone, where others keep the machine busy.
    """
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(-1, repeats):
        for name in sorted(paths, reverse=repeat % 2 == 0):
            start = clock()
            paths[name]()
            if repeat >= 0:
                seconds[name].append(clock() - start)
    return seconds


class Matrix:
    """One large matrix product: what the machine can do at the moment it is asked."""

    def __init__(self, side: int = 2048):
        self.a, self.b = torch.rand(side, side), torch.rand(side, side)
        self.flops = 2 * side**3

    def __call__(self) -> Tensor:
        return self.a @ self.b


class Products(TorchDispatchMode):
    """The linear maps of what runs inside `with`, to be run again alone: the same weights, rows and order."""

    def __init__(self):
        super().__init__()
        self._maps: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.linear.default:
            x, weight, *bias = args
            self._maps.append((torch.randn(x.shape), weight, bias[0] if bias else None))
            self.flops += 2 * x.numel() * len(weight)
        return func(*args, **(kwargs or {}))

    def __call__(self) -> None:
        with torch.inference_mode():
            for x, weight, bias in self._maps:
                F.linear(x, weight, bias)


def report(seconds: dict[str, list[float]], ours: str, **more: Any) -> dict[str, Any]:
    """The object that is written: the machine, all times, and how many times as fast ours is as each peer."""
    median = {name: statistics.median(times) for name, times in seconds.items()}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "command": "python " + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "cpu": next(named, platform.machine()),
        },
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        **more,
        "seconds": seconds,
        "median_seconds": median,
        "speedup": {
            name: statistics.median(theirs / own for theirs, own in zip(times, seconds[ours], strict=True))
            for name, times in seconds.items()
            if name not in (ours, "matrix", "products")
        },
    }


def arguments(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """The flags of both benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed calls a path")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path, help="default: docs/figures/, by the benchmark's name")
    return parser


def write(figures: dict[str, Any], out: Path | None) -> None:
    """Write the figures where they belong."""
    out = out or HERE.parent / "docs" / "figures" / f"{Path(sys.argv[0]).stem}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
