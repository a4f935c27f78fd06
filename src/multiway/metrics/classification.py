"""How often is a choice right, how sure is that figure, and what would choosing blindly reach?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from multiway.metrics.resample import resampled

Z95 = 1.959964


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share, `right` of `count` independent choices; 0 to 1.

    Raises:
        ValueError: `count` is 0.
    """
    if count < 1:
        raise ValueError("no choice was made: there is no share of right ones")
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / count / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap(
    right: Shaped[np.ndarray, " N"], groups: Sequence[object], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the share that is right, where the choices of a group hang together; 0 to 1.

    `right` is true or false, or how right a choice is, 0 to 1.

    Groups are drawn with replacement, each with all its choices.
    """
    values = np.stack([right, np.ones(len(right))], axis=1)
    hits, sizes = resampled(values, groups, draws=draws, seed=seed).T
    low, high = np.quantile(hits / sizes, (0.025, 0.975))
    return float(low), float(high)


def consistency(right: Bool[np.ndarray, " N"], groups: Sequence[object]) -> float:
    """Share of the groups whose choices are all right (NLVR2: of its sentences)."""
    wrong = {group for group, ok in zip(groups, right, strict=True) if not ok}
    return 1 - len(wrong) / len(set(groups))


def majority(labels: Int[np.ndarray, " N"]) -> float:
    """Share of the most frequent class: what is reached without looking."""
    return float(np.bincount(labels).max() / len(labels))


def in_top(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], k: int) -> Bool[np.ndarray, " N"]:
    """Whether a sample's class is among its k best; ties count against it."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits >= own).sum(1) <= k


def balanced(right: Bool[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """Mean over the classes of the share that is right."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
