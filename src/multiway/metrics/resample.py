"""How sure is a figure, and is one model better than another? The bootstrap over samples that hang together.

figure(data)             any function of sums over the samples: a share, a mean, a corpus BLEU
interval                 2.5 % and 97.5 % of the figure on data drawn with replacement, group by group;
                         Wilson's over the groups where a share is 0 or all: there every draw is the same
paired difference        the same draws for both models: what is hard for both cancels (Koehn 2004)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

DRAWS, CHUNK = 2000, 1 << 22  # drawn groups that are held at a time
WHOLE = 100.0  # figures that are shares are in percent
Z95 = 1.959964
LEAST = 6  # groups that must differ: of five that all differ one way, a sign test still has p = 0.06
#: Sums over samples `[...]` by name -> figures `[...]` by name.
Figures = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


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


def resampled(
    values: Float[np.ndarray, "N S"], groups: Sequence[object], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "D S"]:
    """Column sums of drawn data: as many groups as there are, with replacement, each with all its rows."""
    whole = _by_group(values, groups)
    count = len(whole)
    generator, sums = np.random.default_rng(seed), []
    step = max(1, CHUNK // count)
    for first in range(0, draws, step):
        drawn = generator.integers(count, size=(min(step, draws - first), count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn])
        sums.append(times.astype(np.float64) @ whole)
    return np.concatenate(sums)


def figures_of(columns: Mapping[str, np.ndarray], figures: Figures) -> dict[str, float]:
    """The figures of all samples."""
    sums = {name: np.asarray(column, np.float64).sum(keepdims=True) for name, column in columns.items()}
    return {name: float(value[0]) for name, value in figures(sums).items()}


def intervals(
    columns: Mapping[str, np.ndarray],
    figures: Figures,
    groups: Sequence[object],
    *,
    means: Collection[str] = (),
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """The 95 % interval of each figure; None where there is one group, which can't say how groups differ.

    Args:
        means: figures that are no shares, as CIDEr: none of them is sure where all groups are alike.
    """
    drawn = _drawn(columns, figures, groups, seed)
    count, found = len(set(map(str, groups))), {}
    for name, value in figures_of(columns, figures).items():
        alike = (name in means or value in (0.0, WHOLE)) and np.nanmin(drawn[name]) == np.nanmax(drawn[name])
        if alike and name not in means:
            low, high = wilson(count if value else 0, count)
            found[name] = (WHOLE * low, WHOLE * high)
        else:
            found[name] = None if count == 1 or alike else _quantiles(drawn[name])
    return found


def differences(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    figures: Figures,
    groups: Sequence[object],
    *,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Second minus first, figure by figure, on samples that both have in the same order.

    Returns:
        `difference`; its 95 % interval `low` and `high`, None where all draws are the same and fewer than
        `LEAST` groups differ; `p`: the share of the draws, twice, in which it has the other sign or is none,
        but not below that of a sign test in which all groups that differ agree; and `differing`, those
        groups' number.
    """
    drawn = [_drawn(columns, figures, groups, seed) for columns in (first, second)]
    each = [_each(columns, figures, groups) for columns in (first, second)]
    plain = [figures_of(columns, figures) for columns in (first, second)]
    found = {}
    for name in plain[0]:
        change = drawn[1][name] - drawn[0][name]
        change = change[~np.isnan(change)]  # a draw may lack what the figure is of
        low, high = _quantiles(change)
        differing = int((~np.isclose(each[0][name], each[1][name], equal_nan=True)).sum())
        known = differing >= LEAST or low < high
        # The data as they are count as one more draw: no p is 0.
        share = (min((change <= 0).sum(), (change >= 0).sum()) + 1) / (len(change) + 1)
        found[name] = {
            "difference": plain[1][name] - plain[0][name],
            "low": low if known else None,
            "high": high if known else None,
            "p": float(min(1.0, max(2 * share, 2.0 ** (1 - differing)))),
            "differing": differing,
        }
    return found


def _by_group(values: Float[np.ndarray, "N S"], groups: Sequence[object]) -> Float[np.ndarray, "G S"]:
    """Column sums of each group."""
    _, group = np.unique(np.array([str(g) for g in groups]), return_inverse=True)
    return np.stack([np.bincount(group, weights=column) for column in values.T], axis=1)


def _drawn(
    columns: Mapping[str, np.ndarray], figures: Figures, groups: Sequence[object], seed: int
) -> dict[str, np.ndarray]:
    sums = resampled(_table(columns), groups, seed=seed)
    return figures(dict(zip(columns, sums.T, strict=True)))


def _each(
    columns: Mapping[str, np.ndarray], figures: Figures, groups: Sequence[object]
) -> dict[str, np.ndarray]:
    """The figures of each group by itself."""
    return figures(dict(zip(columns, _by_group(_table(columns), groups).T, strict=True)))


def _table(columns: Mapping[str, np.ndarray]) -> Float[np.ndarray, "N S"]:
    return np.stack([*columns.values()], axis=1).astype(np.float64)


def _quantiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
