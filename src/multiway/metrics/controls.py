"""Who is given whose picture, where a model shall be shown the wrong ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def other(count: int, seed: int = 0) -> Int[np.ndarray, " N"]:
    """For each of `count` pictures another one, drawn: a single cycle through all of them."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, np.int64)
    found[order] = np.roll(order, 1)
    return found
