"""Which of some classes is it? One alone, several by shares, or also as a teacher sees it."""

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


def one_of(
    logits: Float[Tensor, "B K"],
    labels: Int[Tensor, " B"] | None,
    shares: Float[Tensor, "B K"] | None = None,
    *,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of one class a sample, or of its shares of several; a mean over the batch.

    Args:
        shares: what each sample has of the classes, in sum 1 (mixup, cutmix); None: all is of `labels`.
        smoothing: the share of every target that is spread over all classes.

    Raises:
        ValueError: neither is given.
    """
    target = labels if shares is None else shares
    if target is None:
        raise ValueError("classification needs a batch's labels or their shares (batch.targets)")
    return F.cross_entropy(logits, target, label_smoothing=smoothing)
