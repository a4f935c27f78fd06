"""What became of each sample: from it come intervals, slices, paired comparisons and the sheet of errors.

A task fills in `Outcomes` where it measures; everything else is the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from multiway.errors import UserError
from multiway.metrics.resample import Figures, differences, figures_of, intervals

MANY = 20  # different values of a column; above, numbers are cut into quarters
REST = "(other)"


def shares(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each column's mean in percent; the column `n` counts."""
    return {name: 100 * total / sums["n"] for name, total in sums.items() if name != "n"}


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """N samples and what a model made of them.

    Attributes:
        numbers: which samples of the data these are. keys: their names.
        columns: what figures are made of, summed over samples.
        figures: sums -> figures, in the task's own units. means: which of them are no shares.
        main: the figure that the task is decided by.
        groups: samples of a group hang together and are drawn together (questions of one picture); None:
            each is for itself.
        score: how well it went, the lowest first on the sheet. wrong: which may stand on it.
        asked, expected, said: for a person to read; what is empty is not shown.
    """

    numbers: Int[np.ndarray, " N"]
    keys: Sequence[str]
    columns: Mapping[str, np.ndarray]
    figures: Figures = shares
    means: frozenset[str] = frozenset()
    main: str
    groups: Sequence[str] | None = None
    score: Float[np.ndarray, " N"]
    wrong: Bool[np.ndarray, " N"]
    asked: Sequence[str] = ()
    expected: Sequence[str] = ()
    said: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def pick(self, rows: Sequence[int] | np.ndarray) -> Outcomes:
        """The samples at `rows` alone."""
        rows = np.asarray(rows, np.int64)
        changes: dict[str, Any] = {"columns": {name: c[rows] for name, c in self.columns.items()}}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changes[field.name] = value[rows]
            elif isinstance(value, Sequence) and not isinstance(value, str) and value:
                changes[field.name] = [value[row] for row in rows]
        return replace(self, **changes)

    def values(self) -> dict[str, float]:
        """The figures."""
        return figures_of(self.columns, self.figures)

    def intervals(self, seed: int = 0) -> dict[str, list[float] | None]:
        """Their 95 % intervals: bootstrap over groups (`resample.intervals`); None where none can be told."""
        groups = range(len(self)) if self.groups is None else self.groups
        found = intervals(self.columns, self.figures, groups, means=self.means, seed=seed)
        return {name: None if interval is None else list(interval) for name, interval in found.items()}


def compare(first: Outcomes, second: Outcomes, *, seed: int = 0) -> dict[str, Any]:
    """The second model against the first, sample by sample, on those that both have.

    Returns:
        `n`; `main`; `figures`: by name `first`, `second`, `difference` (second minus first) with its 95 %
        interval `low`, `high`, `p` (paired bootstrap, two-sided) and the number of groups `differing`; as
        `resample.differences` says.

    Raises:
        UserError: the models share no sample.
    """
    places = {number: row for row, number in enumerate(second.numbers.tolist())}
    rows = [row for row, number in enumerate(first.numbers.tolist()) if number in places]
    if not rows:
        raise UserError("the models share no sample: compare them on the same data")
    a, b = first.pick(rows), second.pick([places[first.numbers[row]] for row in rows])
    groups = range(len(a)) if a.groups is None else a.groups
    found = differences(a.columns, b.columns, a.figures, groups, seed=seed)
    one, other = a.values(), b.values()
    figures = {name: {"first": one[name], "second": other[name], **found[name]} for name in found}
    return {"n": len(a), "main": a.main, "figures": figures}


def between(interval: Sequence[float] | None, digits: int) -> str:
    """An interval in words."""
    return "no interval" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def slices(outcomes: Outcomes, values: Sequence[Any]) -> list[dict[str, Any]]:
    """The main figure by a column's values, the largest slice first.

    Args:
        values: of each sample; None where it has none. Numbers of more than 20 different values are cut
            into quarters, and of other columns the 20 most frequent values are told apart.

    Returns:
        `value`, `n`, the main figure's `figure` and its `interval`.
    """
    names = _named(values)
    found = []
    for name in sorted(set(names), key=lambda name: (-names.count(name), name)):
        part = outcomes.pick([row for row, own in enumerate(names) if own == name])
        figure, interval = part.values()[outcomes.main], part.intervals()[outcomes.main]
        found.append({"value": name, "n": len(part), "figure": figure, "interval": interval})
    return found


def _named(values: Sequence[Any]) -> list[str]:
    """A slice's name for each sample."""
    plain = ["(none)" if value is None else str(value) for value in values]
    if len(set(plain)) <= MANY:
        return plain
    try:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        counts: dict[str, int] = {}
        for name in plain:
            counts[name] = counts.get(name, 0) + 1
        kept = sorted(counts, key=lambda name: (-counts[name], name))[:MANY]
        return [name if name in kept else REST for name in plain]
    edges = np.nanquantile(numbers, (0, 0.25, 0.5, 0.75, 1))
    part = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, 3)
    ranges = [f"{low:.15g} to {high:.15g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return ["(none)" if np.isnan(n) else ranges[p] for n, p in zip(numbers, part.tolist(), strict=True)]


def metadata(data: Callable[[int], Mapping[str, Any]], outcomes: Outcomes, column: str) -> list[Any]:
    """Each sample's value of a column of the data.

    Args:
        data: number of a sample -> what its source says of it.

    Raises:
        UserError: no sample has it; the sentence says what there is.
    """
    rows = [data(number) for number in outcomes.numbers.tolist()]
    if not any(column in row for row in rows):
        known = ", ".join(sorted({str(name) for row in rows for name in row})) or "none"
        raise UserError(f"the data has no column {column!r} to slice by (it has {known}): name one of these")
    return [row.get(column) for row in rows]


def of_choices(
    logits: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    **options: Any,
) -> Outcomes:
    """Outcomes of a choice among classes; the sheet begins with the errors that the model is surest of.

    Args:
        names: of the classes. columns: beside `n`. options: further fields of `Outcomes`.
    """
    logits = logits.astype(np.float64)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    margin = own - others.max(1, initial=-np.inf)
    return Outcomes(
        columns={"n": np.ones(len(labels)), **{name: c.astype(np.float64) for name, c in columns.items()}},
        score=np.nan_to_num(margin, posinf=0.0),
        wrong=margin <= 0,
        expected=[names[label] for label in labels],
        said=[names[choice] for choice in logits.argmax(1)],
        **options,
    )
