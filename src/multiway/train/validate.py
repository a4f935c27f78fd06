"""Validation while training: measures by dotted name, and which model was the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train import optim, parallel
from multiway.train.run import TrainConfig

#: Measures a model in eval mode; every rank calls it and gets the same numbers.
Evaluate = Callable[[System], Mapping[str, Any]]


def check(config: TrainConfig, evaluate: object) -> None:
    """Refuse to choose the best model by what nothing measures.

    Args:
        evaluate: what validates, or what it is measured on; None or empty: nothing.

    Raises:
        UserError: a metric is named, and there is no validation.
    """
    if config.best_metric is not None and not evaluate:
        raise UserError(f"train.best_metric is {config.best_metric}, but nothing is validated: name data.val")


def validate(system: System, evaluate: Evaluate, config: TrainConfig) -> dict[str, float]:
    """The measures of `evaluate`, nested ones by dotted names; the model is left in train mode."""
    system.eval()
    parallel.unshard(system)
    try:
        with torch.no_grad():
            return flat(evaluate(system))
    finally:
        optim.train_mode(system, config.freeze)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested measures by dotted names; what is not a number is left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found[prefix + name] = float(value)
    return found


def improves(values: dict[str, float], best: float | None, config: TrainConfig) -> float | None:
    """The value of `config.best_metric` if it is better than `best`, else None.

    Raises:
        UserError: the validation does not measure it.
    """
    metric = config.best_metric
    if metric is None:
        return None
    if metric not in values:
        raise UserError(
            f"train.best_metric is {metric!r}, and the validation measures {', '.join(values)}: name one"
        )
    value, sign = values[metric], 1 if config.best_mode == "max" else -1
    return value if math.isfinite(value) and (best is None or sign * value > sign * best) else None
