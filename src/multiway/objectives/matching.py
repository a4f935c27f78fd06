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
    count: int = 1,
) -> Int[Tensor, "B K"]:
    """K negatives a row, drawn from softmax(similarity) over the allowed columns (ALBEF, section 3.2).

    The draw is made in log space (Gumbel's maximum), so a saturated softmax can't leave a row without weight,
    where the official code stops with "invalid multinomial distribution". Several are drawn without
    replacement.

    Args:
        similarity: ITC similarities over temperature.
        forbidden: True where the column is a positive of the row.
        hardest: take the most similar ones instead of drawing.
        count: K.

    Returns:
        Column indices; -1 where the row has no further column that is allowed.
    """
    scores = similarity.float()
    if not hardest:
        uniform = torch.rand(scores.shape, generator=generator, device=scores.device)
        scores = scores - torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))
    found = scores.masked_fill(forbidden, float("-inf")).topk(min(count, scores.shape[1]), dim=1)
    return found.indices.masked_fill(found.values == float("-inf"), -1)


class Pairs(NamedTuple):
    """P = (1 + 2K) B pairs: texts with their pictures, with K negative pictures; K negative texts each."""

    text: Int[Tensor, " P"]
    """The row of each pair's text."""
    image: Int[Tensor, " P"]
    """The row of each pair's picture."""
    labels: Int[Tensor, " P"]
    """1 = belong together, 0 = do not; -100 where there was no negative."""


def pairs(
    own: Int[Tensor, " B"], negative_text: Int[Tensor, "B K"], negative_image: Int[Tensor, "B K"]
) -> Pairs:
    """What ITM is asked: B positives and 2KB hard negatives; K is 1 in ALBEF, section 3.2.

    Args:
        own: the row of each sample's own text and picture.
        negative_text, negative_image: from `hard_negatives`; for -1 the own one stands in, unlabelled.
    """
    negatives = torch.cat([negative_image.T.flatten(), negative_text.T.flatten()])
    labels = torch.cat([torch.ones_like(own), torch.where(negatives < 0, -100, 0)])
    repeated = own.repeat(negative_text.shape[1])
    image, text = negatives.where(negatives >= 0, repeated.repeat(2)).chunk(2)
    return Pairs(torch.cat([own, repeated, text]), torch.cat([own, image, repeated]), labels)


def itm(
    logits: Float[Tensor, "P 2"], labels: Int[Tensor, " P"], *, count: Tensor | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of matched (1) against not (0), mean over the pairs; label -100 leaves a pair out.

    Args:
        count: the normaliser when it is not this rank's labelled pairs: the all-rank mean number of them.
    """
    if count is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, reduction="sum") / count
