"""What NLVR1's sentences say of boxes with scattered items."""

from __future__ import annotations

from collections.abc import Callable

from multiway.data.box_speech import Claim, Property, Speaker, existing, quantified
from multiway.data.boxes import SHAPES, SIZES, Box, Item


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


def an_item(speaker: Speaker) -> Claim:
    one, _, such = thing(speaker)
    return Claim(f"there is a {one}", lambda s: any(map(such, s.items)))


def a_box(speaker: Speaker) -> Claim:
    """How many items it holds, or that they are of one colour."""
    colour, n = speaker.colour(), speaker.draw.randint(1, 6)
    if speaker.draw.random() < 0.5:
        return existing(holding(f"only {colour} items", lambda b: {i.colour for i in b} == {colour}))
    return existing(holding(f"{speaker.number(n)} item{'s' * (n > 1)}", lambda b: len(b) == n))
