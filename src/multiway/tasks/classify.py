"""Which class does a picture belong to? Top-1 and top-5, beside the most frequent class and a control.

shuffled   the same with another sample's picture: what knows of no picture scores so
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from multiway.data.labelled import LabelledPictures
from multiway.metrics import classification as metrics
from multiway.metrics.resample import wilson
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes, of_choices
from multiway.tasks.predictions import Measurement, Predictions, measured, predict
from multiway.tasks.two_stage import Progress, silent
from multiway.tasks.upload import write_csv


def evaluate(model: System, data: LabelledPictures, *, batch_size: int = 32) -> dict[str, Any]:
    """Top-1 and top-5 in percent, without controls: what a validation needs.

    Raises:
        UserError: no picture can be used, or the model has no head for classes.
    """
    return scores(predict(model, data, batch_size=batch_size))


def measure(
    model: System,
    data: LabelledPictures,
    *,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """Shares of right classes in percent, beside the controls.

    Args:
        predictions: the file to write, of classes (`upload`); then labels may be unknown.

    Returns:
        `n`, `n_classes` (that the model knows), `top1` with its `interval` (Wilson), `top5`, `balanced` (the
        mean over the classes of top-1), `majority`, and under `shuffled` top1 and interval with other
        samples' pictures. Without known classes `n` alone.

    Raises:
        UserError: no picture can be used, the model has no head for classes, or no label is known and no
            predictions are to be written.
    """
    return measured(
        model,
        data,
        scores=scores,
        outcomes=lambda known: _outcomes(known, data),
        upload=upload,
        main="top1",
        predictions=predictions,
        batch_size=batch_size,
        progress=progress,
    )


def upload(said: Predictions, data: LabelledPictures, path: str | Path) -> None:
    """Write a csv of `key` and `label`, the name of the class."""
    rows = ((data.key(i), data.labels[choice]) for i, choice in said.choices)
    write_csv(path, [("key", "label"), *rows])


def _outcomes(known: Predictions, data: LabelledPictures) -> Outcomes:
    return of_choices(
        known.logits,
        known.labels,
        data.labels,
        {f"top{k}": metrics.in_top(known.logits, known.labels, k) for k in (1, 5)},
        numbers=known.numbers,
        keys=[data.key(i) for i in known.numbers.tolist()],
        main="top1",
    )


def scores(found: Predictions) -> dict[str, Any]:
    """What logits and labels alone tell, in percent."""
    right = metrics.in_top(found.logits, found.labels, 1)
    low, high = wilson(int(right.sum()), len(right))
    return {
        "n": len(right),
        "n_classes": found.logits.shape[1],
        "top1": 100 * float(right.mean()),
        "interval": np.round([100 * low, 100 * high], 2).tolist(),
        "top5": 100 * float(metrics.in_top(found.logits, found.labels, 5).mean()),
        "balanced": 100 * metrics.balanced(right, found.labels),
    }
