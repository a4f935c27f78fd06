"""Reasoning about two pictures: how often a model says rightly whether a sentence is true of both.

shuffled   the same with another pair's pictures: what knows of no picture scores so
majority   always saying the more frequent answer
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from multiway.data.two_pictures import PicturePairs
from multiway.metrics import classification as metrics
from multiway.metrics.resample import wilson
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes, of_choices
from multiway.tasks.predictions import Measurement, Predictions, measured, predict
from multiway.tasks.two_stage import Progress, silent
from multiway.tasks.upload import name_of, write_csv


def evaluate(model: System, data: PicturePairs, *, batch_size: int = 32) -> dict[str, Any]:
    """Accuracy in percent, without controls: what a validation needs.

    Raises:
        UserError: no pair can be used, or the model has no head for two pictures.
    """
    return _scores(predict(model, data, batch_size=batch_size), data)


def measure(
    model: System,
    data: PicturePairs,
    *,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """Accuracy in percent with its intervals, beside the controls.

    Args:
        predictions: the file to write, as NLVR2's evaluation reads it (`upload`); then labels may be unknown.

    Returns:
        `n`, `accuracy`, `interval` (Wilson: every pair for itself), `n_sentences`, `sentence_interval`
        (bootstrap over sentences, of which each has several pairs; None where none has), `consistency` (the
        sentences right for all their pairs), `majority`, and under `shuffled` accuracy and interval with
        other pairs' pictures. Without known labels `n` alone.

    Raises:
        UserError: no pair can be used, the model has no head for two pictures, or no label is known and no
            predictions are to be written.
    """
    return measured(
        model,
        data,
        scores=lambda found: _scores(found, data),
        outcomes=lambda known: _outcomes(known, data),
        upload=upload,
        main="accuracy",
        predictions=predictions,
        batch_size=batch_size,
        progress=progress,
    )


def upload(said: Predictions, data: PicturePairs, path: str | Path) -> None:
    """Write what NLVR2's own evaluation reads: `identifier,True` or `identifier,False` a line, no header.

    Pairs of other data have their key in place of NLVR2's identifier.
    """
    rows = [(name_of(data.meta(i), ("identifier",), data.key(i)), data.labels[c]) for i, c in said.choices]
    write_csv(path, rows)


def _outcomes(known: Predictions, data: PicturePairs) -> Outcomes:
    numbers = known.numbers.tolist()
    sentences = [data.texts(i)[0] for i in numbers]
    return of_choices(
        known.logits,
        known.labels,
        data.labels,
        {"accuracy": known.right},
        numbers=known.numbers,
        keys=[data.key(i) for i in numbers],
        main="accuracy",
        groups=sentences,
        asked=sentences,
    )


def _scores(found: Predictions, data: PicturePairs) -> dict[str, Any]:
    right, sentences = found.right, [data.texts(i)[0] for i in found.numbers.tolist()]
    low, high = wilson(int(right.sum()), len(right))
    several = len(set(sentences)) < len(sentences)
    return {
        "n": len(right),
        "accuracy": 100 * float(right.mean()),
        "interval": np.round([100 * low, 100 * high], 2).tolist(),
        "n_sentences": len(set(sentences)),
        "sentence_interval": metrics.rounded(metrics.bootstrap(right, sentences)) if several else None,
        "consistency": 100 * metrics.consistency(right, sentences),
    }
