"""CLIP's contrast of this rank's pairs with the pairs of all ranks, CoCa's and BEiT-3's too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from multiway.batch import Batch
from multiway.core.gather import Gradient, gather, rank
from multiway.objectives import contrastive

MAX_SCALE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """What a system that contrasts as CLIP does has in its config.

    Attributes:
        logit_scale: initial value, a logarithm; CLIP and CoCa clamp it to 0..ln 100.
        positives: `pair`: only a picture's own text; `ids`: all rows with equal `batch.ids`.
        negatives: candidates from all ranks' batches, or from this rank's.
        local_loss: this rank's rows against all columns; else the whole matrix on every rank.
        gradient: what gathered rows carry: "sum" equals one process with the whole batch (`core.gather`).
    """

    logit_scale: float = math.log(1 / 0.07)
    positives: Literal["pair", "ids"] = "pair"
    negatives: Literal["local", "global"] = "global"
    local_loss: bool = True
    gradient: Gradient = "sum"


def contrast(
    config: ContrastConfig,
    batch: Batch,
    image: Float[Tensor, "B E"],
    text: Float[Tensor, "B E"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The symmetric cross-entropy of this rank's normalised features (`objectives.contrastive.clip_loss`).

    Args:
        batch: asked for its `ids` where they say what is a positive.
        logit_scale: a logarithm.
    """
    wide = config.negatives == "global"
    # The candidates, and where this rank's rows lie among them.
    images, texts = (gather(x, config.gradient) for x in (image, text)) if wide else (image, text)
    first, positive = rank() * len(image) if wide else 0, None
    if config.positives == "ids":
        ids = batch.need("ids")
        candidates = gather(ids, "none") if wide else ids
        positive = contrastive.positives(ids if config.local_loss else candidates, candidates)
    if not config.local_loss:
        image, text, first = images, texts, 0
    return contrastive.clip_loss(
        image, text, logit_scale.exp(), all_images=images, all_texts=texts, first=first, positive=positive
    )
