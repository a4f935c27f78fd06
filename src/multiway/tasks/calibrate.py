"""What probability a match has: fitted on gold pairs, and its error on pairs that did not fit it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from multiway.data import files
from multiway.data.gold import GoldPairs
from multiway.errors import UserError
from multiway.metrics.calibration import LEAST, Calibration, Method, ece, fit, folds, held_out, sigmoid
from multiway.systems.base import System
from multiway.tasks.match import match
from multiway.tasks.two_stage import Progress, silent
from multiway.weights.folder import CALIBRATION


def calibrate(
    model: System,
    pairs: GoldPairs,
    *,
    method: Method = "platt",
    batch_size: int = 32,
    progress: Progress = silent,
) -> Calibration:
    """The calibration of a model on gold pairs; what it had before does not count.

    Raises:
        UserError: fewer than ten pairs of either label, or all of one label are of pictures that are held
            back together.
    """
    labels = np.array(pairs.labels)
    if min(labels.sum(), (~labels).sum()) < LEAST:
        raise UserError(
            f"{pairs.path} has {labels.sum()} matching and {(~labels).sum()} other pairs: label at least "
            f"{LEAST} of each, better some hundreds"
        )
    fold = folds(pairs.keys)
    if any(len(np.unique(labels[fold != number])) < 2 for number in np.unique(fold)):
        raise UserError(
            f"{pairs.path} labels too few pictures ({len(set(pairs.keys)):,}) to hold some back from the "
            "fit: label pairs of more pictures, of each both kinds"
        )
    found = []
    for start in range(0, len(pairs), batch_size):
        part = range(start, min(start + batch_size, len(pairs)))
        found += match(model, [pairs.image(i) for i in part], [pairs.texts[i] for i in part])
        progress("pairs", len(found), len(pairs))
    itm = found[0].margin is not None
    scores = np.array([pair.cosine if pair.margin is None else pair.margin for pair in found], np.float64)
    scale, bias = fit(scores, labels, method)
    return Calibration(
        score="itm" if itm else "cosine",
        scale=scale,
        bias=bias,
        method=method,
        pairs=len(pairs),
        ece_before=ece(sigmoid(scores), labels) if itm else None,  # a cosine is no probability
        ece_after=ece(held_out(scores, labels, pairs.keys, method), labels),
    )


def save(calibration: Calibration, folder: Path) -> Path:
    """Put it into a model folder, where `multiway.load` finds it.

    Raises:
        UserError: it is no model folder of ours.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model folder: `multiway convert` makes one of a checkpoint")
    files.write(folder / CALIBRATION, json.dumps(asdict(calibration), indent=1) + "\n")
    return folder / CALIBRATION
