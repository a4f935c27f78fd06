"""Word-patch alignment (WPA): how much does it cost to carry a text's words to a picture's patches?

Optimal transport, solved by the inexact proximal point method (IPOT; Xie et al. 2018, algorithm 1), as in
ViLT, section 3.2, and UNITER before it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

AWAY = 1e4  # what keeps the weight of padding near zero, and finite


class Transport(NamedTuple):
    """A plan of transport; rows and columns of padding are zero in plan and kernel."""

    plan: Float[Tensor, "B N T"]
    """How much of each word goes to each patch; all of it together is 1."""
    kernel: Float[Tensor, "B N T"]
    """exp(-cost / beta)."""
    scale: Float[Tensor, "B 1 T"]
    """The last factor of each word."""


class Alignment(NamedTuple):
    """Words and patches of B pairs, and what it costs to bring them together."""

    distance: Float[Tensor, " B"]
    cost: Float[Tensor, "B T N"]
    transport: Transport


def cosine_cost(
    words: Float[Tensor, "B T D"], patches: Float[Tensor, "B N D"], *, eps: float = 1e-5
) -> Float[Tensor, "B T N"]:
    """1 - cosine of every word and every patch; `eps` is the least length that a vector counts as."""
    words, patches = F.normalize(words, dim=-1, eps=eps), F.normalize(patches, dim=-1, eps=eps)
    return 1 - words @ patches.transpose(1, 2)


@torch.no_grad()
def ipot(
    cost: Float[Tensor, "B T N"],
    words: Bool[Tensor, "B T"],
    patches: Bool[Tensor, "B N"],
    *,
    beta: float = 0.5,
    iterations: int = 50,
) -> Transport:
    """The plan that carries equal shares of the words to equal shares of the patches at the least cost.

    All pairs at once. A pair without a word, or without a patch, has a plan of zeros.

    Args:
        words, patches: True where there is one. beta: step of the proximal point method.
        iterations: rounds of it, with one balancing of words and patches in each.
    """
    joint = patches[:, :, None] & words[:, None, :]
    kernel = torch.exp(-cost.transpose(1, 2) / beta).masked_fill(~joint, 0.0)
    word_count, word_away = _counted(words, joint, cost)
    patch_count, patch_away = _counted(patches, joint, cost)
    scale = words.to(cost)[:, None, :] / word_count.clamp_min(1)
    plan, mixed = joint.to(cost), torch.empty_like(kernel)
    for _ in range(iterations):
        torch.mul(kernel, plan, out=mixed)
        carried = (mixed @ scale.transpose(1, 2)).transpose(1, 2)
        other = 1 / (patch_count * carried + patch_away)
        scale = 1 / (word_count * (other @ mixed) + word_away)
        torch.mul(mixed, other.transpose(1, 2), out=plan).mul_(scale)
    return Transport(plan, kernel, scale)


def _counted(
    mask: Bool[Tensor, "B T"], joint: Bool[Tensor, "B N M"], cost: Tensor
) -> tuple[Float[Tensor, "B 1 1"], Float[Tensor, "B 1 T"]]:
    """How many there are, and what keeps the others out; in a pair with nothing to carry, all of them."""
    away = ~mask | ~joint.flatten(1).any(1)[:, None]
    return mask.sum(1).to(cost)[:, None, None], AWAY * away.to(cost)[:, None, :]


def align(
    words: Float[Tensor, "B T D"],
    patches: Float[Tensor, "B N D"],
    word_mask: Bool[Tensor, "B T"],
    patch_mask: Bool[Tensor, "B N"],
    *,
    beta: float = 0.5,
    iterations: int = 50,
) -> Alignment:
    """Distance of words and patches: the sum of cost times plan, whose gradient flows through the cost alone.

    Computed in fp32, also under autocast.
    """
    with torch.autocast(words.device.type, enabled=False):
        joint = word_mask[:, :, None] & patch_mask[:, None, :]
        cost = cosine_cost(words.float(), patches.float()).masked_fill(~joint, 0.0)
        transport = ipot(cost.detach(), word_mask, patch_mask, beta=beta, iterations=iterations)
        distance = (cost * transport.plan.transpose(1, 2)).sum((1, 2))
    return Alignment(distance, cost, transport)


def wpa(distance: Float[Tensor, " B"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean of the distances, negative where picture and text do not belong together (label 0)."""
    return torch.where(labels == 1, distance, -distance).mean()


def without_ends(attention_mask: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """The words of texts: real tokens but the first, [CLS], and the last, [SEP]."""
    real = attention_mask.bool()
    place = real.cumsum(1)
    return real & (place > 1) & (place < place[:, -1:])
