"""From a score to a probability that can be believed, and how far it can.

p = 1 / (1 + exp(-(scale * score + bias)))        Platt 1999; with bias 0 a temperature, Guo et al. 2017
ECE = sum over bins b of n_b / n * |mean p in b - share that match in b|,  equal widths of p
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

BINS, FOLDS, LEAST = 15, 5, 10
Method = Literal["platt", "temperature"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a model's scores of pairs become probabilities.

    Attributes:
        score: what is scaled: `itm`, the head's log-odds of "matched", or `cosine` without such a head.
        scale, bias: of the score. method: how they were fitted. pairs: on how many gold pairs.
        ece_before, ece_after: expected calibration error, 0..1; after on pairs that did not fit it.
    """

    score: Literal["itm", "cosine"]
    scale: float
    bias: float
    method: Method
    pairs: int
    ece_before: float | None
    ece_after: float

    def probability(self, score: Sequence[float]) -> Float[np.ndarray, " N"]:
        """0..1 for each score."""
        return sigmoid(self.scale * np.asarray(score, np.float64) + self.bias)


def sigmoid(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def fit(
    scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"], method: Method = "platt"
) -> tuple[float, float]:
    """(scale, bias) of the least cross-entropy, by Newton's method.

    The targets are Platt's: (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), so that parted scores stay finite.

    Raises:
        ValueError: one of the labels is missing.
    """
    x, yes = np.asarray(scores, np.float64), np.asarray(labels, bool)
    ones, zeros = int(yes.sum()), int((~yes).sum())
    if not ones or not zeros:
        raise ValueError("pairs of both labels are needed")
    target = np.where(yes, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    unit = float(x.std()) or 1.0  # scores of any size: the search is in their own unit
    inputs = np.stack([x / unit, np.full(len(x), float(method == "platt"))], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        step = np.linalg.solve(*_newton(inputs, weights, target))
        before, factor = _loss(inputs @ weights, target), 1.0
        while factor > 1e-6 and _loss(inputs @ (weights - factor * step), target) > before:
            factor /= 2
        weights = weights - factor * step
        if np.abs(factor * step).max() < 1e-10:
            break
    return float(weights[0] / unit), float(weights[1]) if method == "platt" else 0.0


def _newton(inputs: np.ndarray, weights: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hessian and gradient."""
    p = sigmoid(inputs @ weights)
    hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-12 * np.eye(2)
    return hessian, inputs.T @ (p - target)


def _loss(z: np.ndarray, target: np.ndarray) -> float:
    return float((np.logaddexp(0, z) - target * z).sum())


def ece(probabilities: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"], bins: int = BINS) -> float:
    """Expected calibration error of the probability of a match, 0..1."""
    number = np.minimum((np.asarray(probabilities) * bins).astype(np.int64), bins - 1)
    sums = np.bincount(number, weights=probabilities, minlength=bins)
    hits = np.bincount(number, weights=labels, minlength=bins)
    return float(np.abs(sums - hits).sum() / len(number))


def folds(groups: list[str], *, seed: int = 0) -> Int[np.ndarray, " N"]:
    """Each pair's fold; pairs of a group are in one."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    return np.random.default_rng(seed).permutation(len(names))[group] % FOLDS


def held_out(
    scores: Float[np.ndarray, " N"],
    labels: Bool[np.ndarray, " N"],
    groups: list[str],
    method: Method = "platt",
    *,
    seed: int = 0,
) -> Float[np.ndarray, " N"]:
    """Each pair's probability by a fit on the other `folds`.

    Raises:
        ValueError: a fold leaves pairs of one label alone.
    """
    fold = folds(groups, seed=seed)
    found = np.empty(len(scores))
    for number in np.unique(fold):
        inside = fold == number
        scale, bias = fit(scores[~inside], labels[~inside], method)
        found[inside] = sigmoid(scale * scores[inside] + bias)
    return found
