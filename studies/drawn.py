"""The drawn world of the studies of VLMo and BEiT-3: data, words, visual tokens, how models are measured.

Everything is at 80 pixels, so that a cell of a scene is a patch of 16. Where a patch has to be told from its
neighbours, patches are smaller.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from multiway import weights
from multiway.data import scenes
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.data.labelled import LabelledSource, TaskData
from multiway.data.pair_shards import write_scene_pairs
from multiway.data.scene_shards import write_shards as write_scenes
from multiway.data.scene_text import COLOURED
from multiway.data.two_pictures import PicturePairs
from multiway.systems.base import System
from multiway.tasks import nlvr2, retrieval
from multiway.text import TokenizerConfig
from multiway.text.wordpiece import SPECIAL
from multiway.train.log import read_metrics
from multiway.train.loop import train
from multiway.train.optim import build_optimizer
from multiway.train.parallel import Ranks
from multiway.train.run import Run, TrainConfig

SIDE, PATCH, BATCH = 80, 16, 32
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)  # left and right, colour and count must stay true
TEST_SEED = 77
#: Words of questions, and of sentences about two pictures, that captions lack.
QUESTIONS = "what colour shape is the thing things how many are there in of and yes no picture ?"
METRICS = {
    "retrieval": "mean R@1 of texts and of pictures, 500 new scenes, by ITC",
    "reasoning": "accuracy on 1,000 new pairs of pictures: does either hold a thing of a colour? Half do",
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is drawn: pairs to pre-train on, pairs of pictures to fine-tune on, and test samples."""

    pairs: int = 6000
    reasoning: int = 12000
    test: int = 500
    test_reasoning: int = 1000


@dataclass(frozen=True)
class World:
    """Folders of drawn data, written when they are asked for."""

    folder: Path
    sizes: Sizes

    def prepare(self, seeds: tuple[int, ...]) -> None:
        """Write all of it, before several processes read it."""
        for seed in seeds:
            self.pairs(seed), self.pictures(seed), self.reasoning(seed)
        self.tests()
        self.vocabulary()

    def pairs(self, seed: int) -> str:
        """Scenes with their captions."""
        return self._scenes(f"pairs-{seed}", self.sizes.pairs, 300 + seed)

    def pictures(self, seed: int) -> str:
        """Other scenes, whose captions nobody reads."""
        return self._scenes(f"pictures-{seed}", self.sizes.pairs, 400 + seed)

    def texts(self, seed: int) -> str:
        """Captions of yet other scenes, whose pictures nobody draws."""
        return f"scenes:{self.sizes.pairs}:{500 + seed}"

    def reasoning(self, seed: int) -> str:
        """Two pictures beside each other, a sentence, and whether it is true."""
        return self._two(f"coloured-{seed}", self.sizes.reasoning, 800 + seed)

    def tests(self) -> tuple[str, str]:
        """New scenes with captions, and new pairs of pictures."""
        two = self._two("test-coloured", self.sizes.test_reasoning, TEST_SEED)
        return self._scenes("test", self.sizes.test, TEST_SEED), two

    def vocabulary(self) -> Path:
        """vocab.txt of every word that a caption, a sentence or a question can have."""
        path = self.folder / "vocab.txt"
        if not path.exists():
            words = {"a", "an", *scenes.SIZES, *scenes.COLOURS, *scenes.SHAPES, *scenes.NUMBERS[2:]}
            words |= {f"{s}{'es' if s.endswith('s') else 's'}" for s in scenes.SHAPES}
            words |= {word for relation in scenes.RELATIONS for word in relation.split()}
            words |= {str(n) for n in range(1, 2 * scenes.MAX_COUNT * 2 + 1)}
            words |= set(QUESTIONS.split())
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*SPECIAL, *sorted(words)]) + "\n")
        return path

    def _scenes(self, name: str, count: int, seed: int) -> str:
        folder = self.folder / name
        _once(folder, lambda: write_scenes(folder, count, seed=seed, image_size=SIDE, shard_size=2000))
        return str(folder)

    def _two(self, name: str, count: int, seed: int) -> str:
        # models that are trained for minutes learned nothing of other sentences
        folder = self.folder / name
        _once(folder, lambda: write_scene_pairs(folder, count, seed=seed, image_size=SIDE, kinds=COLOURED))
        return str(folder)


def _once(folder: Path, write: Callable[[], object]) -> None:
    """Write a folder's tars if they are not all there: a killed run had not marked them."""
    mark = folder / "whole"
    if not mark.exists():
        write()
        mark.touch()


def tokenizer(world: World) -> TokenizerConfig:
    """Every word whole, [SEP] at the end."""
    return TokenizerConfig(vocab=str(world.vocabulary()), cleaning="none", add_sep=True, max_length=24)


def words(world: World) -> int:
    """Rows of the word table."""
    return len(world.vocabulary().read_text().splitlines())


