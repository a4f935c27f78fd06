"""Sentences about strips of boxes, in the manner of NLVR1's: how many boxes, towers or items are such and so.

A sentence is a quantifier ("there are exactly two") over towers, boxes or items with a property ("tower with
a black block at the top"). The grammar was written from the sentences of NLVR1's development set, slips left
out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from multiway.data.boxes import COLOURS, MOST_BLOCKS, SHAPES, SIZES, Box, Item, Strip

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """A sentence, and what makes it true."""

    sentence: str
    holds: Callable[[Strip], bool]


@dataclass(frozen=True)
class Property:
    """What is said of a box, a tower or an item: in the singular, in the plural, and when it is so."""

    one: str
    many: str
    of: Callable[[Box], bool]


class Speaker:
    """Draws words; every method is one choice after another of the same generator."""

    def __init__(self, draw: random.Random):
        self.draw = draw

    def pick(self, options: Sequence[T]) -> T:
        return self.draw.choice(options)

    def colour(self) -> str:
        return self.pick(tuple(COLOURS))

    def number(self, n: int) -> str:
        return self.pick((WORDS[n], str(n)))

    def count(self, low: int, high: int) -> tuple[str, int, Callable[[int], bool]]:
        """(words, number, test): `exactly two`, 2; a bare number is exact."""
        n = self.draw.randint(low, high)
        word = self.pick(("", "", "exactly ", "at least ", "only "))
        return f"{word}{self.number(n)}", n, (lambda m: m >= n) if word == "at least " else (lambda m: m == n)


def make_claim(draw: random.Random, *, towers: bool) -> Claim:
    """A sentence about a strip of towers, or of scattered items."""
    speaker = Speaker(draw)
    kinds = (
        (towers_such, towers_such, towers_such, blocks, ends, all_towers, heights)
        if towers
        else (boxes_such, boxes_such, items_such, items_such, items_such, all_boxes, beside)
    )
    return speaker.pick(kinds)(speaker)


def quantified(speaker: Speaker, such: Property, parts: Callable[[Strip], Sequence[Box]]) -> Claim:
    """`there are exactly two towers with ...`; a number means no more than that, `a` means at least one."""
    kind = speaker.draw.randrange(8)
    if kind < 2:
        sentence = f"there is {speaker.pick(('a', 'a', 'at least one', 'at least 1'))} {such.one}"
        return Claim(sentence, lambda s: any(map(such.of, parts(s))))
    if kind < 5:
        sentence = f"there is {speaker.pick(('one', '1', 'exactly one', 'only one', 'only 1'))} {such.one}"
        return Claim(sentence, lambda s: sum(map(such.of, parts(s))) == 1)
    if kind == 5:
        return Claim(f"there is no {such.one}", lambda s: not any(map(such.of, parts(s))))
    n = 2 if speaker.draw.random() < 0.7 else 3
    word = speaker.pick(("", "exactly ", "at least "))
    sentence = f"there are {word}{speaker.number(n)} {such.many}"
    if word == "at least ":
        return Claim(sentence, lambda s: sum(map(such.of, parts(s))) >= n)
    return Claim(sentence, lambda s: sum(map(such.of, parts(s))) == n)


# --- towers


def end(speaker: Speaker) -> tuple[str, int]:
    """A name of a tower's top or base, and the block's place."""
    return speaker.pick((("top", -1), ("base", 0), ("bottom", 0), ("top", -1), ("base", 0)))


def tower(speaker: Speaker) -> Property:
    """What a tower has."""
    kind, colour, other = speaker.draw.randrange(9), speaker.colour(), speaker.colour()
    if kind in (0, 1):
        name, place = end(speaker)
        at = f"{speaker.pick(('a', 'a', '1'))} {colour} block at the {name}"
        return having(at, lambda t: t[place].colour == colour)
    if kind == 2:
        words, n, right = speaker.count(1, MOST_BLOCKS)
        return having(f"{words} block{'s' * (n > 1)}", lambda t: right(len(t)))
    if kind == 3:
        words, n, right = speaker.count(1, 3)
        return having(f"{words} {colour} block{'s' * (n > 1)}", lambda t: right(number_of(t, colour)))
    if kind == 4:
        n = speaker.draw.randint(1, 3)
        words = {1: "only one colour", 2: "two different colours", 3: "all three colours"}[n]
        return having(f"blocks of {words}", lambda t: len({b.colour for b in t}) == n)
    if kind == 5:
        over = speaker.pick(("over", "above", "on top of", "below", "under"))
        a, b = (other, colour) if over in ("below", "under") else (colour, other)
        return having(f"a {colour} block {over} a {other} block", lambda t: stacked(t, a, b))
    if kind == 6:
        name, place = end(speaker)
        n = speaker.draw.randint(2, MOST_BLOCKS)
        said = (
            f"{speaker.pick(('', 'exactly '))}{speaker.number(n)} blocks and a {colour} block at the {name}"
        )
        return having(said, lambda t: len(t) == n and t[place].colour == colour)
    if kind == 7:
        word = speaker.number(2)
        return having(f"{word} {colour} blocks stacked together", lambda t: stacked(t, colour, colour))
    if colour == other:
        return having(f"only {colour} blocks", lambda t: number_of(t, colour) == len(t))
    both = f"a {colour} block and a {other} block"
    return having(both, lambda t: number_of(t, colour) > 0 and number_of(t, other) > 0)


def having(what: str, of: Callable[[Box], bool]) -> Property:
    return Property(f"tower with {what}", f"towers with {what}", of)


def number_of(box: Box, colour: str) -> int:
    return sum(item.colour == colour for item in box)


def stacked(tower: Box, upper: str, lower: str) -> bool:
    """Whether a block lies right on another one."""
    return any(a.colour == lower and b.colour == upper for a, b in zip(tower, tower[1:], strict=False))


def towers_such(speaker: Speaker) -> Claim:
    return quantified(speaker, tower(speaker), lambda s: s.boxes)


def blocks(speaker: Speaker) -> Claim:
    """How many blocks of a colour there are in all."""
    colour, (words, n, right) = speaker.colour(), speaker.count(1, 6)
    are = "is" if n == 1 else "are"
    sentence = f"there {are} {words} {colour} block{'s' * (n > 1)}"
    return Claim(sentence, lambda s: right(number_of(s.items, colour)))


def ends(speaker: Speaker) -> Claim:
    """How many blocks of a colour are a top or a base, of towers of some height."""
    colour, (name, place) = speaker.colour(), end(speaker)
    least = speaker.draw.randint(1, 3)
    tall = {1: "", 2: " with at least two blocks", 3: " with three blocks"}[least]
    fits = (lambda t: len(t) == 3) if least == 3 else (lambda t: len(t) >= least)
    such = Property(
        f"{colour} block as the {name} of a tower{tall}",
        f"{colour} blocks as the {name} of a tower{tall}",
        lambda t: fits(t) and t[place].colour == colour,
    )
    return quantified(speaker, such, lambda s: s.boxes)


def all_towers(speaker: Speaker) -> Claim:
    start = speaker.pick(("each tower has", "all towers have", "all 3 towers have", "every tower has"))
    if speaker.draw.random() < 0.5:
        colour = speaker.colour()
        return Claim(
            f"{start} at least {speaker.number(1)} {colour} block",
            lambda s: all(number_of(t, colour) for t in s.boxes),
        )
    name, place = end(speaker)
    return Claim(
        f"the {name} of the three towers is the same colour",
        lambda s: len({t[place].colour for t in s.boxes}) == 1,
    )


def heights(speaker: Speaker) -> Claim:
    if speaker.draw.random() < 0.5:
        return Claim(
            "there are two towers with the same height",
            lambda s: len({len(t) for t in s.boxes}) < 3,
        )
    n, colour, (name, place) = speaker.draw.randint(2, 4), speaker.colour(), end(speaker)
    return Claim(
        f"the tower with {speaker.number(n)} blocks has a {colour} block at the {name}",
        lambda s: any(len(t) == n and t[place].colour == colour for t in s.boxes),
    )


# --- scattered items


def thing(speaker: Speaker, *, sized: bool = False) -> tuple[str, str, Callable[[Item], bool]]:
    """(singular, plural, test) of items of a colour, a shape, both or, with `sized`, a size too."""
    colour = speaker.colour() if speaker.draw.random() < 0.75 else None
    shape = speaker.pick(SHAPES) if colour is None or speaker.draw.random() < 0.65 else None
    size = speaker.pick(tuple(SIZES)) if sized and speaker.draw.random() < 0.15 else None
    noun = shape or speaker.pick(("item", "item", "object"))
    name = " ".join(word for word in (size, colour, noun) if word)

    def right(item: Item) -> bool:
        return colour in (None, item.colour) and shape in (None, item.shape) and size in (None, item.size)

    return name, f"{name}s", right


def box(speaker: Speaker) -> Property:
    """What a box holds."""
    kind = speaker.draw.randrange(7)
    if kind == 0:
        words, n, right = speaker.count(1, 7)
        return holding(f"{words} item{'s' * (n > 1)}", lambda b: right(len(b)))
    if kind in (1, 2):
        (one, many, such), (words, n, right) = thing(speaker), speaker.count(1, 3)
        return holding(f"{words} {one if n == 1 else many}", lambda b: right(sum(map(such, b))))
    if kind == 3:
        (first, _, a), (second, _, b) = thing(speaker), thing(speaker)
        return holding(f"a {first} and a {second}", lambda box: any(map(a, box)) and any(map(b, box)))
    if kind == 4:
        n = speaker.draw.randint(1, 3)
        words = {1: "only one colour", 2: "two different colours", 3: "all three different colours"}[n]
        return holding(f"items of {words}", lambda b: len({i.colour for i in b}) == n)
    if kind == 5:
        colours = tuple(dict.fromkeys((speaker.colour(), speaker.colour())))
        return holding(f"only {' and '.join(colours)} items", lambda b: {i.colour for i in b} == set(colours))
    n, (one, _, such) = speaker.draw.randint(2, 5), thing(speaker)
    said = f"{speaker.number(n)} items and {speaker.pick(('a', 'one'))} {one}"
    return holding(said, lambda b: len(b) == n and any(map(such, b)))


def holding(what: str, of: Callable[[Box], bool]) -> Property:
    return Property(f"box with {what}", f"boxes with {what}", of)


def boxes_such(speaker: Speaker) -> Claim:
    return quantified(speaker, box(speaker), lambda s: s.boxes)


def items_such(speaker: Speaker) -> Claim:
    """How many items are of a kind, and where: at a wall, a corner, the base, or at none."""
    one, many, such = thing(speaker, sized=True)
    where, touches = speaker.pick(
        (
            ("", lambda i: True),
            ("", lambda i: True),
            (speaker.pick((" touching the wall", " touching the edge", " touching an edge")), at_wall),
            (speaker.pick((" touching the wall", " touching the edge")), at_wall),
            (speaker.pick((" not touching the wall", " not touching any edge")), lambda i: not i.walls),
            (speaker.pick((" touching the base", " closely touching the bottom of a box")), at_bottom),
            (speaker.pick((" touching the corner", " closely touching a corner of a box")), at_corner),
        )
    )
    if where and speaker.draw.random() < 0.6:
        parts = Property(f"{one}{where}", f"{many}{where}", lambda b: such(b[0]) and touches(b[0]))
        return quantified(speaker, parts, lambda s: [(item,) for item in s.items])
    words, n, right = speaker.count(1, 5)
    sentence = f"there {'is' if n == 1 else 'are'} {words} {one if n == 1 else many}{where}"
    return Claim(sentence, lambda s: right(sum(such(i) and touches(i) for i in s.items)))


def at_wall(item: Item) -> bool:
    return bool(item.walls)


def at_bottom(item: Item) -> bool:
    return "bottom" in item.walls


def at_corner(item: Item) -> bool:
    return len(item.walls) > 1


def all_boxes(speaker: Speaker) -> Claim:
    if speaker.draw.random() < 0.3:
        return Claim(
            "there are two boxes that have the same number of items",
            lambda s: len({len(b) for b in s.boxes}) < 3,
        )
    (one, _, such), at = thing(speaker), speaker.draw.random() < 0.3
    start = speaker.pick(("each grey box contains", "each box contains", "every box has", "all boxes have"))
    where = " touching the edge" if at else ""
    return Claim(
        f"{start} at least {speaker.number(1)} {one}{where}",
        lambda s: all(any(such(i) and (not at or i.walls) for i in b) for b in s.boxes),
    )


def beside(speaker: Speaker) -> Claim:
    """An item that lies higher in its box than another one."""
    (first, _, a), (second, _, b) = thing(speaker), thing(speaker)

    def over(box: Box) -> bool:
        return any(a(i) and b(j) and i.y + i.side <= j.y for i in box for j in box)

    word = speaker.pick(("a", "at least one", "no"))
    return Claim(
        f"there is {word} {first} above a {second}", lambda s: any(map(over, s.boxes)) == (word != "no")
    )
