"""How often is a choice right, how sure is that figure, and what would choosing blindly reach?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from multiway.metrics.resample import WHOLE, intervals


def bootstrap(right: Shaped[np.ndarray, " N"], groups: Sequence[object]) -> tuple[float, float] | None:
    """95 % interval, in percent, of the share that is right, where the choices of a group hang together.

    Groups are drawn with replacement, each with all its choices (`resample.intervals`).

    Args:
        right: true or false, or how right a choice is, 0 to 1.

    Returns:
        None where one group is neither wholly right nor wholly wrong.
    """
    columns = {"right": np.asarray(right), "n": np.ones(len(right))}
    return intervals(columns, lambda sums: {"share": WHOLE * sums["right"] / sums["n"]}, groups)["share"]


def rounded(interval: tuple[float, float] | None) -> list[float] | None:
    """An interval in percent as results hold it."""
    return None if interval is None else np.round(interval, 2).tolist()


def consistency(right: Bool[np.ndarray, " N"], groups: Sequence[object]) -> float:
    """Share of the groups whose choices are all right (NLVR2: of its sentences)."""
    wrong = {group for group, ok in zip(groups, right, strict=True) if not ok}
    return 1 - len(wrong) / len(set(groups))


def majority(labels: Int[np.ndarray, " N"]) -> float:
    """Share of the most frequent class: what is reached without looking."""
    return float(np.bincount(labels).max() / len(labels))


def in_top(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], k: int) -> Bool[np.ndarray, " N"]:
    """Whether a sample's class is among its k best; ties count against it, and what is no number."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < own)).sum(1) <= k


def balanced(right: Bool[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """Mean over the classes of the share that is right."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
