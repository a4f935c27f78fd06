"""How sentences about strips are made: choices of words, properties, and how many things have them.

A sentence is a quantifier ("there are exactly two") over towers, boxes or items with a property ("tower with
a black block at the top"). The grammar was written from the sentences of NLVR1's development set, slips left
out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from multiway.data.boxes import COLOURS, Box, Strip

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


def existing(such: Property) -> Claim:
    """`there is a tower with ...`."""
    return Claim(f"there is a {such.one}", lambda s: any(map(such.of, s.boxes)))
