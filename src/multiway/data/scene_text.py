"""What can be said and asked about drawn scenes: known noise, questions, and sentences about two pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from multiway.data.order import keyed_generator
from multiway.data.scenes import (
    COLOURS,
    MAX_COUNT,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    describe,
    make_scene,
)

NearMiss = Literal["colour", "shape", "size", "count", "relation"]
Noise = Literal["none", "swapped", "colour", "shape", "size", "count", "relation"]
NEAR_MISSES: tuple[NearMiss, ...] = ("colour", "shape", "size", "count", "relation")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A scene with a caption that may be wrong, and the truth.

    Attributes:
        caption: what a training set says.
        truth: what is so.
        noise: `none`; `swapped`, the caption of another scene; or the one thing a near miss gets wrong.
    """

    scene: Scene
    caption: str
    truth: str
    noise: Noise

    @property
    def is_true(self) -> bool:
        return self.noise == "none"


def make_pair(seed: int, index: int, *, swapped: float = 0.0, near_miss: float = 0.0) -> Pair:
    """Scene `index` with a caption that is wrong at known rates.

    Args:
        swapped: share of pairs with another scene's caption.
        near_miss: share of pairs with one wrong attribute, count or relation.
    """
    scene = make_scene(seed, index)
    draw = keyed_generator(seed, 11, index)
    fate = draw.random()
    noise: Noise = "none"
    caption = scene.caption
    if fate < swapped:
        noise, caption = "swapped", _other_caption(seed, scene, draw)
    elif fate < swapped + near_miss:
        kinds = [kind for kind in NEAR_MISSES if kind != "relation" or scene.relation is not None]
        kind = kinds[int(draw.integers(len(kinds)))]
        noise, caption = kind, spoil(scene, kind, draw)
    return Pair(scene=scene, caption=caption, truth=scene.caption, noise=noise)


def spoil(scene: Scene, kind: NearMiss, draw: np.random.Generator) -> str:
    """The scene's caption with one thing wrong; false of the scene, whatever is drawn.

    Raises:
        ValueError: `relation` of a scene with one group.
    """
    if kind == "relation":
        if scene.relation is None:
            raise ValueError("a scene with one group has no relation to get wrong")
        # the opposite: what is to the left may be above as well, but it is never to the right
        return describe(scene.groups, RELATIONS[scene.relation])
    number = int(draw.integers(len(scene.groups)))
    group = scene.groups[number]
    choices = {
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "size": list(SIZES),
        "count": list(range(1, MAX_COUNT + 1)),
    }[kind]
    wrong = [choice for choice in choices if choice != getattr(group, kind)]
    spoiled = replace(group, **{kind: wrong[int(draw.integers(len(wrong)))]})  # pyrefly: ignore
    groups = tuple(spoiled if i == number else group for i, group in enumerate(scene.groups))
    return describe(groups, scene.relation)


def _other_caption(seed: int, scene: Scene, draw: np.random.Generator) -> str:
    """The caption of a scene with at least one kind of thing that this one lacks."""
    own = {(thing.size, thing.colour, thing.shape) for thing in scene.things}
    while True:
        other = make_scene(seed, int(draw.integers(2**31)))
        if not {(thing.size, thing.colour, thing.shape) for thing in other.things} <= own:
            return other.caption


def questions(scene: Scene) -> list[tuple[str, str]]:
    """(question, answer) about a scene; every answer is a word or two, and certain."""
    asked = []
    for group in scene.groups:
        like = [other for other in scene.groups if other.shape == group.shape]
        one = group.count == 1
        plural = f"{group.shape}{'es' if group.shape.endswith('s') else 's'}"
        if len(like) == 1:
            verb, name = ("is", group.shape) if one else ("are", plural)
            asked.append((f"what colour {verb} the {name}?", group.colour))
            asked.append((f"how big {verb} the {name}?", group.size))
        asked.append((f"how many {plural} are there?", str(count(scene, shape=group.shape))))
        asked.append((f"is there {_with_article(group.colour)} {group.shape}?", "yes"))
    shapes = {group.shape for group in scene.groups}
    absent = next(shape for shape in SHAPES if shape not in shapes)
    asked.append((f"is there a {absent}?", "no"))
    asked.append(("how many things are there?", str(len(scene.things))))
    if scene.relation is not None:
        a, b = scene.groups
        opposite = RELATIONS[scene.relation]
        a_name, b_name = (f"{group.colour} {group.shape}" for group in scene.groups)
        if a.count == b.count == 1:
            asked.append((f"is the {a_name} {scene.relation} the {b_name}?", "yes"))
            asked.append((f"is the {a_name} {opposite} the {b_name}?", "no"))
    return asked


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def count(scene: Scene, *, shape: str | None = None, colour: str | None = None) -> int:
    """Things of a shape, of a colour, or of both."""
    return sum(shape in (None, thing.shape) and colour in (None, thing.colour) for thing in scene.things)


@dataclass(frozen=True, kw_only=True)
class PicturePair:
    """Two pictures and a sentence about both, true or false: NLVR2's task."""

    left: Scene
    right: Scene
    sentence: str
    label: bool


def make_picture_pair(seed: int, index: int) -> PicturePair:
    """Pair `index` of the world `seed`; in the long run half of the sentences are true."""
    draw = keyed_generator(seed, 12, index)
    wanted = bool(draw.random() < 0.5)
    while True:
        left, right = (make_scene(seed, int(draw.integers(2**31))) for _ in range(2))
        sentence, label = _say(left, right, draw)
        if label == wanted:
            return PicturePair(left=left, right=right, sentence=sentence, label=label)


def _say(left: Scene, right: Scene, draw: np.random.Generator) -> tuple[str, bool]:
    thing = (left.things + right.things)[int(draw.integers(len(left.things) + len(right.things)))]
    shape, colour = thing.shape, thing.colour
    plural = shape + ("es" if shape.endswith("s") else "s")
    kind = int(draw.integers(5))
    if kind == 0:
        return f"both pictures contain a {shape}", bool(
            count(left, shape=shape) and count(right, shape=shape)
        )
    if kind == 1:
        return f"there are more {plural} in the left picture than in the right one", count(
            left, shape=shape
        ) > count(right, shape=shape)
    if kind == 2:
        total = int(draw.integers(1, 2 * MAX_COUNT))
        things = "thing" if total == 1 else "things"
        return f"the two pictures hold {total} {colour} {things} together", count(
            left, colour=colour
        ) + count(right, colour=colour) == total
    if kind == 3:
        only = "left" if draw.random() < 0.5 else "right"
        inside, outside = (left, right) if only == "left" else (right, left)
        has = [count(scene, shape=shape, colour=colour) > 0 for scene in (inside, outside)]
        return f"only the {only} picture contains {_with_article(colour)} {shape}", has == [True, False]
    return "both pictures hold the same number of things", len(left.things) == len(right.things)
