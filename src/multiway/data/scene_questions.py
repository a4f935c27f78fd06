"""One question about a drawn scene whose answer the picture alone gives away: no wording is always "yes"."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from multiway.data.order import keyed_generator
from multiway.data.scene_text import count, with_article
from multiway.data.scenes import COLOURS, RELATIONS, SHAPES, Scene, make_scene


@lru_cache(maxsize=4096)  # question and answer are asked for one after the other
def ask(seed: int, index: int) -> tuple[str, str]:
    """(question, answer) about scene `index` of the world `seed`: a word; a pure function of both.

    Half of the questions of a kind that is answered by yes or no are true; what a false one speaks of differs
    from the scene in one thing.
    """
    scene, draw = make_scene(seed, index), keyed_generator(seed, 13, index)
    kinds = [_colour, _shape, _count, _exists] + [_relation] * (scene.relation in RELATIONS)
    return kinds[int(draw.integers(len(kinds)))](scene, draw)


def _pick(draw: np.random.Generator, options):
    return list(options)[int(draw.integers(len(options)))]


def _colour(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    group, shapes = _pick(draw, scene.groups), [group.shape for group in scene.groups]
    if shapes.count(group.shape) > 1:  # then a shape does not say which things are meant
        return _count(scene, draw)
    return f"what colour is the {group.shape}?", group.colour


def _shape(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    group, colours = _pick(draw, scene.groups), [group.colour for group in scene.groups]
    if colours.count(group.colour) > 1:
        return _count(scene, draw)
    return f"what shape is the {group.colour} thing?", group.shape


def _count(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    group = _pick(draw, scene.groups)
    if draw.random() < 0.5:
        return f"how many {group.colour} things are there?", str(count(scene, colour=group.colour))
    return "how many things are there?", str(len(scene.things))


def _exists(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    group = _pick(draw, scene.groups)
    colour, shape = group.colour, group.shape
    there = draw.random() < 0.5
    while not there and count(scene, colour=colour, shape=shape):
        colour, shape = (
            (_pick(draw, COLOURS), group.shape)
            if draw.random() < 0.5
            else (group.colour, _pick(draw, SHAPES))
        )
    return f"is there {with_article(colour)} {shape}?", "yes" if there else "no"


def _relation(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    assert scene.relation is not None
    assert scene.relation != "and"
    first, second = (f"{with_article(group.colour)} {group.shape}" for group in scene.groups)
    true = draw.random() < 0.5
    relation = scene.relation if true else RELATIONS[scene.relation]
    return f"is {first} {relation} {second}?", "yes" if true else "no"
