"""What can be said and asked about drawn scenes: known noise, questions, and sentences about two pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
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
POOL = 2**14  # scenes of a world that pairs are made of: few enough to be kept, their pairs are plenty
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


def make_pair(
    seed: int,
    index: int,
    *,
    swapped: float = 0.0,
    near_miss: float = 0.0,
    kinds: Sequence[NearMiss] = NEAR_MISSES,
) -> Pair:
    """Scene `index` with a caption that is wrong at known rates.

    Args:
        swapped: share of pairs with another scene's caption.
        near_miss: share of pairs with one thing wrong, of `kinds`.
        kinds: without `relation` captions do not say how two groups lie, but `and`.
    """
    scene, said = make_scene(seed, index), _scene_as_said(seed, index, kinds)
    draw = keyed_generator(seed, 11, index)
    fate = draw.random()
    noise: Noise = "none"
    caption = said.caption
    if fate < swapped:
        noise, caption = "swapped", _other_caption(seed, scene, draw, kinds)
    elif fate < swapped + near_miss:
        possible = [kind for kind in kinds if kind != "relation" or scene.relation is not None]
        kind = possible[int(draw.integers(len(possible)))]
        noise, caption = kind, spoil(said, kind, draw)
    return Pair(scene=scene, caption=caption, truth=said.caption, noise=noise)


def _scene_as_said(seed: int, index: int, kinds: Sequence[NearMiss]) -> Scene:
    scene = make_scene(seed, index)
    return scene if "relation" in kinds else unrelated(scene)


def unrelated(scene: Scene) -> Scene:
    """The scene as one who does not say how two groups lie: `a large blue star and two green squares`."""
    return scene if scene.relation is None else replace(scene, relation="and")


def spoil(scene: Scene, kind: NearMiss, draw: np.random.Generator) -> str:
    """The scene's caption with one thing wrong; false of the scene, whatever is drawn.

    Raises:
        ValueError: `relation` of a scene that says none.
    """
    if kind == "relation":
        if scene.relation is None or scene.relation == "and":
            raise ValueError("a scene that says no relation has none to get wrong")
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


def _other_caption(seed: int, scene: Scene, draw: np.random.Generator, kinds: Sequence[NearMiss]) -> str:
    """The caption of a scene with at least one kind of thing that this one lacks."""
    own = {(thing.size, thing.colour, thing.shape) for thing in scene.things}
    while True:
        other = _scene_as_said(seed, int(draw.integers(2**31)), kinds)
        if not {(thing.size, thing.colour, thing.shape) for thing in other.things} <= own:
            return other.caption


def questions(scene: Scene) -> list[tuple[str, str]]:
    """(question, answer) about a scene; every answer is a word or two, and certain."""
    asked = []
    for group in scene.groups:
        like = [other for other in scene.groups if other.shape == group.shape]
        one = group.count == 1
        plural = _plural(group.shape)
        if len(like) == 1:
            verb, name = ("is", group.shape) if one else ("are", plural)
            asked.append((f"what colour {verb} the {name}?", group.colour))
            asked.append((f"how big {verb} the {name}?", group.size))
        asked.append((f"how many {plural} are there?", str(count(scene, shape=group.shape))))
        asked.append((f"is there {with_article(group.colour)} {group.shape}?", "yes"))
    shapes = {group.shape for group in scene.groups}
    absent = next(shape for shape in SHAPES if shape not in shapes)
    asked.append((f"is there a {absent}?", "no"))
    asked.append(("how many things are there?", str(len(scene.things))))
    if scene.relation is not None and scene.relation != "and":
        a, b = scene.groups
        opposite = RELATIONS[scene.relation]
        a_name, b_name = (f"{group.colour} {group.shape}" for group in scene.groups)
        if a.count == b.count == 1:
            asked.append((f"is the {a_name} {scene.relation} the {b_name}?", "yes"))
            asked.append((f"is the {a_name} {opposite} the {b_name}?", "no"))
    return asked


def with_article(word: str) -> str:
    """`a red`, `an orange`."""
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


@dataclass(frozen=True)
class Claim:
    """A sentence about two scenes: when it is true, and when it has anything to do with them."""

    sentence: str
    holds: Callable[[Scene, Scene], bool]
    concerns: Callable[[Scene, Scene], bool]


#: Kinds of sentences about two pictures: those that relate them, those that say what either holds, and of
#: these the ones that a model learns first, because a colour needs no shape to be found.
RELATING, EITHER, COLOURED = (0, 1, 2, 3, 4), (5, 6), (7,)


@lru_cache(maxsize=1024)  # sentence, label and pictures are asked for one after the other
def make_picture_pair(seed: int, index: int, kinds: tuple[int, ...] = RELATING) -> PicturePair:
    """Pair `index` of the world `seed`.

    Pairs 2k and 2k + 1 have the same sentence, true of one of them: the sentence alone says nothing. What it
    speaks of is in the pictures of both, so that its words alone say nothing either.
    """
    draw = keyed_generator(seed, 12, index // 2)
    kind = kinds[int(draw.integers(len(kinds)))]
    wanted = bool((index % 2) == (draw.random() < 0.5))
    left, right = _two_scenes(seed, draw)
    while (claim := _claim(kind, left, right, draw)) is None:
        left, right = _two_scenes(seed, draw)
    if not wanted:
        while not claim.concerns(left, right) or claim.holds(left, right):
            left, right = _two_scenes(seed, draw)
    return PicturePair(left=left, right=right, sentence=claim.sentence, label=wanted)


def _two_scenes(seed: int, draw: np.random.Generator) -> tuple[Scene, Scene]:
    first, second = draw.integers(POOL, size=2).tolist()
    return _pooled(seed, first), _pooled(seed, second)


@lru_cache(maxsize=POOL)
def _pooled(seed: int, index: int) -> Scene:
    return make_scene(seed, index)


def _claim(kind: int, left: Scene, right: Scene, draw: np.random.Generator) -> Claim | None:
    """A sentence of a kind that is true of two scenes; None where there is none."""

    def pick(options):
        options = sorted(set(options))
        return options[int(draw.integers(len(options)))] if options else None

    if kind == 0:
        shape = pick({t.shape for t in left.things} & {t.shape for t in right.things})
        if shape is None:
            return None
        return Claim(
            f"both pictures contain {with_article(shape)}",
            lambda a, b: min(count(a, shape=shape), count(b, shape=shape)) > 0,
            lambda a, b: max(count(a, shape=shape), count(b, shape=shape)) > 0,
        )
    if kind == 1:
        shape = pick(t.shape for t in left.things if count(left, shape=t.shape) > count(right, shape=t.shape))
        if shape is None:
            return None
        return Claim(
            f"there are more {_plural(shape)} in the left picture than in the right one",
            lambda a, b: count(a, shape=shape) > count(b, shape=shape),
            lambda a, b: count(a, shape=shape) + count(b, shape=shape) > 0,
        )
    if kind == 2:
        colour = pick(t.colour for t in left.things + right.things)
        total = count(left, colour=colour) + count(right, colour=colour)
        things = "thing" if total == 1 else "things"
        return Claim(
            f"the two pictures hold {total} {colour} {things} together",
            lambda a, b: count(a, colour=colour) + count(b, colour=colour) == total,
            lambda a, b: count(a, colour=colour) + count(b, colour=colour) > 0,
        )
    if kind == 3:
        only = "left" if draw.random() < 0.5 else "right"
        inside, outside = (left, right) if only == "left" else (right, left)
        found = pick(
            {(t.shape, t.colour) for t in inside.things} - {(t.shape, t.colour) for t in outside.things}
        )
        if found is None:
            return None
        shape, colour = found

        def has(scene: Scene) -> bool:
            return count(scene, shape=shape, colour=colour) > 0

        return Claim(
            f"only the {only} picture contains {with_article(colour)} {shape}",
            lambda a, b: (has(a), has(b)) == (only == "left", only == "right"),
            lambda a, b: has(a) or has(b),
        )
    if kind in EITHER:
        if (found := pick((t.shape, t.colour) for t in left.things + right.things)) is None:
            return None
        shape, colour = found[0], found[1] if kind == EITHER[1] else None

        def near(scene: Scene) -> int:
            return count(scene, shape=shape) + count(scene, colour=colour)

        return Claim(
            f"there is {with_article(f'{colour} {shape}' if colour else shape)}",
            lambda a, b: count(a, shape=shape, colour=colour) + count(b, shape=shape, colour=colour) > 0,
            lambda a, b: near(a) + near(b) > 0,  # a false one is half true where it has two halves
        )
    if kind in COLOURED:
        if (colour := pick(t.colour for t in left.things + right.things)) is None:
            return None
        return Claim(
            f"there is {with_article(colour)} thing",
            lambda a, b: count(a, colour=colour) + count(b, colour=colour) > 0,
            lambda a, b: True,
        )
    if len(left.things) != len(right.things):
        return None
    return Claim(
        "both pictures hold the same number of things",
        lambda a, b: len(a.things) == len(b.things),
        lambda a, b: True,
    )


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")
