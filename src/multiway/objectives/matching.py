"""Image-text matching (ITM): do this picture and this text belong together?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@torch.no_grad()
def hard_negatives(
    similarity: Float[Tensor, "B N"],
    forbidden: Bool[Tensor, "B N"],
    *,
    generator: torch.Generator | None = None,
    hardest: bool = False,
) -> Int[Tensor, " B"]:
    """One negative a row, drawn from softmax(similarity) over the allowed columns (ALBEF, section 3.2).

    The draw is made in log space (Gumbel's maximum), so a saturated softmax can't leave a row without weight,
    where the official code stops with "invalid multinomial distribution".

    Args:
        similarity: ITC similarities over temperature.
        forbidden: True where the column is a positive of the row.
        hardest: take the most similar one instead of drawing.

    Returns:
        Column indices; -1 where every column is forbidden, so that the row has no negative.
    """
    scores = similarity.float()
    if not hardest:
        uniform = torch.rand(scores.shape, generator=generator, device=scores.device)
        scores = scores - torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))
    index = scores.masked_fill(forbidden, float("-inf")).argmax(1)
    return index.masked_fill(forbidden.all(1), -1)


def itm(logits: Float[Tensor, "P 2"], labels: Int[Tensor, " P"]) -> Float[Tensor, ""]:
    """Cross-entropy of matched (1) against not (0), mean over the pairs; label -100 leaves a pair out."""
    return F.cross_entropy(logits, labels)
