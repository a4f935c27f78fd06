"""Filters by a model in memory: a system of ours, or an open_clip-style dual encoder of anyone's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from multiway.bootstrap.config import MATCHED
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks.two_stage import NOTHING_TO_COMPARE, encode_pictures, encode_words, evaluating


@dataclass(frozen=True)
class ModelFilter:
    """P(match) in 0..1 of the ITM head; of a system without one, ITC's cosine in -1..1.

    Raises:
        UserError: the system has neither.
    """

    model: System

    def __post_init__(self):
        if not (self.model.has_itm or self.model.has_itc):
            raise UserError(NOTHING_TO_COMPARE.format(type(self.model).__name__))

    @property
    def threshold(self) -> float | None:
        return MATCHED if self.model.has_itm else None

    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        flat, rows = _flatten(texts)
        if not flat:
            return [[] for _ in pictures]
        with evaluating(self.model):
            features, context = encode_pictures(self.model, self.model.prepare(list(pictures)))
            ids, mask = self.model.tokenize(flat)
            text_features, hidden = encode_words(self.model, ids, mask)
            picture = torch.tensor(rows, device=features.device)
            if context is None:
                found = (features[picture] * text_features).sum(-1)
            else:
                found = (
                    self.model.match_pairs(context.select(picture), hidden, mask).float().softmax(-1)[:, 1]
                )
        return _unflatten(found.tolist(), texts)


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
