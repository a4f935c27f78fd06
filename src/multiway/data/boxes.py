"""A second drawn world, made like NLVR1's pictures (Suhr et al. 2017): strips of three boxes with a sentence.

A strip holds towers (each box one tower of one to four blocks) or scattered items (circles, squares and
triangles of three sizes). The colours, sizes and places are those of the real pictures, so what is learned
here can be tried there. `box_text.py` has the sentences; `box_pairs.py` deals out strips with sentences.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 10, "medium": 20, "big": 30}  # pixels
BOX = (211, 211, 211)
SIDE = 100  # pixels of a box; two blocks of a tower lie 21 apart
MOST_BLOCKS, MOST_ITEMS = 4, 8
TOUCHING = 0.3  # share of the items' sides that lie at a wall


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in a box: left and top in pixels."""

    shape: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def side(self) -> int:
        """Pixels across."""
        return SIZES[self.size]

    @property
    def walls(self) -> frozenset[str]:
        """The walls that it touches: left, right, top, bottom."""
        far = SIDE - self.side
        touched = {"left": self.x == 0, "top": self.y == 0, "right": self.x == far, "bottom": self.y == far}
        return frozenset(name for name, touches in touched.items() if touches)


#: A box's items; of a tower from its base to its top.
Box = tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Three boxes, all of them towers or none."""

    boxes: tuple[Box, Box, Box]
    towers: bool

    @property
    def items(self) -> tuple[Item, ...]:
        """The items of all boxes."""
        return sum(self.boxes, ())


def make_strip(draw: random.Random, *, towers: bool) -> Strip:
    """A strip of towers, or of scattered items."""
    make = _tower if towers else _scattered
    first, second, third = (make(draw) for _ in range(3))
    return Strip(boxes=(first, second, third), towers=towers)


def _tower(draw: random.Random) -> Box:
    colours, side = tuple(COLOURS), SIZES["medium"]
    return tuple(
        Item(
            shape="square",
            colour=draw.choice(colours),
            size="medium",
            x=(SIDE - side) // 2,
            y=SIDE - side - i * (side + 1),
        )
        for i in range(draw.randint(1, MOST_BLOCKS))
    )


def _scattered(draw: random.Random) -> Box:
    """Items that don't overlap; one that finds no place is left out."""
    items: list[Item] = []
    for _ in range(draw.randint(1, MOST_ITEMS)):
        shape, colour, size = (draw.choice(tuple(names)) for names in (SHAPES, COLOURS, SIZES))
        for _ in range(20):
            x, y = (_coordinate(draw, SIDE - SIZES[size]) for _ in range(2))
            item = Item(shape=shape, colour=colour, size=size, x=x, y=y)
            if not any(_overlap(item, other) for other in items):
                items.append(item)
                break
    return tuple(items)


def _coordinate(draw: random.Random, far: int) -> int:
    fate = draw.random()
    return 0 if fate < TOUCHING / 2 else far if fate < TOUCHING else draw.randrange(1, far)


def _overlap(a: Item, b: Item) -> bool:
    return (
        a.x < b.x + b.side + 1
        and b.x < a.x + a.side + 1
        and a.y < b.y + b.side + 1
        and b.y < a.y + a.side + 1
    )


def draw_box(box: Box) -> Image.Image:
    """A box, 100 x 100 pixels, RGB."""
    image = Image.new("RGB", (SIDE, SIDE), BOX)
    pen = ImageDraw.Draw(image)
    for item in box:
        left, top, right, bottom = item.x, item.y, item.x + item.side - 1, item.y + item.side - 1
        if item.shape == "circle":
            pen.ellipse((left, top, right, bottom), fill=COLOURS[item.colour])
        elif item.shape == "square":
            pen.rectangle((left, top, right, bottom), fill=COLOURS[item.colour])
        else:
            corners = [(left + item.side / 2, top), (left, bottom), (right, bottom)]
            pen.polygon(corners, fill=COLOURS[item.colour])
    return image


def on_two_pictures(boxes: list[Image.Image]) -> tuple[Image.Image, Image.Image]:
    """Two boxes beside each other on the first picture; the third and an empty place on the second."""
    return on_one_picture(boxes[:2]), on_one_picture(boxes[2:])


def on_one_picture(boxes: list[Image.Image]) -> Image.Image:
    """Two boxes beside each other, or one and an empty place."""
    side = boxes[0].height
    picture = Image.new("RGB", (2 * side, side), BOX)
    for i, box in enumerate(boxes):
        picture.paste(box, (i * side, 0))
    return picture
