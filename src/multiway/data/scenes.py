"""A drawn world: shapes in colours, sizes, counts and relations, with everything about each picture known.

A scene is one group of like things ("three small red circles") or two groups, the second one in a relation to
the first ("a large blue star to the left of two green squares"). Its caption names every thing in it, so a
caption with one wrong word is false. All is a pure function of (seed, index). `scene_text.py` asks questions
about scenes and spoils captions; `scene_shards.py` writes them as tars.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from multiway.data.order import keyed_generator
from multiway.errors import UserError

Relation = Literal["to the left of", "to the right of", "above", "below"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 89, 200),
    "yellow": (245, 205, 30),
    "purple": (140, 60, 180),
    "orange": (255, 127, 14),
    "black": (25, 25, 25),
    "grey": (140, 140, 140),
}
SIZES = {"small": 0.5, "large": 0.95}  # diameter as a share of a cell
RELATIONS: dict[Relation, Relation] = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}  # each with its opposite
NUMBERS = ("no", "one", "two", "three", "four")
CELLS = 5  # the picture is a board of CELLS x CELLS; a thing lies in a cell
MAX_COUNT = 4


@dataclass(frozen=True, kw_only=True)
class Group:
    """Like things: how many, of which size, colour and shape."""

    count: int
    size: str
    colour: str
    shape: str

    @property
    def phrase(self) -> str:
        """`a large red circle`, `three small green stars`."""
        number = "a" if self.count == 1 else NUMBERS[self.count]
        plural = "" if self.count == 1 else "es" if self.shape.endswith("s") else "s"
        return f"{number} {self.size} {self.colour} {self.shape}{plural}"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing in a picture; `box` is (left, top, right, bottom) in shares of the side, 0 to 1."""

    size: str
    colour: str
    shape: str
    box: tuple[float, float, float, float]
    group: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is in a picture.

    Attributes:
        groups: one or two.
        relation: of the first group to the second; None with one group; `and` where it is not said.
        things: every thing with its box.
    """

    groups: tuple[Group, ...]
    relation: Relation | Literal["and"] | None
    things: tuple[Thing, ...]

    @property
    def caption(self) -> str:
        """The true sentence that names everything."""
        return describe(self.groups, self.relation)


def describe(groups: tuple[Group, ...], relation: Relation | Literal["and"] | None) -> str:
    """The sentence that says these groups and their relation."""
    return groups[0].phrase if relation is None else f"{groups[0].phrase} {relation} {groups[1].phrase}"


def make_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the world `seed`."""
    draw = keyed_generator(seed, 10, index)
    first = _draw_group(draw)
    if draw.random() < 0.4:
        return _place((first,), None, draw)
    second = _draw_group(draw)
    while (second.colour, second.shape) == (first.colour, first.shape):  # told apart by more than their size
        second = _draw_group(draw)
    relation = tuple(RELATIONS)[int(draw.integers(len(RELATIONS)))]
    return _place((first, second), relation, draw)


def _draw_group(draw: np.random.Generator) -> Group:
    def pick(options):
        return list(options)[int(draw.integers(len(options)))]

    count = 1 if draw.random() < 0.5 else int(draw.integers(2, MAX_COUNT + 1))
    return Group(count=count, size=pick(SIZES), colour=pick(COLOURS), shape=pick(SHAPES))


def _place(groups: tuple[Group, ...], relation: Relation | None, draw: np.random.Generator) -> Scene:
    """Put each thing into a cell of its own; two groups keep to two sides of an empty line of cells."""
    cells = np.array([(row, column) for row in range(CELLS) for column in range(CELLS)])
    if relation is None:
        regions = [cells]
    else:
        axis = 1 if relation in ("to the left of", "to the right of") else 0
        line = int(draw.integers(1, CELLS - 1))
        low, high = cells[cells[:, axis] < line], cells[cells[:, axis] > line]
        regions = [low, high] if relation in ("to the left of", "above") else [high, low]
    things = []
    for number, (group, region) in enumerate(zip(groups, regions, strict=True)):
        for row, column in region[draw.permutation(len(region))[: group.count]]:
            side = SIZES[group.size] / CELLS
            slack = (1 / CELLS - side) / 2
            dy, dx = draw.uniform(-slack, slack, size=2)
            x, y = float((column + 0.5) / CELLS + dx), float((row + 0.5) / CELLS + dy)
            box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
            things.append(
                Thing(size=group.size, colour=group.colour, shape=group.shape, box=box, group=number)
            )
    return Scene(groups=groups, relation=relation, things=tuple(things))


