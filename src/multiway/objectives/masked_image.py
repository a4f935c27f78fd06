"""Masked image modelling: which visual token was here? And how such tokens are learned (VQ-KD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def mim(
    logits: Float[Tensor, "M K"], tokens: Int[Tensor, " M"], *, count: Tensor | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of the visual tokens at masked patches, a mean over all of them (BEiT, eq. 2).

    Args:
        logits, tokens: of the masked patches of all pictures, in order.
        count: the normaliser when it is not M: the all-rank mean number of masked patches.
    """
    loss = F.cross_entropy(logits, tokens, reduction="sum")
    return loss / (max(len(tokens), 1) if count is None else count.clamp_min(1e-6))


def accuracy(logits: Float[Tensor, "M K"], tokens: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Share in 0..1 of the tokens that are predicted; no loss, carries no gradient."""
    return (logits.detach().argmax(-1) == tokens).float().mean()


def cosine_reconstruction(
    features: Float[Tensor, "*P D"], target: Float[Tensor, "*P D"]
) -> Float[Tensor, ""]:
    """1 - cos(features, target), a mean over all patches: 0..2 (BEiT v2, eq. 2)."""
    return (1 - (_unit(features) * _unit(target)).sum(-1)).mean()


def commitment(z: Float[Tensor, "*P C"], codes: Float[Tensor, "*P C"]) -> Float[Tensor, ""]:
    """|z - sg(code)|^2, a mean over all elements: encoded patches stay near their codes (BEiT v2, eq. 2).

    Args:
        z: l2-normalised, as the codes are.
    """
    return F.mse_loss(z, codes.detach())


def straight_through(z: Float[Tensor, "*P C"], codes: Float[Tensor, "*P C"]) -> Float[Tensor, "*P C"]:
    """The codes' values with the gradient of `z`, as if quantising were the identity."""
    return z + (codes - z).detach()


def usage(counts: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """Share in 0..1 of the codes that were assigned at least once; no loss."""
    return (counts > 0).float().mean()


def _unit(x: Tensor) -> Tensor:
    # Not F.normalize, whose floor for the norm would change nothing here but hide a feature that is zero.
    return x / x.norm(dim=-1, keepdim=True)


def perplexity(counts: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """exp of the entropy of how often each code was assigned: 1 when one does it all, K when all do alike."""
    share = counts / counts.sum().clamp_min(1)
    return torch.special.entr(share).sum().exp()


def reconstruction(pred: Float[Tensor, "*P F"], target: Float[Tensor, "*P F"]) -> Float[Tensor, ""]:
    """Mean squared error of the pixels of removed patches (MAE, section 3, "Reconstruction target").

    Args:
        pred, target: of the removed patches alone, as many of each picture.
    """
    return F.mse_loss(pred, target)


def normalised_patches(
    patches: Float[Tensor, "B N F"],
) -> tuple[Float[Tensor, "B N F"], Float[Tensor, "B N 1"], Float[Tensor, "B N 1"]]:
    """Patches less their mean, over their deviation; and both (MAE, section 3).

    The variance is unbiased, and 1e-6 is added to it: recorded case mae/official.
    """
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation
