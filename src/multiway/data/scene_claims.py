"""A sentence about a drawn scene, half of which may be covered: entailed, contradicted, or unknown."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from multiway.data.order import keyed_generator
from multiway.data.scene_text import count, with_article
from multiway.data.scenes import CELLS, COLOURS, SHAPES, Group, Scene, draw_scene, make_scene

Truth = Literal["contradiction", "neutral", "entailment"]
TRUTHS: tuple[Truth, ...] = ("contradiction", "neutral", "entailment")


@lru_cache(maxsize=4096)  # sentence, truth and picture are asked for one after the other
def make_claim(seed: int, index: int) -> tuple[Scene, int | None, str, Truth]:
    """(scene, number of the covered group or None, sentence, truth) of sample `index` of the world `seed`.

    The sentence says that there is a thing of a colour and a shape. Only what is covered can be unknown, and
    only where nothing is covered can a sentence be false; half of the true ones are about covered pictures.
    """
    draw = keyed_generator(seed, 14, index)
    truth = TRUTHS[int(draw.integers(3))]
    covers = truth == "neutral" or (truth == "entailment" and draw.random() < 0.5)
    scene, number = make_scene(seed, int(draw.integers(2**31))), 0
    while covers and len(scene.groups) == 1:
        scene = make_scene(seed, int(draw.integers(2**31)))
    covered = int(draw.integers(2)) if covers else None
    seen = [group for i, group in enumerate(scene.groups) if i != covered]
    if truth == "entailment":
        number = int(draw.integers(len(seen)))
        return scene, covered, _says(seen[number].colour, seen[number].shape), truth
    if covered is not None and draw.random() < 0.5:
        hidden = scene.groups[covered]
        return scene, covered, _says(hidden.colour, hidden.shape), truth
    return scene, covered, _says(*_absent(scene, seen, draw)), truth


def _absent(scene: Scene, seen: list[Group], draw: np.random.Generator) -> tuple[str, str]:
    """A colour and a shape of which one is in sight, and no thing has both."""
    group = seen[int(draw.integers(len(seen)))]
    while True:
        colour, shape = group.colour, group.shape
        if draw.random() < 0.5:
            colour = tuple(COLOURS)[int(draw.integers(len(COLOURS)))]
        else:
            shape = SHAPES[int(draw.integers(len(SHAPES)))]
        if not count(scene, colour=colour, shape=shape):
            return colour, shape


def _says(colour: str, shape: str) -> str:
    return f"there is {with_article(colour)} {shape}"


def draw_claim(seed: int, index: int, image_size: int = 96) -> Image.Image:
    """The picture, with a grey sheet over the covered group."""
    scene, covered, *_ = make_claim(seed, index)
    picture = draw_scene(scene, image_size)
    if covered is not None:
        boxes = np.array([thing.box for thing in scene.things if thing.group == covered])
        margin = 0.1 / CELLS
        corners = [*(boxes[:, :2].min(0) - margin), *(boxes[:, 2:].max(0) + margin)]
        ImageDraw.Draw(picture).rectangle([float(c) * image_size for c in corners], fill=(200, 200, 200))
    return picture
