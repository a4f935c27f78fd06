"""VQA's soft accuracy: an answer is as right as people agree with it (Antol et al. 2015; Goyal et al. 2017).

Answers are compared after the normalisation of the official evaluation (GT-Vision-Lab/VQA, vqaEval.py): no
punctuation, digits for number words, no articles, apostrophes where contractions have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
MOST_PERIODS = 32  # that are removed: the official code passes a flag where a count is expected
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ARTICLES = ("a", "an", "the")

#: Words that are written with apostrophes; each is also known with any one of them left out.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _spellings() -> dict[str, str]:
    found = {"none": "0", "somebody'd": "somebodyd"}  # the second as the official list has it
    found |= {word: str(number) for number, word in enumerate(NUMBERS)}
    for word in CONTRACTED.split():
        found |= {word[:i] + word[i + 1 :]: word for i, letter in enumerate(word) if letter == "'"}
    return found


SPELLINGS = _spellings()
_DECIMAL_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    numeric, kept = _DECIMAL_COMMA.search(text) is not None, text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if beside_blank or numeric else " ")
    kept = _PERIOD.sub("", kept, count=MOST_PERIODS)
    words = (SPELLINGS.get(word, word) for word in kept.lower().split())
    return " ".join(word for word in words if word not in ARTICLES)


def soft_accuracy(answer: str, given: Sequence[str]) -> float:
    """How right an answer is, 0 to 1: `min(matches / 3, 1)` among all annotators but one, averaged.

    Where all annotators agree, answers are compared as they stand, as officially. With fewer than four of
    them (the formula would call no answer right) an answer is right if one gave it.

    Raises:
        ValueError: no answer was given.
    """
    if not given:
        raise ValueError("there is no answer to compare with")
    if len(given) < 4:
        return float(normalise(answer) in {normalise(text) for text in given})
    said, known = _plain(answer), [_plain(text) for text in given]
    if len(set(known)) > 1:
        said, known = normalise(said), [normalise(text) for text in known]
    matches = known.count(said)
    full, one_less = min(matches / 3, 1.0), min((matches - 1) / 3, 1.0)
    return ((len(known) - matches) * full + matches * one_less) / len(known)


def soft_target(count: int, given: int) -> float:
    """What a classifier learns of an answer that `count` of `given` annotators gave.

    0.3 for each of the first three, 1 from the fourth on (ViLT, BEiT-3: `get_score`); 1 where there are fewer
    than four annotators.
    """
    return 1.0 if count and given < 4 else (0.0, 0.3, 0.6, 0.9, 1.0)[min(count, 4)]


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
