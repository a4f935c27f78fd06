"""What NLVR1's sentences say of towers."""

from __future__ import annotations

from collections.abc import Callable

from multiway.data.box_speech import Claim, Property, Speaker, existing, quantified
from multiway.data.boxes import MOST_BLOCKS, Box


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


def a_block(speaker: Speaker) -> Claim:
    colour = speaker.colour()
    return Claim(f"there is a {colour} block", lambda s: number_of(s.items, colour) > 0)


def a_tower(speaker: Speaker) -> Claim:
    """Of what height it is, what lies at its end, or that it is of one colour."""
    kind, colour, (name, place) = speaker.draw.randrange(3), speaker.colour(), end(speaker)
    if kind == 0:
        n = speaker.draw.randint(1, MOST_BLOCKS)
        return existing(having(f"{speaker.number(n)} block{'s' * (n > 1)}", lambda t: len(t) == n))
    if kind == 1:
        return existing(having(f"a {colour} block at the {name}", lambda t: t[place].colour == colour))
    return existing(having(f"only {colour} blocks", lambda t: number_of(t, colour) == len(t)))
