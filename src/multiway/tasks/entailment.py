"""Visual entailment: does a picture make a sentence true, false, or neither?

shuffled   the same with another sample's picture: what knows of no picture scores so
majority   always saying the most frequent label
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multiway.data.sentences import Sentences
from multiway.metrics import classification as metrics
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes, of_choices
from multiway.tasks.predictions import Measurement, Predictions, measured, predict
from multiway.tasks.two_stage import Progress, silent
from multiway.tasks.upload import name_of, write_table


def evaluate(model: System, data: Sentences, *, batch_size: int = 32) -> dict[str, Any]:
    """Accuracy in percent, without controls: what a validation needs.

    Raises:
        UserError: no sample can be used, or the model has no head for labels.
    """
    return _scores(predict(model, data, batch_size=batch_size), data)


def measure(
    model: System,
    data: Sentences,
    *,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """Accuracy in percent, beside the controls.

    Args:
        predictions: the file to write, of labels (`upload`); then labels may be unknown.

    Returns:
        `n`, `accuracy` with its `interval` (bootstrap over pictures), `by_label` (the share that is right of
        each label), `majority`, and under `shuffled` accuracy and interval with other samples' pictures.
        Without known labels `n` alone.

    Raises:
        UserError: no sample can be used, the model has no head for labels, or no label is known and no
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


def upload(said: Predictions, data: Sentences, path: str | Path) -> None:
    """Write `pairID` (the key, where the data has none) and `label`: a .csv, else an object a line."""
    write_table(
        path,
        [
            {"pairID": name_of(data.meta(i), ("pairID",), data.key(i)), "label": data.labels[choice]}
            for i, choice in said.choices
        ],
    )


def _outcomes(known: Predictions, data: Sentences) -> Outcomes:
    numbers = known.numbers.tolist()
    return of_choices(
        known.logits,
        known.labels,
        data.labels,
        {"accuracy": known.right},
        numbers=known.numbers,
        keys=[data.key(i) for i in numbers],
        main="accuracy",
        groups=[data.picture(i) for i in numbers],
        asked=[data.texts(i)[0] for i in numbers],
    )


def _scores(found: Predictions, data: Sentences) -> dict[str, Any]:
    right, labels = found.right, found.labels
    pictures = [data.picture(i) for i in found.numbers.tolist()]
    shares = {name: right[labels == number] for number, name in enumerate(data.labels)}
    return {
        "n": len(right),
        "accuracy": 100 * float(right.mean()),
        "interval": metrics.rounded(metrics.bootstrap(right, pictures)),
        "by_label": {name: 100 * float(own.mean()) for name, own in shares.items() if len(own)},
    }
