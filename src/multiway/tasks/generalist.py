"""A generalist measured on each task of the drawn world, beside the same prompts with other pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from multiway.data.locations import overlap
from multiway.data.order import keyed_generator
from multiway.data.prompts import ScenePrompts
from multiway.data.scene_reader import counts, shows
from multiway.data.scenes import COLOURS, SHAPES, draw_scene
from multiway.metrics.controls import other
from multiway.metrics.resample import wilson
from multiway.systems.asking import Asking
from multiway.systems.pictures import Picture
from multiway.tasks.two_stage import Progress, evaluating, silent

#: The classes of `classify`.
KINDS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
BATCH = 50


def asked(task: str, n: int, seed: int) -> tuple[ScenePrompts, list[str], list[str]]:
    """`n` scenes of a world, and of each one prompt of the task with its answer, drawn."""
    store, prompts, answers = ScenePrompts(task, n, seed), [], []
    for i in range(n):
        texts = store.texts(i)
        prompt, answer = texts[int(keyed_generator(seed, 14, i).integers(len(texts)))].split("\t")
        prompts.append(prompt)
        answers.append(answer)
    return store, prompts, answers


def measure(
    model: Asking, task: str, *, n: int = 400, seed: int = 1001, progress: Progress = silent
) -> dict[str, Any]:
    """Share in percent of answers that are right, with 95 % intervals, by own and by other pictures.

    Right is: word for word (`caption`, `question`, `region`); the class among all 64 (`classify`); a box that
    overlaps the thing's by more than half (`ground`).
    """
    store, prompts, answers = asked(task, n, seed)
    pictures = [store.image(i) for i in range(n)]
    deal = {"own": range(n), "shuffled": other(range(n))}
    result: dict[str, Any] = {"n": n}
    for name, order in deal.items():
        if order is None:
            result[name] = None
            continue
        dealt = [pictures[i] for i in order]
        with evaluating(model):
            if task == "ground":
                found = _batches(model.locate, dealt, prompts, progress)
                boxes = [_box(store, i, prompt) for i, prompt in enumerate(prompts)]
                overlaps = [overlap(a, b) for a, b in zip(found, boxes, strict=True)]
                right = [value > 0.5 for value in overlaps]
                extra = {"mean_iou": round(100 * float(np.mean(overlaps)), 2)}
            else:
                answer = partial(model.answer, answers=KINDS if task == "classify" else None)
                found = _batches(answer, dealt, prompts, progress)
                right, extra = [a == b for a, b in zip(found, answers, strict=True)], {}
        low, high = wilson(sum(right), n)
        result[name] = {
            "right": round(100 * sum(right) / n, 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            **extra,
        }
        if name == "own":
            result["examples"] = list(zip(prompts[:12], answers[:12], map(str, found[:12]), strict=True))
    return result


def _box(store: ScenePrompts, i: int, prompt: str) -> tuple[float, float, float, float]:
    things = store.scene(i).things
    return next(t.box for t in things if prompt == f"where is the {t.size} {t.colour} {t.shape}?")


def _batches(
    ask: Callable[[list[Picture], list[str]], Sequence[Any]],
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    progress: Progress,
) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        found += ask(list(pictures[part]), list(prompts[part]))
        progress("answers", len(found), len(prompts))
    return found


def drawings(
    model: Asking, *, n: int = 200, seed: int = 1002, progress: Progress = silent
) -> tuple[dict[str, Any], list[tuple[str, Image.Image, Image.Image]]]:
    """Pictures of `n` captions, judged by `data.scene_reader`, which knows no network.

    Returns:
        In percent: `r1`, drawings whose nearest real picture of the n is that of their caption, by counts of
        what is read (ties count against it); `shown`, drawings that show all that their caption says,
        relations included, and nothing else. `_shuffled`: captions dealt to other pictures. `_codes`: the
        real pictures after the VQ-VAE, the best that its tokens allow. `_real`: as they are, what the reader
        is good for. And the captions with their drawings and real pictures.
    """
    store, prompts, _ = asked("draw", n, seed)
    scenes = [store.scene(i) for i in range(n)]
    real = [draw_scene(scene, 80) for scene in scenes]
    made: list[Image.Image] = []
    coded: list[Image.Image] = []
    with evaluating(model):
        for start in range(0, n, BATCH):
            keys = [store.key(i) for i in range(start, min(start + BATCH, n))]
            made += pictured(model.draw(prompts[start : start + BATCH], keys=keys))
            pixels = torch.stack([_pixels(image) for image in real[start : start + BATCH]])
            coded += pictured(model.pictures.picture(model.pictures.visual_tokens(pixels.to(model.device))))
            progress("drawings", len(made), n)
    known, dealt = [counts(image) for image in real], other(range(n))
    right = nearest([counts(image) for image in made], known)
    result = {
        "n": n,
        "r1": _percent(right == np.arange(n)),
        "r1_shuffled": None if dealt is None else _percent(right == dealt),
        "r1_real": _percent(nearest(known, known) == np.arange(n)),
        "r1_codes": _percent(nearest([counts(image) for image in coded], known) == np.arange(n)),
        "shown": _percent([shows(image, scene) for image, scene in zip(made, scenes, strict=True)]),
        "shown_codes": _percent([shows(image, scene) for image, scene in zip(coded, scenes, strict=True)]),
        "shown_real": _percent([shows(image, scene) for image, scene in zip(real, scenes, strict=True)]),
    }
    return result, list(zip([s.caption for s in scenes], made, real, strict=True))


def nearest(asked: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Of each counter the nearest known one by the sum of differences; -1 where several are as near."""
    names = sorted({name for counter in (*asked, *known) for name in counter})
    one, two = (np.array([[c[name] for name in names] for c in part]) for part in (asked, known))
    distance = np.abs(one[:, None] - two[None]).sum(-1)
    least = distance.min(1, keepdims=True)
    return np.where((distance == least).sum(1) == 1, distance.argmin(1), -1)


def pictured(images: torch.Tensor) -> list[Image.Image]:
    """Pictures in 0..1, `[B, 3, H, W]`, as PIL has them."""
    values = (images.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
    return [Image.fromarray(value) for value in values]


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)


def _percent(right: Any) -> float:
    return round(100 * float(np.mean(right)), 2)
