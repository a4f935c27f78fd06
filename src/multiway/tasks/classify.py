"""Which class does a picture belong to? Top-1 and top-5, beside the most frequent class and a control.

shuffled   the same with another sample's picture: what knows of no picture scores so
"""

from __future__ import annotations

from typing import Any

import numpy as np

from multiway.data.labelled import LabelledPictures
from multiway.metrics import classification as metrics
from multiway.systems.base import System
from multiway.tasks.outcomes import of_choices
from multiway.tasks.predictions import Measurement, Predictions, own_and_shuffled, predict
from multiway.tasks.two_stage import Progress, silent


def evaluate(model: System, data: LabelledPictures, *, batch_size: int = 32) -> dict[str, Any]:
    """Top-1 and top-5 in percent, without controls: what a validation needs.

    Raises:
        UserError: no picture can be used, or the model has no head for classes.
    """
    return scores(predict(model, data, batch_size=batch_size))


def measure(
    model: System, data: LabelledPictures, *, batch_size: int = 32, progress: Progress = silent
) -> Measurement:
    """Shares of right classes in percent, beside the controls.

    Returns:
        `n`, `n_classes` (that the model knows), `top1` with its `interval` (Wilson), `top5`, `balanced` (the
        mean over the classes of top-1), `majority`, and under `shuffled` top1 and interval with other
        samples' pictures.

    Raises:
        UserError: no picture can be used, or the model has no head for classes.
    """
    own, shuffled, seconds = own_and_shuffled(model, data, batch_size=batch_size, progress=progress)
    result = scores(own)
    result["majority"] = 100 * metrics.majority(own.labels)
    result["shuffled"] = {name: scores(shuffled)[name] for name in ("top1", "interval")}
    outcomes = of_choices(
        own.logits,
        own.labels,
        data.labels,
        {f"top{k}": metrics.in_top(own.logits, own.labels, k) for k in (1, 5)},
        numbers=own.numbers,
        keys=[data.key(i) for i in own.numbers.tolist()],
        main="top1",
    )
    return Measurement(result=result, seconds=seconds, skipped=own.skipped, outcomes=outcomes)


def scores(found: Predictions) -> dict[str, Any]:
    """What logits and labels alone tell, in percent."""
    right = metrics.in_top(found.logits, found.labels, 1)
    low, high = metrics.wilson(int(right.sum()), len(right))
    return {
        "n": len(right),
        "n_classes": found.logits.shape[1],
        "top1": 100 * float(right.mean()),
        "interval": np.round([100 * low, 100 * high], 2).tolist(),
        "top5": 100 * float(metrics.in_top(found.logits, found.labels, 5).mean()),
        "balanced": 100 * metrics.balanced(right, found.labels),
    }
