"""Image-text contrast (ITC): which text belongs to this picture, and which picture to this text?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def similarity(own: Float[Tensor, "B E"], others: Float[Tensor, "N E"]) -> Float[Tensor, "B N"]:
    """Inner products, in fp32 also under autocast: bf16 would round logits at scale 100 to halves."""
    wide = torch.promote_types(own.dtype, torch.float32)
    with torch.autocast(own.device.type, enabled=False):
        return own.to(wide) @ others.to(wide).T


def positives(ids: Int[Tensor, " B"], candidates: Int[Tensor, " N"]) -> Bool[Tensor, "B N"]:
    """Which candidates are positives of each row: equal ids."""
    return ids[:, None] == candidates[None, :]


def soft_cross_entropy(
    logits: Float[Tensor, "B N"], positive: Bool[Tensor, "B N"] | None = None
) -> Float[Tensor, " B"]:
    """-sum_j y_j log softmax(logits)_j a row, with y uniform over the row's positives.

    Without `positive`, candidate b is row b's only one.
    Source: ALBEF models/model_retrieval.py (`sim_targets = pos_idx / pos_idx.sum(1)`).
    """
    if positive is None:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
    log_p = logits.log_softmax(1)
    return -(log_p * positive).sum(1) / positive.sum(1)


def distillation(logits: Float[Tensor, "B N"], teacher_logits: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """-sum_j softmax(teacher)_j log softmax(logits)_j a row; the teacher carries no gradient (ALBEF, eq. 6).

    The teacher may be the momentum encoder or a fixed one: any similarities on the same candidates.
    """
    return -(teacher_logits.detach().softmax(1) * logits.log_softmax(1)).sum(1)


def itc(
    image_to_text: Float[Tensor, "B N"],
    text_to_image: Float[Tensor, "B N"],
    *,
    positive: Bool[Tensor, "B N"] | None = None,
    teacher: tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]] | None = None,
    alpha: float | Tensor = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Contrast in both directions, each `(1 - alpha) CE(logits, positives) + alpha CE(logits, teacher)`.

    Batch means. This equals the official CE against `alpha * softmax(teacher) + (1 - alpha) * onehot` (ALBEF,
    eq. 1 and 6), without forming the targets over the whole queue.

    Args:
        image_to_text, text_to_image: similarities over temperature; columns are the candidates: batch, then
            queue.
        positive: see `soft_cross_entropy`; symmetric in the batch part, so one serves both directions.
        teacher: the momentum model's similarities over temperature, in the same order.
        alpha: weight of the teacher in 0..1.
    """
    losses = []
    for direction, logits in enumerate((image_to_text, text_to_image)):
        loss = soft_cross_entropy(logits, positive)
        if teacher is not None:
            loss = torch.lerp(loss, distillation(logits, teacher[direction]), torch.as_tensor(alpha).to(loss))
        losses.append(loss.mean())
    return losses[0], losses[1]


def clip_loss(
    image_features: Float[Tensor, "B E"],
    text_features: Float[Tensor, "B E"],
    scale: Float[Tensor, ""],
    *,
    all_images: Float[Tensor, "N E"] | None = None,
    all_texts: Float[Tensor, "N E"] | None = None,
    first: int = 0,
    positive: Bool[Tensor, "B N"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy: (CE(s I T^t) + CE(s T I^t)) / 2, mean over the B rows (CLIP, figure 3).

    Args:
        image_features, text_features: normalised features; row b of one belongs to row b of the other.
        scale: exp(logit_scale).
        all_images, all_texts: the candidates when they are more than the rows (gathered from all ranks).
        first: the candidate that row 0 belongs to: rank * B.
        positive: candidates that belong to each row; None: only candidate `first + b`.
    """
    all_images = image_features if all_images is None else all_images
    all_texts = text_features if all_texts is None else all_texts
    target = torch.arange(first, first + len(image_features), device=image_features.device)
    losses = []
    for own, others in ((image_features, all_texts), (text_features, all_images)):
        logits = similarity(scale * own, others)
        rows = (
            F.cross_entropy(logits, target)
            if positive is None
            else soft_cross_entropy(logits, positive).mean()
        )
        losses.append(rows)
    return (losses[0] + losses[1]) / 2
