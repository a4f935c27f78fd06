"""Captions learned by masking: which word was here, after the picture and the words before it (BEiT-3)?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def smoothed_divergence(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, " M"], *, smoothing: float = 0.0
) -> Float[Tensor, " M"]:
    """KL(q || p) of each masked word; q has 1 - e at the target and e / (V - 1) at each other word.

    The target is left out of what is smoothed over, and the entropy of q stays in the value, so that 0 is
    reached. Source: beit3 utils.py, `BertCaptioningLoss`.
    """
    others = logits.shape[1] - 1
    log_p = F.log_softmax(logits.float(), dim=1)  # autocast on CPUs leaves bf16 as it is
    target = log_p.gather(1, targets[:, None])[:, 0]
    if smoothing == 0:
        return -target
    rest = log_p.sum(1) - target
    entropy = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(smoothing / others)
    return entropy - (1 - smoothing) * target - smoothing / others * rest


def masked_caption(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, " M"],
    *,
    smoothing: float = 0.0,
    drop_worst: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean of `smoothed_divergence` over the masked words, those of highest loss left out.

    Args:
        logits: of the masked words only.
        drop_worst: share in 0..1 that is left out; at least one word is kept.
    """
    losses = smoothed_divergence(logits, targets, smoothing=smoothing)
    if drop_worst:
        losses = torch.topk(losses, max(int(len(losses) * (1 - drop_worst)), 1), largest=False).values
    return losses.sum() / max(len(losses), 1)
