"""Reasoning about two pictures: how often a model says rightly whether a sentence is true of both.

shuffled   the same with another pair's pictures: what knows of no picture scores so
majority   always saying the more frequent answer
"""

from __future__ import annotations

from typing import Any

import numpy as np

from multiway.data.two_pictures import PicturePairs
from multiway.metrics import classification as metrics
from multiway.systems.base import System
from multiway.tasks.outcomes import of_choices
from multiway.tasks.predictions import Measurement, Predictions, own_and_shuffled, predict
from multiway.tasks.two_stage import Progress, silent


def evaluate(model: System, data: PicturePairs, *, batch_size: int = 32) -> dict[str, Any]:
    """Accuracy in percent, without controls: what a validation needs.

    Raises:
        UserError: no pair can be used, or the model has no head for two pictures.
    """
    return _scores(predict(model, data, batch_size=batch_size), data)


def measure(
    model: System, data: PicturePairs, *, batch_size: int = 32, progress: Progress = silent
) -> Measurement:
    """Accuracy in percent with its intervals, beside the controls.

    Returns:
        `n`, `accuracy`, `interval` (Wilson: every pair for itself), `n_sentences`, `sentence_interval`
        (bootstrap over sentences, of which each has several pairs; None where none has), `consistency` (the
        sentences right for all their pairs), `majority`, and under `shuffled` accuracy and interval with
        other pairs' pictures.

    Raises:
        UserError: no pair can be used, or the model has no head for two pictures.
    """
    own, shuffled, seconds = own_and_shuffled(model, data, batch_size=batch_size, progress=progress)
    result = _scores(own, data)
    result["majority"] = 100 * metrics.majority(own.labels)
    result["shuffled"] = {name: _scores(shuffled, data)[name] for name in ("accuracy", "interval")}
    numbers = own.numbers.tolist()
    sentences = [data.texts(i)[0] for i in numbers]
    outcomes = of_choices(
        own.logits,
        own.labels,
        data.labels,
        {"accuracy": own.right},
        numbers=own.numbers,
        keys=[data.key(i) for i in numbers],
        main="accuracy",
        groups=sentences,
        asked=sentences,
    )
    return Measurement(result=result, seconds=seconds, skipped=own.skipped, outcomes=outcomes)


def _scores(found: Predictions, data: PicturePairs) -> dict[str, Any]:
    right, sentences = found.right, [data.texts(i)[0] for i in found.numbers.tolist()]
    several = len(set(sentences)) < len(sentences)
    return {
        "n": len(right),
        "accuracy": 100 * float(right.mean()),
        "interval": _percent(metrics.wilson(int(right.sum()), len(right))),
        "n_sentences": len(set(sentences)),
        "sentence_interval": _percent(metrics.bootstrap(right, sentences)) if several else None,
        "consistency": 100 * metrics.consistency(right, sentences),
    }


def _percent(interval: tuple[float, float]) -> list[float]:
    return np.round(100 * np.array(interval), 2).tolist()
