"""Filters: a model (`filters.py`), any Python function, or an HTTP address."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from multiway.bootstrap import named
from multiway.bootstrap.captioner import load
from multiway.bootstrap.config import MATCHED
from multiway.bootstrap.endpoint import Endpoint
from multiway.errors import UserError

#: filter(pictures, texts of each picture) -> a score for each of these texts, higher where they fit better.
#: Where the function has no attribute `threshold`, its scores are taken for probabilities, and 0.5 for the
#: paper's.
Filter = Callable[[Sequence[Image.Image], Sequence[Sequence[str]]], list[list[float]]]


def open_filter(name: str, *, device: str = "auto") -> Filter:
    """The filter that `name` says: a model, `module:function`, or an http(s) address.

    Raises:
        UserError: there is none.
    """
    if named.is_address(name):
        return Endpoint(name).scores
    if named.is_function(name):
        return named.function(name)
    from multiway.bootstrap.filters import ModelFilter  # torch only where a model is asked for

    return ModelFilter(load(name, device))


def threshold_of(scores: Filter, given: float | None) -> float:
    """The threshold that was given, or the filter's own.

    Raises:
        UserError: a filter without a natural threshold, and none was given.
    """
    threshold = given if given is not None else getattr(scores, "threshold", MATCHED)
    if threshold is None:
        raise UserError(
            "this filter gives similarities, not probabilities, so that 0.5 means nothing: give --threshold, "
            "or --labelled with a few hundred judged pairs"
        )
    return float(threshold)
