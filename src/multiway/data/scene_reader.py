"""What a picture of the drawn world shows, read by templates: no network, so that it can judge one.

Every cell of the board takes the nearest of all things that could lie in it, drawn at every place that the
world allows, or stays empty. Of pictures that the world drew itself nearly all is read right.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import Image

from multiway.data.scenes import CELLS, COLOURS, SHAPES, SIZES, Group, Scene, Thing, draw_scene

Kind = tuple[str, str, str]  # size, colour, shape
SIDE = 80
CELL = SIDE // CELLS


@cache
def _templates() -> tuple[list[Kind | None], Float[np.ndarray, "K P"]]:
    """Kinds (None: an empty cell), each as a cell with the thing at one of its places."""
    kinds: list[Kind | None] = [None]
    cells = [np.ones((CELL, CELL, 3), np.float32)]
    for size, share in SIZES.items():
        reach = int((1 - share) / 2 * CELL)
        for colour in COLOURS:
            for shape in SHAPES:
                drawn = _drawn((size, colour, shape))
                for down in range(-reach, reach + 1):
                    for across in range(-reach, reach + 1):
                        top, left = 2 * CELL - down, 2 * CELL - across
                        cells.append(drawn[top : top + CELL, left : left + CELL])
                        kinds.append((size, colour, shape))
    return kinds, np.stack(cells).reshape(len(cells), -1)


def _drawn(kind: Kind) -> Float[np.ndarray, "S S 3"]:
    """The thing in the middle of a picture."""
    size, colour, shape = kind
    half = SIZES[size] / CELLS / 2
    box = (0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half)
    thing = Thing(size=size, colour=colour, shape=shape, box=box, group=0)
    group = Group(count=1, size=size, colour=colour, shape=shape)
    scene = Scene(groups=(group,), relation=None, things=(thing,))
    return np.asarray(draw_scene(scene, SIDE), np.float32) / 255


def read(picture: Image.Image) -> dict[tuple[int, int], Kind]:
    """(row, column) of a cell -> size, colour and shape of the thing in it."""
    image = (
        picture if picture.size == (SIDE, SIDE) else picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    )
    pixels = np.asarray(image, np.float32) / 255
    cells = pixels.reshape(CELLS, CELL, CELLS, CELL, 3).swapaxes(1, 2).reshape(CELLS * CELLS, -1)
    kinds, templates = _templates()
    nearest = ((templates**2).sum(1) - 2 * cells @ templates.T).argmin(1)
    found = {divmod(i, CELLS): kinds[n] for i, n in enumerate(nearest.tolist())}
    return {cell: kind for cell, kind in found.items() if kind is not None}


def counts(picture: Image.Image) -> Counter[tuple[str, ...]]:
    """How many things of each kind, and of each part of a kind: near pictures have near counts."""
    found: Counter[tuple[str, ...]] = Counter()
    for size, colour, shape in read(picture).values():
        found.update([(size, colour, shape), (colour, shape), (size,), (colour,), (shape,)])
    return found


def shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether all that the scene's caption says is so, and nothing else is there."""
    found = read(picture)
    wanted = Counter({(g.size, g.colour, g.shape): g.count for g in scene.groups})
    if Counter(found.values()) != wanted:
        return False
    if scene.relation is None:
        return True
    places = [
        np.array([cell for cell, kind in found.items() if kind == (g.size, g.colour, g.shape)])
        for g in scene.groups
    ]
    first, second = places
    axis = 1 if scene.relation in ("to the left of", "to the right of") else 0
    if scene.relation in ("to the left of", "above"):
        return bool(first[:, axis].max() < second[:, axis].min())
    return bool(first[:, axis].min() > second[:, axis].max())
