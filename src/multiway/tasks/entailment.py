"""Visual entailment: does a picture make a sentence true, false, or neither?

shuffled   the same with another sample's picture: what knows of no picture scores so
majority   always saying the most frequent label
"""

from __future__ import annotations

from typing import Any

import numpy as np

from multiway.data.sentences import Sentences
from multiway.metrics import classification as metrics
from multiway.systems.base import System
from multiway.tasks.outcomes import of_choices
from multiway.tasks.predictions import Measurement, Predictions, own_and_shuffled, predict
from multiway.tasks.two_stage import Progress, silent


def evaluate(model: System, data: Sentences, *, batch_size: int = 32) -> dict[str, Any]:
    """Accuracy in percent, without controls: what a validation needs.

    Raises:
        UserError: no sample can be used, or the model has no head for labels.
    """
    return _scores(predict(model, data, batch_size=batch_size), data)


def measure(
    model: System, data: Sentences, *, batch_size: int = 32, progress: Progress = silent
) -> Measurement:
    """Accuracy in percent, beside the controls.

    Returns:
        `n`, `accuracy` with its `interval` (bootstrap over pictures), `by_label` (the share that is right of
        each label), `majority`, and under `shuffled` accuracy and interval with other samples' pictures.

    Raises:
        UserError: no sample can be used, or the model has no head for labels.
    """
    own, shuffled, seconds = own_and_shuffled(model, data, batch_size=batch_size, progress=progress)
    result = _scores(own, data)
    result["majority"] = 100 * metrics.majority(own.labels)
    result["shuffled"] = {name: _scores(shuffled, data)[name] for name in ("accuracy", "interval")}
    numbers = own.numbers.tolist()
    outcomes = of_choices(
        own.logits,
        own.labels,
        data.labels,
        {"accuracy": own.right},
        numbers=own.numbers,
        keys=[data.key(i) for i in numbers],
        main="accuracy",
        groups=[data.picture(i) for i in numbers],
        asked=[data.texts(i)[0] for i in numbers],
    )
    return Measurement(result=result, seconds=seconds, skipped=own.skipped, outcomes=outcomes)


def _scores(found: Predictions, data: Sentences) -> dict[str, Any]:
    right, labels = found.right, found.labels
    low, high = metrics.bootstrap(right, [data.picture(i) for i in found.numbers.tolist()])
    shares = {name: right[labels == number] for number, name in enumerate(data.labels)}
    return {
        "n": len(right),
        "accuracy": 100 * float(right.mean()),
        "interval": np.round([100 * low, 100 * high], 2).tolist(),
        "by_label": {name: 100 * float(own.mean()) for name, own in shares.items() if len(own)},
    }
