"""Which of some classes is it? Alone, or also as a teacher sees it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def classify(
    logits: Float[Tensor, "B K"],
    labels: Int[Tensor, " B"],
    *,
    teacher_logits: Float[Tensor, "B K"] | None = None,
    alpha: float | Tensor = 0.0,
) -> Float[Tensor, ""]:
    """`(1 - alpha) CE(logits, labels) + alpha CE(logits, softmax(teacher))`, means over the batch.

    Source: ALBEF models/model_nlvr.py and model_ve.py.
    """
    hard = F.cross_entropy(logits, labels)
    if teacher_logits is None:
        return hard
    soft = F.cross_entropy(logits, teacher_logits.softmax(1))
    return ((1 - alpha) * hard + alpha * soft).to(hard.dtype)  # alpha may be a tensor of higher precision
