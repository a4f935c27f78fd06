"""Image-text matching (ITM): do this picture and this text belong together?"""

from __future__ import annotations

from typing import NamedTuple

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


class Pairs(NamedTuple):
    """P = 3B pairs: texts with their pictures, texts with negative pictures, negative texts with pictures."""

    text: Int[Tensor, " P"]
    """The row of each pair's text."""
    image: Int[Tensor, " P"]
    """The row of each pair's picture."""
    labels: Int[Tensor, " P"]
    """1 = belong together, 0 = do not; -100 where there was no negative."""


def pairs(
    own: Int[Tensor, " B"], negative_text: Int[Tensor, " B"], negative_image: Int[Tensor, " B"]
) -> Pairs:
    """What ITM is asked: B positives and 2B hard negatives (ALBEF, section 3.2).

    Args:
        own: the row of each sample's own text and picture.
        negative_text, negative_image: from `hard_negatives`; for -1 the own one stands in, unlabelled.
    """
    text = negative_text.where(negative_text >= 0, own)
    image = negative_image.where(negative_image >= 0, own)
    negatives = torch.cat([negative_image, negative_text])
    labels = torch.cat([torch.ones_like(own), torch.where(negatives < 0, -100, 0)])
    return Pairs(torch.cat([own, own, text]), torch.cat([own, image, own]), labels)


def itm(logits: Float[Tensor, "P 2"], labels: Int[Tensor, " P"]) -> Float[Tensor, ""]:
    """Cross-entropy of matched (1) against not (0), mean over the pairs; label -100 leaves a pair out."""
    return F.cross_entropy(logits, labels)
