"""Retrieval in folds of consecutive pictures, averaged: COCO's 1k test is five folds of its 5,000."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from multiway.data.sample import Sample
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.retrieval import Measurement, Samples, measure
from multiway.tasks.two_stage import Progress, silent


@dataclass(frozen=True)
class Fold:
    """Samples first .. first + size - 1 of others."""

    samples: Samples
    first: int
    size: int

    def __len__(self) -> int:
        return self.size

    def sample(self, i: int) -> Sample:
        """Sample `i` of the fold."""
        return self.samples.sample(self.first + i)


def measure_folds(
    model: System, samples: Samples, folds: int, *, progress: Progress = silent, **options: Any
) -> Measurement:
    """The mean of `folds` measurements, each with a gallery of its own fold.

    Args:
        options: of `measure`.

    Returns:
        as `measure`; `n_images` and `n_texts` are of all folds, and `folds` says how many there are.

    Raises:
        UserError: there are fewer pictures than folds.
    """
    if not 1 <= folds <= len(samples):
        raise UserError(f"{folds} folds of {len(samples)} pictures: give 1 to {len(samples)}")
    edges = [len(samples) * n // folds for n in range(folds + 1)]
    found = [
        measure(model, Fold(samples, first, last - first), progress=progress, **options)
        for first, last in zip(edges[:-1], edges[1:], strict=True)
    ]
    if folds == 1:
        return found[0]
    results = [one.result for one in found]
    averaged = {stage: _mean([result[stage] for result in results]) for stage in ("itc", "itm")}
    totals = {name: sum(result[name] for result in results) for name in ("n_images", "n_texts")}
    return replace(
        found[0],
        result={**results[0], **totals, **averaged, "folds": folds},
        shuffled=_mean([one.shuffled for one in found]) or {},
        pairs=sum(one.pairs for one in found),
        seconds=sum(one.seconds for one in found),
        skipped=dict(sum((Counter(one.skipped) for one in found), Counter())),
        outcomes=_joined([one.outcomes for one in found if one.outcomes is not None], edges),
    )


def _mean(figures: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    known = [one for one in figures if one]
    return {name: float(np.mean([one[name] for one in known])) for name in known[0]} if known else None


def _joined(parts: Sequence[Outcomes], edges: Sequence[int]) -> Outcomes:
    """One after the other, numbered as in the whole; pictures and texts weigh so that a share of all is the
    mean of the folds' shares.
    """
    first = parts[0]

    def column(part: Outcomes, name: str) -> np.ndarray:
        own = "texts" if name.startswith(("ir_", "texts")) else "n"
        count = sum(other.columns[own].sum() for other in parts) / len(parts)
        return part.columns[name] * count / part.columns[own].sum()

    return replace(
        first,
        numbers=np.concatenate([part.numbers + edge for part, edge in zip(parts, edges[:-1], strict=True)]),
        columns={name: np.concatenate([column(part, name) for part in parts]) for name in first.columns},
        score=np.concatenate([part.score for part in parts]),
        wrong=np.concatenate([part.wrong for part in parts]),
        keys=[key for part in parts for key in part.keys],
        expected=[text for part in parts for text in part.expected],
        said=[text for part in parts for text in part.said],
    )