def draw_scene(scene: Scene, image_size: int = 96) -> Image.Image:
    """The picture of a scene: RGB, square, on white, drawn at four times the size and then reduced."""
    side = image_size * 4
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        left, top, right, bottom = (value * side for value in thing.box)
        _draw_shape(pen, thing.shape, (left, top, right, bottom), COLOURS[thing.colour])
    return image.reduce(4)


def boxes(scene: Scene, image_size: int = 96) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(phrase, box: left, top, right, bottom in pixels) of every group of one: what a phrase points to."""
    found = []
    for thing in scene.things:
        group = scene.groups[thing.group]
        if group.count == 1:
            left, top, right, bottom = (value * image_size for value in thing.box)
            found.append((f"the {group.size} {group.colour} {group.shape}", (left, top, right, bottom)))
    return found


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, box: tuple[float, float, float, float], colour: tuple[int, int, int]
) -> None:
    left, top, right, bottom = box
    x, y, r = (left + right) / 2, (top + bottom) / 2, (right - left) / 2
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=max(1, round(r * 0.4)))
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "cross":
        pen.rectangle((x - r * 0.3, top, x + r * 0.3, bottom), fill=colour)
        pen.rectangle((left, y - r * 0.3, right, y + r * 0.3), fill=colour)
    elif shape == "heart":
        lobe = r * 1.08  # two round lobes that overlap in the middle, and a point below
        pen.ellipse((left, top, left + lobe, top + lobe), fill=colour)
        pen.ellipse((right - lobe, top, right, top + lobe), fill=colour)
        shoulders = (left + r * 0.1, top + r * 0.84), (right - r * 0.1, top + r * 0.84)
        pen.polygon([shoulders[0], (x, top + r * 0.5), shoulders[1], (x, bottom)], fill=colour)
    elif shape == "star":
        radii = [r, r * 0.42] * 5
        angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
        points = [(x + rr * math.cos(a), y + rr * math.sin(a)) for rr, a in zip(radii, angles, strict=True)]
        pen.polygon(points, fill=colour)
    else:
        corners = {
            "triangle": [(x, top), (right, bottom), (left, bottom)],
            "diamond": [(x, top), (right, y), (x, bottom), (left, y)],
        }
        pen.polygon(corners[shape], fill=colour)


class Scenes:
    """`n` scenes as a source of pairs: drawn when they are asked for."""

    def __init__(self, n: int, seed: int = 0, image_size: int = 96):
        self.n = n
        self.seed = seed
        self.image_size = image_size
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.n

    def key(self, i: int) -> str:
        return f"scene_{self.seed}_{i:08d}"

    def texts(self, i: int) -> list[str]:
        return [make_scene(self.seed, i).caption]

    def image(self, i: int) -> Image.Image:
        return draw_scene(make_scene(self.seed, i), self.image_size)

    def meta(self, i: int) -> dict[str, Any]:
        """The scene itself and the boxes in pixels."""
        scene = make_scene(self.seed, i)
        return {"scene": scene, "boxes": boxes(scene, self.image_size)}


def parse(path: str) -> Scenes:
    """`scenes:N` or `scenes:N:SEED`.

    Raises:
        UserError: no such numbers.
    """
    numbers = path.split(":")[1:]
    if len(numbers) not in (1, 2) or not all(number.isdigit() for number in numbers) or int(numbers[0]) == 0:
        raise UserError(
            f"{path} names no drawn scenes: write scenes:N or scenes:N:SEED, for example scenes:1000."
        )
    return Scenes(*(int(number) for number in numbers))
