"""Captions against references: BLEU, ROUGE-L, CIDEr, and the share that is right word for word.

As the COCO evaluation (pycocoevalcap) reports them, on words of our own cutting (`ptb`): without Java.
For candidate c and references R of each picture, h_w(s) the count of n-gram w in s:

    BLEU-n   exp(min(0, 1 - r / |c|)) * (p_1 ... p_n)^(1/n), over the whole corpus;
             p_k = sum over w of min(h_w(c), max_R h_w(R)) / all k-grams of c; r the closest reference length
    ROUGE-L  (1 + b^2) P R / (R + b^2 P), b = 1.2; P, R the best shares of the longest common subsequence
    CIDEr    10 * mean over n = 1..4 and R of cos(g(c), g(R)); g_w = h_w * log(pictures / pictures with w)
    CIDEr-D  min(g_w(c), g_w(R)) in the dot product, and times exp(-(|c| - |R|)^2 / (2 * 6^2))

What papers call CIDEr is CIDEr-D: so does `cider` unless asked for the plain formula.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from multiway.metrics.ptb import characters, letters, words
from multiway.metrics.resample import figures_of

Tokens = Sequence[str]
Cut = Literal["ptb", "characters", "blanks"]
CUTS: Mapping[str, Callable[[str], list[str]]] = {"ptb": words, "characters": characters, "blanks": str.split}

ORDERS = 4  # n-grams of one to four words
BETA = 1.2  # ROUGE-L: recall counts more than precision
SIGMA = 6.0  # CIDEr-D: words by which a caption may be longer or shorter
_TINY, _SMALL = 1e-15, 1e-9  # BLEU: the official guards of an empty count


def summary(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, cut: Cut = "ptb"
) -> dict[str, float]:
    """Every score of a corpus, in percent (CIDEr too, as papers print it: 100 is a usual value, not the end).

    Args:
        candidates: one caption a picture. references: one or more of each.
        cut: into Penn Treebank words, into characters (Chinese, Japanese), or at blanks as they are.

    Returns:
        `bleu_1` .. `bleu_4`, `rouge_l`, `cider` (CIDEr-D) and `exact`: the share of candidates that are one
        of their references.

    Raises:
        ValueError: no picture, unequal numbers, or a picture without a reference.
    """
    return figures_of(columns(candidates, references, cut=cut), figures)


def columns(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, cut: Cut = "ptb"
) -> dict[str, Float[np.ndarray, " N"]]:
    """What `figures` makes the scores of, picture by picture: their sums over any pictures are enough.

    CIDEr's weights of rare n-grams stay those of all the pictures.
    """
    got, given = tokenize(candidates, references, cut=cut)
    found = {"n": np.ones(len(got)), "rouge_l": rouge_l(got, given), "cider": cider(got, given)}
    found["exact"] = exact(candidates, references, cut=cut)
    return found | {f"bleu/{i}": column for i, column in enumerate(bleu_counts(got, given).T)}


def figures(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scores of `summary` from sums of `columns`."""
    counts = np.stack([sums[f"bleu/{i}"] for i in range(2 * ORDERS + 2)], axis=-1)
    scores = {f"bleu_{n}": score for n, score in enumerate(np.moveaxis(bleu_of(counts), -1, 0), 1)}
    scores |= {name: sums[name] / sums["n"] for name in sums if name != "n" and "/" not in name}
    return {name: 100 * score for name, score in scores.items()}


def tokenize(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, cut: Cut = "ptb"
) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Words of every caption, each different one cut once.

    Raises:
        ValueError: no picture, unequal numbers, or a picture without a reference.
    """
    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError(
            f"{len(candidates)} captions and {len(references)} lists of references: give one caption and at "
            "least one reference a picture"
        )
    known: dict[str, list[str]] = {}

    def tokens(text: str) -> list[str]:
        if text not in known:
            known[text] = CUTS[cut](text)
        return known[text]

    return [tokens(text) for text in candidates], [[tokens(text) for text in group] for group in references]


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 .. BLEU-4 of a corpus, 0..1 (Papineni et al. 2002); of two equally close lengths the shorter."""
    return bleu_of(bleu_counts(candidates, references).sum(0)).tolist()


