"""Ranges of numbers that mean the same wherever they stand in a run."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

from multiway.errors import UserError

#: Settings by their last names, wherever they stand: shares of which all is too much, shares, and factors
#: like the weights of losses.
DROPPED = ("dropout", "drop_path", "label_smoothing", "smoothing")
SHARES = (
    "mlm_probability",
    "image_mask",
    "text_mask",
    "pair_text_mask",
    "mask",
    "drop_worst",
    "alpha",
    "momentum",
    "probability",
    "max_bad_share",
)
FACTORS = ("mixup", "cutmix")


def check_numbers(config: Any, where: str) -> None:
    """Refuse what no system takes: a share outside of 0..1, a weight of a loss below 0.

    Raises:
        UserError: a setting in `config` or a part of it is one.
    """
    for last in (one.name for one in fields(config)) if is_dataclass(config) else ():
        name, value = f"{where}.{last}", getattr(config, last)
        check_numbers(value, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if last in DROPPED and not 0 <= value < 1:
            raise UserError(f"{name} is {value}: give a share from 0 to below 1")
        if last in SHARES and not 0 <= value <= 1:
            raise UserError(f"{name} is {value}: give a share from 0 to 1")
        if (last in FACTORS or last.endswith("_weight")) and not 0 <= value < math.inf:
            raise UserError(f"{name} is {value}: give a number of 0 or more")
