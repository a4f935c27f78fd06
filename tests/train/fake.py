"""A system small enough to train in milliseconds, with all that a step may move: momentum, queue, ramp.

Run as a script, it trains in a process of its own: `fake.py OUT '[["name", {"train": {...}, ...}], ...]'`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from multiway.batch import Batch
from multiway.core.block import Block, Stack
from multiway.core.gather import gather, rank
from multiway.core.momentum import FeatureQueue, ema_update, momentum_copy
from multiway.data.dataset import Source
from multiway.systems.base import System
from multiway.train import parallel
from multiway.train.loop import train
from multiway.train.run import Run, TrainConfig


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    system: Literal["fake"] = "fake"
    dropout: float = 0.1
    noise: float = 0.1  # drawn from the generator
    queue: int = 12
    batchnorm: bool = False


@dataclass(frozen=True, kw_only=True)
class FakeData:
    samples: int = 24
    seed: int = 0
    poison: tuple[int, ...] = ()  # steps whose last sample is not finite
    slow: float = 0.0  # seconds a batch
    building: float = 0.0  # seconds before there is a system
    uneven: bool = False  # each rank builds other weights
    workers: int = 0
    val: tuple[Source, ...] = ()


class State(nn.Module):
    def __init__(self, encoders: nn.Module, queue: int):
        super().__init__()
        self.encoders = momentum_copy(encoders)
        self.queue = FeatureQueue(queue, 6)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


class Encoders(nn.Module):
    def __init__(self, config: FakeConfig):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(4) if config.batchnorm else nn.Identity())
        self.blocks = Stack(Block(8, 2, 16, dropout=config.dropout) for _ in range(2))
        self.fusion = Stack([Block(8, 2, 16, context_width=8, dropout=config.dropout)])
        self.words = nn.Embedding(20, 8)
        self.proj = nn.Linear(8, 6)
        self.unused = nn.Linear(2, 2)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.blocks(self.tower(batch.image.flatten(2).transpose(1, 2)))
        words = self.blocks(self.words(batch.input_ids))
        words = self.fusion(words, context=self.fusion.context(image.detach()))
        return tuple(F.normalize(self.proj(x.mean(1)), dim=-1) for x in (image, words))


class Fake(System):
    def __init__(self, config: FakeConfig):
        super().__init__()
        self.config = config
        self.encoders = Encoders(config)
        self.temperature = nn.Parameter(torch.tensor(0.2))
        self.calls = Counter()

    def init_state(self, *, steps_per_epoch: int = 1) -> State:
        return State(self.encoders, self.config.queue)

    def begin(self, state) -> None:
        self.calls["begin"] += 1

    def losses(self, batch, state, draws=None, generator=None):
        self.calls["losses"] += 1
        image, text = self.encoders(batch)
        with torch.no_grad():
            image_m, text_m = state.encoders(batch)
        if self.config.noise:
            image = image + self.config.noise * torch.randn(image.shape, generator=generator)
        candidates = [
            torch.cat([gather(x), q]) for x, q in ((text, state.queue.text), (image, state.queue.image))
        ]
        target = rank() * len(image) + torch.arange(len(image))
        i2t, t2i = (x @ c.T / self.temperature for x, c in zip((image, text), candidates, strict=True))
        itc = (F.cross_entropy(i2t, target) + F.cross_entropy(t2i, target)) / 2
        return {"loss": itc, "itc": itc, "enqueue/image": image_m, "enqueue/text": text_m}

    def advance(self, state, outputs) -> None:
        self.calls["advance"] += 1
        self.calls["outputs"] += len(outputs)
        state.queue.enqueue(*(torch.cat([o[f"enqueue/{k}"] for o in outputs]) for k in ("image", "text")))
        state.step += 1
        ema_update(self.encoders, state.encoders, 0.9)
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)


@dataclass
class FakeLoader:
    data: FakeData
    batch_size: int
    rank: int
    world: int
    served: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.data.samples // (self.batch_size * self.world)

    def iterate(self, start_step: int = 0):
        step = start_step
        while True:
            generator = torch.Generator().manual_seed(1000 * self.data.seed + step)
            size = self.batch_size * self.world
            image = torch.randn(size, 3, 2, 2, generator=generator)
            ids = torch.randint(20, (size, 3), generator=generator)
            if step in self.data.poison:
                image[-1, 0, 0, 0] = float("nan")
            mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
            self.served.append(step)
            time.sleep(self.data.slow)
            yield Batch(image=image[mine], input_ids=ids[mine], attention_mask=torch.ones_like(ids[mine]))
            step += 1


def build(run: Run, ranks):
    rows = run.train.per_rank(ranks.world)
    if run.data.building:
        print("building", flush=True)
        time.sleep(run.data.building)
    system = Fake(run.system)
    if run.data.uneven:
        with torch.no_grad():
            for parameter in system.parameters():
                parameter += 0.1 * ranks.rank
    return system, FakeLoader(run.data, rows, ranks.rank, ranks.world)


def save(system: System, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({k: v.contiguous() for k, v in system.state_dict().items()}, folder / "model.safetensors")


def evaluate(system: System) -> dict:
    weight = system.encoders.proj.weight
    assert not system.training
    return {"itc": {"ir_r1": float(weight.abs().sum()), "name": "not a number"}, "size": weight.numel()}


def make_run(*, system: dict | None = None, data: dict | None = None, **options) -> Run:
    options = {"steps": 6, "batch_size": 4, "lr": 1e-2, "device": "cpu", **options}
    return Run(
        name="fake",
        system=FakeConfig(**(system or {})),
        data=FakeData(**(data or {})),
        train=TrainConfig(**options),
    )


def final(out: Path, step: int) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds, by file and name."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    return {
        f"{kind}/{name}": tensor.clone()  # the file is mapped, and a test may tear it
        for kind in ("model", "state", "optimizer")
        for name, tensor in load_file(folder / f"{kind}.safetensors").items()
    }


def fit(out: Path, settings: dict):
    """Train the run that plain `settings` describe."""
    data = dict(settings.get("data", {}))
    data["poison"] = tuple(data.get("poison", ()))
    return train(
        make_run(system=settings.get("system"), data=data, **settings["train"]),
        out,
        make=build,
        save=save,
        evaluate=evaluate if settings.get("evaluate") else None,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with parallel.ranks("cpu"):
        for name, settings in json.loads(sys.argv[2]):
            result = fit(Path(sys.argv[1]) / name, settings)
            print("done", result.progress.step, result.stopped_by)