def bleu_counts(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N 10"]:
    """What BLEU sums over the corpus, picture by picture.

    Returns:
        columns: n-grams that are right, n = 1..4; n-grams tried; the caption's length; the reference's.
    """
    rows = np.zeros((len(candidates), 2 * ORDERS + 2))
    for row, candidate, group in zip(rows, candidates, references, strict=True):
        most: Counter[Tokens] = Counter()
        for reference in group:
            most |= ngrams(reference)
        for gram, count in ngrams(candidate).items():
            row[len(gram) - 1] += min(count, most[gram])
        row[ORDERS : 2 * ORDERS] = [max(len(candidate) - n, 0) for n in range(ORDERS)]
        row[-2:] = len(candidate), min((abs(len(r) - len(candidate)), len(r)) for r in group)[1]
    return rows


def bleu_of(sums: Float[np.ndarray, "*D 10"]) -> Float[np.ndarray, "*D 4"]:
    """BLEU-1 .. BLEU-4, 0..1, from sums of `bleu_counts`."""
    precisions = (sums[..., :ORDERS] + _TINY) / (sums[..., ORDERS : 2 * ORDERS] + _SMALL)
    ratio = (sums[..., -2] + _TINY) / (sums[..., -1] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    orders = np.arange(1, ORDERS + 1)
    return brevity[..., None] * np.cumprod(precisions, axis=-1) ** (1 / orders)


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Float[np.ndarray, " N"]:
    """ROUGE-L of each picture, 0..1 (Lin 2004): precision and recall each of their best reference."""
    scores = []
    for candidate, group in zip(candidates, references, strict=True):
        common = [common_subsequence(candidate, reference) for reference in group]
        precision = max(common) / max(len(candidate), 1)
        recall = max(n / max(len(reference), 1) for n, reference in zip(common, group, strict=True))
        both = (1 + BETA**2) * precision * recall
        scores.append(both / (recall + BETA**2 * precision) if both else 0.0)
    return np.array(scores)


def cider(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    variant: Literal["d", "plain"] = "d",
) -> Float[np.ndarray, " N"]:
    """CIDEr of each picture, 0..10 (Vedantam et al. 2015); rare n-grams by all the pictures' references.

    Args:
        variant: `d` is CIDEr-D, what the COCO evaluation prints as CIDEr; `plain` neither clips counts nor
            weighs lengths. Neither cuts words to their stems.
    """
    seen: Counter[Tokens] = Counter()
    for group in references:
        seen.update({gram for reference in group for gram in ngrams(reference)})
    pictures = math.log(len(references))

    scores = []
    for candidate, group in zip(candidates, references, strict=True):
        (own, own_norms), total = _weigh(candidate, seen, pictures), 0.0
        for reference in group:
            other, other_norms = _weigh(reference, seen, pictures)
            likeness = 0.0
            for mine, norm, theirs, their_norm in zip(own, own_norms, other, other_norms, strict=True):
                if norm and their_norm:
                    clip = min if variant == "d" else _first
                    dot = sum(clip(w, theirs[g]) * theirs[g] for g, w in mine.items() if g in theirs)
                    likeness += dot / (norm * their_norm)
            if variant == "d":
                # The official code counts pairs of words here: from two words on, the same difference.
                longer = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
                likeness *= math.exp(-(longer**2) / (2 * SIGMA**2))
            total += likeness
        scores.append(10 * total / (ORDERS * len(group)))
    return np.array(scores)


def _weigh(
    tokens: Tokens, seen: Counter[Tokens], pictures: float
) -> tuple[list[dict[Tokens, float]], list[float]]:
    """tf-idf of the n-grams of each order, and their norms; `pictures` is the log of their number."""
    orders: list[dict[Tokens, float]] = [{} for _ in range(ORDERS)]
    for gram, count in ngrams(tokens).items():
        orders[len(gram) - 1][gram] = count * (pictures - math.log(max(seen[gram], 1)))
    return orders, [math.sqrt(sum(weight**2 for weight in order.values())) for order in orders]


def exact(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, cut: Cut = "ptb"
) -> Float[np.ndarray, " N"]:
    """1 where a candidate says the same as one of its references, else 0.

    Case, accents and punctuation do not count: vocabularies of lower case can't say them. Where there is
    nothing else, as in an emoji, the text itself counts; an empty one matches nothing.
    """
    fold = characters if cut == "characters" else letters

    def said(text: str) -> list[str]:
        text = unicodedata.normalize("NFKC", text)
        return fold(text) or text.split()

    pairs = zip(map(said, candidates), references, strict=True)
    return np.array([float(any(own and own == said(text) for text in group)) for own, group in pairs])


def ngrams(tokens: Tokens) -> Counter[Tokens]:
    """How often each run of one to four words comes."""
    tokens = tuple(tokens)
    return Counter(tokens[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1))


def common_subsequence(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence, by bits that are positions in b (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << i
    row = full = (1 << len(b)) - 1
    for word in a:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(b) - row.bit_count()


def _first(own: float, other: float) -> float:
    return own
