"""Filters: a model of ours, a dual encoder of anyone's, any Python function, or an HTTP address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from multiway.bootstrap import named
from multiway.bootstrap.captioner import load
from multiway.bootstrap.endpoint import Endpoint
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks.two_stage import evaluating

#: filter(pictures, texts of each picture) -> a score for each of these texts, higher where they fit better.
#: Where the function has no attribute `threshold`, its scores are taken for probabilities, and 0.5 for the
#: paper's.
Filter = Callable[[Sequence[Image.Image], Sequence[Sequence[str]]], list[list[float]]]

MATCHED = 0.5  # BLIP keeps what its ITM head calls matched


def open_filter(name: str, *, device: str = "auto") -> Filter:
    """The filter that `name` says: a model, `module:function`, or an http(s) address.

    Raises:
        UserError: there is none.
    """
    if named.is_address(name):
        return Endpoint(name).scores
    if named.is_function(name):
        return named.function(name)
    return from_model(load(name, device))


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


@dataclass(frozen=True)
class ModelFilter:
    """P(match) in 0..1 of the ITM head; of a system without one, ITC's cosine in -1..1."""

    model: System

    @property
    def threshold(self) -> float | None:
        return MATCHED if self.model.has_itm else None

    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        flat, rows = _flatten(texts)
        if not flat:
            return [[] for _ in pictures]
        with evaluating(self.model):
            features, context = self.model.image_context(self.model.prepare(list(pictures)))
            ids, mask = self.model.tokenize(flat)
            text_features, hidden = self.model.text_context(ids, mask)
            picture = torch.tensor(rows, device=features.device)
            if context is None:
                found = (features[picture] * text_features).sum(-1)
            else:
                found = (
                    self.model.match_pairs(context.select(picture), hidden, mask).float().softmax(-1)[:, 1]
                )
        return _unflatten(found.tolist(), texts)


def from_model(model: System) -> Filter:
    """A filter of a loaded system."""
    return ModelFilter(model)


@dataclass(frozen=True)
class DualEncoderFilter:
    """Cosine similarity by an open_clip-style dual encoder.

    Attributes:
        model: has `encode_image(pixels)` and `encode_text(ids)`, both `[B, E]`, normalised or not.
        preprocess: a PIL picture to its pixels `[3, H, W]`. tokenize: a list of texts to their ids.
    """

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: str = "cpu"
    threshold: float | None = None

    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        flat, rows = _flatten(texts)
        if not flat:
            return [[] for _ in pictures]
        with torch.inference_mode():
            pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
            image = torch.nn.functional.normalize(self.model.encode_image(pixels).float(), dim=-1)
            text = self.model.encode_text(self.tokenize(flat).to(self.device)).float()
            found = (image[rows] * torch.nn.functional.normalize(text, dim=-1)).sum(-1)
        return _unflatten(found.tolist(), texts)


def _flatten(texts: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """All texts in a row, and the picture of each."""
    flat = [text for lines in texts for text in lines]
    return flat, [i for i, lines in enumerate(texts) for _ in lines]


def _unflatten(values: Sequence[float], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in lines] for lines in texts]
