"""VQA's soft accuracy against a slow reference that follows the published evaluation step by step."""

from __future__ import annotations

import random
import re

import pytest

from multiway.metrics.vqa import CONTRACTED, normalise, soft_accuracy, soft_target

#: Wrong and right spellings of the official list.
CONTRACTIONS = """
aint ain't|couldn'tve couldn't've|couldnt've couldn't've|dont don't|hes he's|howd how'd|itll it'll|maam ma'am
oclock o'clock|ow's'at 'ow's'at|'ows'at 'ow's'at|'ow'sat 'ow's'at|somebody'd somebodyd|someones someone's
thatsx thatsx|thats that's|therere there're|twas 'twas|whove who've|yall'd've y'all'd've|y'alld've y'all'd've
y'all'dve y'all'd've|youve you've|shes shes|lets lets|im im|id've id've
"""


def reference(text: str) -> str:
    """Punctuation, then numbers and articles, then contractions: each in a pass of its own."""
    out = text
    for mark in [*";/[]", '"', *"{}()=+", "\\", *"_-><@`,?!"]:
        if mark + " " in text or " " + mark in text or re.search("([0-9])(,)([0-9])", text):
            out = "".join(letter for letter in out if letter != mark)
        else:
            out = "".join(" " if letter == mark else letter for letter in out)
    removed, kept = 0, ""
    for i, letter in enumerate(out):
        if letter == "." and not (i + 1 < len(out) and out[i + 1].isdigit()) and removed < 32:
            removed += 1
        else:
            kept += letter
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    words = []
    for word in kept.lower().split():
        word = "0" if word == "none" else str(numbers.index(word)) if word in numbers else word
        if word not in ("a", "an", "the"):
            words.append(word)
    pairs = dict(pair.split() for pair in CONTRACTIONS.strip().replace("\n", "|").split("|"))
    return " ".join(pairs.get(word, word) for word in words)


def slow(answer: str, given: list[str]) -> float:
    """For every annotator the others' votes."""
    answer, given = (answer.replace("\n", " ").replace("\t", " ").strip(), [g.strip() for g in given])
    if len(set(given)) > 1:
        answer, given = reference(answer), [reference(text) for text in given]
    total = 0.0
    for left_out in range(len(given)):
        others = [text for i, text in enumerate(given) if i != left_out]
        total += min(1.0, sum(text == answer for text in others) / 3)
    return total / len(given)


def words() -> list[str]:
    pairs = [word for pair in CONTRACTIONS.replace("\n", "|").split("|") for word in pair.split()]
    return [
        *pairs,
        "red",
        "Two",
        "none",
        "The",
        "a",
        "an",
        "ten",
        "3.5",
        "1,000",
        "t-shirt",
        "u.s.a.",
        "no.",
        "yes",
    ]


def made(draw: random.Random) -> str:
    glue = [" ", "", "-", "/", ", ", " ,", "?", ".", "; ", "\\", "_"]
    text = "".join(draw.choice(words()) + draw.choice(glue) for _ in range(draw.randint(1, 4)))
    return text + "." * draw.choice([0, 0, 0, 40])


def test_thousands_of_random_answers() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = made(draw)
        assert normalise(text) == reference(text.strip()), text
        pool = [made(draw) for _ in range(draw.randint(1, 4))]
        given = [draw.choice(pool) for _ in range(draw.randint(4, 12))]
        answer = draw.choice([*pool, made(draw)])
        assert soft_accuracy(answer, given) == pytest.approx(slow(answer, given)), (answer, given)


def test_by_hand() -> None:
    assert soft_accuracy("yes", ["yes"] * 10) == 1
    assert soft_accuracy("yes", ["yes"] * 3 + ["no"] * 7) == pytest.approx(0.9)
    assert soft_accuracy("yes", ["yes"] * 2 + ["no"] * 8) == pytest.approx(0.6)
    assert soft_accuracy("the two dogs", ["2 dogs"] * 9 + ["cats"]) == 1
    assert soft_accuracy("2 dogs", ["two dogs"] * 10) == 0  # all agree: compared as it stands
    assert soft_accuracy("Red.", ["red"]) == 1  # a set with one answer each
    assert soft_accuracy("blue", ["red", "blue"]) == 1
    with pytest.raises(ValueError, match="no answer"):
        soft_accuracy("red", [])
    assert [soft_target(n, 10) for n in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]
    assert soft_target(1, 1) == 1
    assert len(CONTRACTED.split()) == len(set(CONTRACTED.split()))
