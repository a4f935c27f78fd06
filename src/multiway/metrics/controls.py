"""Who is given whose picture, where a model shall be shown the wrong ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int


def other(*keys: Iterable[object], seed: int = 0) -> Int[np.ndarray, " N"] | None:
    """For each sample another one, drawn, that has none of its keys; each is taken once where that can be.

    Args:
        keys: one or more of every sample, as its picture.

    Returns:
        None where some sample shares a key with all others: then nothing is there to be shown instead.
    """
    own = np.stack([np.unique([str(key) for key in column], return_inverse=True)[1] for column in keys])
    generator = np.random.default_rng(seed)
    order = generator.permutation(own.shape[1])
    # Equal first keys one after the other: as many places on as the commonest is there, all are others.
    _, first, group = np.unique(own[0][order], return_index=True, return_inverse=True)
    order = order[np.argsort(first[group], kind="stable")]
    found = np.empty(len(order), np.int64)
    found[order] = np.roll(order, np.bincount(group).max())
    for row in np.flatnonzero((own == own[:, found]).any(0)):
        unlike = np.flatnonzero((own != own[:, row, None]).all(0))
        if not len(unlike):
            return None
        found[row] = generator.choice(unlike)
    return found
