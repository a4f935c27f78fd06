"""The threshold from a small labelled sample, and how good it is, with intervals.

A labelled sample is a table with `image`, `text` and `label` (1: they match, 0: they do not; pictures
relative to the file), or tars whose json has a `label` for the whole text (`data.gold`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from multiway.bootstrap.filter import Filter
from multiway.data.gold import GoldPairs
from multiway.errors import UserError
from multiway.metrics.resample import wilson

FOLDS = 5
LEAST = 10  # of either label


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share with its interval.

    Attributes:
        value: 0..1, nan where nothing was counted. low, high: Wilson's 95 % interval. of: how many were
            counted.
    """

    value: float
    low: float
    high: float
    of: int


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold and what it does to the labelled sample.

    Attributes:
        value: scores from here on are kept. precision: share of true pairs among the kept. recall: share of
            the true pairs that are kept. Both are measured on pairs that did not choose the threshold
            (five-fold), so that they are not flattered. pairs: labelled pairs. matching: the true ones.
    """

    value: float
    precision: Share
    recall: Share
    pairs: int
    matching: int

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def sentence(self) -> str:
        """One line."""
        p, r = self.precision, self.recall
        return (
            f"from {self.pairs} labelled pairs: precision {p.value:.1%} "
            f"({p.low:.1%} to {p.high:.1%}), recall {r.value:.1%} ({r.low:.1%} to {r.high:.1%})"
        )


def share(hits: int, of: int) -> Share:
    """`hits` of `of`, with Wilson's interval."""
    if of == 0:
        return Share(value=math.nan, low=0.0, high=1.0, of=0)
    low, high = wilson(hits, of)
    return Share(value=hits / of, low=low, high=high, of=of)


def choose(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    *,
    precision: float | None = None,
) -> Threshold:
    """The lowest threshold of at least this precision; without one, that of the best F1.

    Raises:
        UserError: fewer than ten pairs of either label, or no threshold is that precise.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if min(truth.sum(), (~truth).sum()) < LEAST:
        raise UserError(
            f"the labelled sample has {truth.sum()} matching and {(~truth).sum()} other pairs: label at "
            f"least {LEAST} of each, better a hundred"
        )
    threshold = _best(values, truth, precision)
    kept = np.zeros(len(values), bool)
    fold = np.empty(len(values), np.int64)
    for label in (False, True):  # both labels in every fold
        fold[truth == label] = np.arange((truth == label).sum()) % FOLDS
    for number in range(FOLDS):
        inside = fold == number
        kept[inside] = values[inside] >= _best(values[~inside], truth[~inside], precision, strict=False)
    hits = int((kept & truth).sum())
    return Threshold(
        value=threshold,
        precision=share(hits, int(kept.sum())),
        recall=share(hits, int(truth.sum())),
        pairs=len(values),
        matching=int(truth.sum()),
    )


def _best(values: np.ndarray, truth: np.ndarray, precision: float | None, *, strict: bool = True) -> float:
    """The threshold half-way between two scores, or at the lowest of all."""
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))  # a threshold can't part equal scores
    kept = ends + 1
    exact = hits[ends] / kept
    if precision is None:
        at = int(np.argmax(2 * hits[ends] / (kept + truth.sum())))
    else:
        good = np.flatnonzero(exact >= precision)
        if not len(good):
            if strict:
                raise UserError(
                    f"no threshold reaches a precision of {precision:.2f} on the labelled sample (the best "
                    f"is {exact.max():.2f}): ask for less, or train a better filter"
                )
            good = np.flatnonzero(exact == exact.max())
        at = int(good[-1])
    end = ends[at]
    below = ranked[end + 1] if end + 1 < len(ranked) else ranked[end]
    return float((ranked[end] + below) / 2)


def score_labelled(path: str, scores: Filter, *, batch_size: int = 32) -> tuple[list[float], list[bool]]:
    """Scores and labels of a labelled sample.

    Raises:
        UserError: it can't be read, or a picture in it can't.
    """
    pairs = GoldPairs(path)
    found: list[float] = []
    for start in range(0, len(pairs), batch_size):
        part = range(start, min(start + batch_size, len(pairs)))
        rows = scores([pairs.image(i) for i in part], [[pairs.texts[i]] for i in part])
        found += [float(row[0]) for row in rows]
    return found, pairs.labels