class PatchCodes(nn.Module):
    """Visual tokens without any training: the nearest of some patches' colours, found by k-means.

    It knows no label and no other picture's pre-training, so that a stage of pictures adds pictures alone.
    """

    def __init__(self, pictures: str | Source, codes: int = 128, seed: int = 0, patch: int = PATCH):
        super().__init__()
        self.image_size, self.codes, self.patch = SIDE, codes, patch
        data = Dataset(Source(path=pictures) if isinstance(pictures, str) else pictures)
        rows = [
            _patches(pixels(data.image(i))[None], patch)[0]
            for i in range(0, len(data), max(len(data) // 400, 1))
        ]
        patches = torch.cat(rows)
        drawn = patches[(patches - patches[:, :1]).abs().amax(1) > 0.05]  # one code is enough for white
        g = torch.Generator().manual_seed(seed)
        centres = drawn[torch.randperm(len(drawn), generator=g)[: codes - 1]]
        for _ in range(10):
            nearest = torch.cdist(drawn, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, drawn)
            counts = nearest.bincount(minlength=len(centres))[:, None]
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        self.register_buffer("centres", torch.cat([torch.ones(1, centres.shape[1]), centres]))

    def visual_tokens(self, image: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """The token of each patch, row by row; pictures are in 0..1."""
        patches = _patches(image, self.patch)
        return torch.cdist(patches.flatten(0, 1), self.centres).argmin(1).view(patches.shape[:2])


def pixels(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """A picture as numbers in 0..1."""
    return (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)
        / 255
    )


def _patches(image: Float[Tensor, "B 3 H W"], patch: int) -> Float[Tensor, "B N P"]:
    return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def training(steps: int, seed: int, lr: float, **changes: Any) -> TrainConfig:
    """AdamW with a cosine."""
    options: dict[str, Any] = {
        "steps": steps,
        "batch_size": BATCH,
        "lr": lr,
        "min_lr": lr / 50,
        "warmup_lr": lr / 50,
        "warmup_steps": steps // 10,
        "betas": (0.9, 0.98),
        "weight_decay": 0.05,
        "clip_grad": 1.0,
        "seed": seed,
        "save_every": 200,
        "keep_last": 1,
        "device": "cpu",
    }
    return TrainConfig(**(options | changes))


def data(source: str, seed: int) -> DataConfig:
    """Pictures, texts or pairs; equal texts are positives of each other."""
    return DataConfig(
        train=(Source(path=source),), image_size=SIDE, augment=PLAIN, merge_equal_texts=True, seed=seed
    )


def labelled(source: str, seed: int) -> TaskData:
    """A source to fine-tune on."""
    return TaskData(train=(LabelledSource(path=source),), augment=PLAIN, seed=seed)


#: A run's system and its loader.
Make = Callable[[Run, Ranks], tuple[System, Any]]


def trained(run: Run, out: Path, make: Make) -> dict[str, float]:
    """Train a stage unless it was finished; returns its steps, seconds and mean loss at the end."""
    spent = out / "spent.json"
    if not spent.exists():
        began = time.monotonic()
        if train(run, out, make=make, save=weights.save).stopped_by is not None:
            sys.exit("stopped: the same command goes on from here")
        seconds, loss = round(time.monotonic() - began, 1), round(last_loss(out, 10), 4)
        spent.write_text(json.dumps({"steps": run.train.steps, "seconds": seconds, "loss": loss}))
    return json.loads(spent.read_text())


def step_seconds(runs: Mapping[str, Run], make: Make, repeats: int) -> dict[str, float]:
    """Median processor seconds of a training step of each run, batch and optimizer included.

    A step of each in turn, so that a machine that is busy for a while is so for all.
    """
    torch.set_num_threads(1)
    steps = {name: _timed_steps(run, make) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-2, repeats):
        for name, taken in steps.items():
            spent = next(taken)
            if repeat >= 0:
                seconds[name].append(spent)
    return {name: round(statistics.median(times), 4) for name, times in seconds.items()}


def _timed_steps(run: Run, make: Make) -> Iterator[float]:
    system, loader = make(run, Ranks(0, 1, torch.device("cpu")))
    state, optimizer = system.init_state(), build_optimizer(system, run.train)
    generator, batches = torch.Generator().manual_seed(0), loader.iterate()
    while True:
        began = time.process_time()
        system.losses(next(batches), state, None, generator)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield time.process_time() - began


def last_loss(run: Path, parts: int) -> float:
    """Mean loss of the last one of so many parts of a run."""
    losses = [row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    return statistics.fmean(losses[-max(len(losses) // parts, 1) :])


def measured(dual: System, judge: System, world: World) -> dict[str, float]:
    """`METRICS`, `dual` for retrieval and `judge` for two pictures."""
    pairs, two = world.tests()
    # the contrast alone: a matching head has learned little in so few steps
    found = retrieval.evaluate(dual, Dataset(Source(path=pairs)), k=1, batch_size=64)["itc"]
    accuracy = nlvr2.evaluate(judge, PicturePairs(LabelledSource(path=two)), batch_size=64)["accuracy"]
    recall = (found["tr_r1"] + found["ir_r1"]) / 2
    return {"retrieval": round(recall, 2), "reasoning": round(accuracy, 2)}
