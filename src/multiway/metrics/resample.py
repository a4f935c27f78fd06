"""How sure is a figure, and is one model better than another? The bootstrap over samples that hang together.

figure(data)             any function of sums over the samples: a share, a mean, a corpus BLEU
interval                 2.5 % and 97.5 % of the figure on data drawn with replacement, group by group
paired difference        the same draws for both models: what is hard for both cancels (Koehn 2004)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

DRAWS, CHUNK = 2000, 1 << 22  # drawn groups that are held at a time
#: Sums over samples `[...]` by name -> figures `[...]` by name.
Figures = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def resampled(
    values: Float[np.ndarray, "N S"], groups: Sequence[object], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "D S"]:
    """Column sums of drawn data: as many groups as there are, with replacement, each with all its rows."""
    _, group = np.unique(np.array([str(g) for g in groups]), return_inverse=True)
    count = int(group.max()) + 1
    whole = np.stack([np.bincount(group, weights=column, minlength=count) for column in values.T], axis=1)
    generator, sums = np.random.default_rng(seed), []
    step = max(1, CHUNK // count)
    for first in range(0, draws, step):
        drawn = generator.integers(count, size=(min(step, draws - first), count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn])
        sums.append(times.astype(np.float64) @ whole)
    return np.concatenate(sums)


def figures_of(columns: Mapping[str, np.ndarray], figures: Figures) -> dict[str, float]:
    """The figures of all samples."""
    return {name: float(value[0]) for name, value in figures(_sums(columns)).items()}


def intervals(
    columns: Mapping[str, np.ndarray], figures: Figures, groups: Sequence[object], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each figure."""
    return {name: _quantiles(drawn) for name, drawn in _drawn(columns, figures, groups, seed).items()}


def differences(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    figures: Figures,
    groups: Sequence[object],
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Second minus first, figure by figure, on samples that both have in the same order.

    Returns:
        `difference`, its 95 % interval `low` and `high`, and `p`: the share of the draws, twice, in which it
        has the other sign or is none.
    """
    drawn = [_drawn(columns, figures, groups, seed) for columns in (first, second)]
    plain = [figures_of(columns, figures) for columns in (first, second)]
    found = {}
    for name in plain[0]:
        change = drawn[1][name] - drawn[0][name]
        low, high = _quantiles(change)
        sides = np.nanmean(change <= 0), np.nanmean(change >= 0)
        found[name] = {
            "difference": plain[1][name] - plain[0][name],
            "low": low,
            "high": high,
            "p": float(min(1.0, 2 * min(sides))),
        }
    return found


def _drawn(
    columns: Mapping[str, np.ndarray], figures: Figures, groups: Sequence[object], seed: int
) -> dict[str, np.ndarray]:
    sums = resampled(np.stack([*columns.values()], axis=1).astype(np.float64), groups, seed=seed)
    return figures(dict(zip(columns, sums.T, strict=True)))


def _sums(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(column, np.float64).sum(keepdims=True) for name, column in columns.items()}


def _quantiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
