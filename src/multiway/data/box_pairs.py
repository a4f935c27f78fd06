"""Drawn strips of boxes with a sentence that is true or false of them, as a source of two pictures.

Every sentence comes with a strip of which it is true and one of which it is false. All is a pure function of
(seed, index).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from multiway.data.box_speech import Claim, Speaker
from multiway.data.box_text import describe, make_claim
from multiway.data.boxes import Box, Strip, draw_box, make_strip, on_two_pictures
from multiway.errors import UserError


class DrawnBoxes:
    """`n` strips with sentences as a source of two pictures: drawn when they are asked for."""

    def __init__(self, n: int, seed: int = 0):
        self.n, self.seed = n, seed
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.n

    def key(self, i: int) -> str:
        return f"boxes_{self.seed}_{i:08d}"

    def sentence(self, i: int) -> str:
        return make_claimed(self.seed, i)[1]

    def label(self, i: int) -> int:
        return int(make_claimed(self.seed, i)[2])

    def pictures(self, i: int) -> tuple[Image.Image, Image.Image]:
        strip, *_ = make_claimed(self.seed, i)
        return on_two_pictures([draw_box(box) for box in strip.boxes])


@lru_cache(maxsize=1024)
def make_claimed(seed: int, index: int, make: Callable[..., Claim] = make_claim) -> tuple[Strip, str, bool]:
    """Strip `index` of the world `seed`, a sentence, and whether it is true of the strip.

    Strips 2k and 2k + 1 have the same sentence, true of one of them: the sentence alone says nothing.

    Args:
        make: `make_claim` or `make_simple_claim` of `box_text`.
    """
    draw = random.Random(f"{seed} {index // 2}")  # several times faster here than numpy's
    towers, wanted = bool(draw.random() < 0.5), bool((index % 2) == (draw.random() < 0.5))
    while True:
        claim = make(draw, towers=towers)
        found: dict[bool, Strip] = {}
        for _ in range(100):
            strip = make_strip(draw, towers=towers)
            found.setdefault(claim.holds(strip), strip)
            if len(found) == 2:
                return found[wanted], claim.sentence, wanted


def make_described(seed: int, index: int) -> tuple[tuple[Box, ...], str]:
    """One or two boxes of strip `index` of the world `seed`, with a caption: what a strip's pictures show."""
    draw = random.Random(f"described {seed} {index}")
    strip = make_strip(draw, towers=draw.random() < 0.5)
    shown = strip.boxes[:2] if draw.random() < 2 / 3 else strip.boxes[2:]
    most = 4 // len(shown)
    said = [describe(box, Speaker(draw), tower=strip.towers, most=most) for box in shown]
    return shown, " beside ".join(said)


def parse(path: str) -> DrawnBoxes:
    """`boxes:N` or `boxes:N:SEED`.

    Raises:
        UserError: no such numbers.
    """
    numbers = path.split(":")[1:]
    if len(numbers) not in (1, 2) or not all(number.isdigit() for number in numbers) or int(numbers[0]) == 0:
        raise UserError(f"{path} names no drawn boxes: write boxes:N or boxes:N:SEED, as in boxes:1000.")
    return DrawnBoxes(*(int(number) for number in numbers))
