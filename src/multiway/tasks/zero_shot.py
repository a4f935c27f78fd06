"""Which class does a picture belong to, by the names of the classes alone (CLIP, section 3.1)?

    class name -> prompts "a photo of a {}." -> text features, their mean -> cosine with the picture's feature

Any system with contrastive features can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from multiway.batch import Batch
from multiway.data.labelled import LabelledPictures
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks import classify
from multiway.tasks.predictions import Measurement
from multiway.tasks.two_stage import Progress, silent

#: What a name is put into where nothing else is said; features of all of them are averaged.
TEMPLATES = ("{}", "a photo of a {}.", "a picture of a {}.", "a drawing of a {}.")
#: Multiplies cosines where the model has learned no scale: the order of classes does not depend on it.
SCALE = 100.0


class ZeroShot(System):
    """A model as a classifier of named classes; `predict` gives their cosines, scaled.

    Args:
        classes: names; underscores are read as blanks.
        templates: prompts, each with one `{}`.

    Raises:
        UserError: no class, a template without its place, or a model without contrastive features.
    """

    def __init__(self, model: System, classes: Sequence[str], templates: Sequence[str] = TEMPLATES):
        super().__init__()
        if not classes:
            raise UserError("zero-shot classification needs the names of classes: give some")
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(f"the template {template!r} has no place for a name: write {{}} once")
        if not model.has_text:
            raise UserError(f"{type(model).__name__} reads no texts: take a model trained with ITC")
        self.model, self.config = model, model.config
        self.image_size, self.image_mean, self.image_std = model.image_size, model.image_mean, model.image_std
        self.scale = _scale(model)
        self.labels = tuple(classes)
        names = [name.replace("_", " ") for name in classes]
        self.features = class_features(model, names, templates)

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        with torch.inference_mode():
            return self.scale * self.model.image_context(batch.need("image"))[0] @ self.features.T


def _scale(model: System) -> float:
    """What the model learned to multiply cosines by: CLIP as a logarithm, ALBEF and BLIP as a divisor."""
    scale: Any = getattr(model, "logit_scale", None)
    temperature: Any = getattr(model, "temperature", None)
    if scale is not None:
        return float(scale.detach().exp())
    return SCALE if temperature is None else 1 / float(temperature.detach())


def class_features(model: System, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
    """The normalised mean of the features of each name's prompts."""
    rows = [
        model.encode_text([template.replace("{}", name) for template in templates]).mean(0) for name in names
    ]
    return F.normalize(torch.stack(rows), dim=-1)


def measure(
    model: System,
    data: LabelledPictures,
    *,
    templates: Sequence[str] = TEMPLATES,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """As `classify.measure`, of classes that are the data's."""
    asked = ZeroShot(model, data.labels, templates)
    return classify.measure(asked, data, predictions=predictions, batch_size=batch_size, progress=progress)
