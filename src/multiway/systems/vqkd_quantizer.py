"""VQ-KD's quantizer: unit vectors, the nearest code by cosine, a codebook that follows by moving average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.gather import from_first, sum_over_ranks


class Quantized(NamedTuple):
    """Encoded patches and their codes.

    `start`, `counts` and `sums` are what `Quantizer.move` needs; of this rank, without gradient.
    """

    z: Float[Tensor, "P C"]
    """The patches, l2-normalised."""
    codes: Float[Tensor, "P C"]
    """The code of each."""
    tokens: Int[Tensor, " P"]
    """Its row in the codebook."""
    counts: Float[Tensor, " K"]
    """How many patches took each code."""
    sums: Float[Tensor, "K C"]
    """Their sum."""
    start: Float[Tensor, "K C"] | None
    """The codebook to start from, where there was none yet."""

    def rows(self, far: int = 0) -> dict[str, Tensor]:
        """What `Quantizer.learn` wants of a micro-batch, as entries of a system's losses.

        Args:
            far: so many patches that are farthest from their codes, for codes that no patch takes.
        """
        found = {"enqueue/counts": self.counts, "enqueue/sums": self.sums}
        if self.start is not None:
            found["enqueue/start"] = self.start
        if far:
            near = (self.z * self.codes).sum(-1).detach()
            found["enqueue/far"] = self.z.detach()[near.topk(min(far, len(near)), largest=False).indices]
        return found


class Quantizer(nn.Module):
    """K codes of width C. Source: unilm beit2, norm_ema_quantizer.py.

    Nothing moves in a forward. Codes are no parameters: `move` takes them a step towards what was assigned to
    them. Before the first step there are none; they start as the means of a k-means of the first patches.

    Attributes:
        codebook: unit vectors. usage: moving average of how many patches took each code.
        started: 1 once there are codes.
    """

    codebook: Tensor
    usage: Tensor
    started: Tensor

    def __init__(self, codes: int, width: int, *, decay: float = 0.99, iterations: int = 10):
        super().__init__()
        self.decay, self.iterations = decay, iterations
        self.register_buffer("codebook", torch.zeros(codes, width))
        self.register_buffer("usage", torch.zeros(codes))
        self.register_buffer("started", torch.zeros(()))

    def tokens(self, features: Float[Tensor, "*P C"]) -> Int[Tensor, "*P"]:
        """The nearest code of each patch; of equal codes the first."""
        return nearest(F.normalize(features, dim=-1), self.codebook)

    def forward(
        self,
        features: Float[Tensor, "P C"],
        *,
        first: Int[Tensor, " K"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantise patches.

        Args:
            first: rows of `features` (of rank 0's, where there are ranks) that k-means starts from; drawn
                from `generator` when None. Looked at only where there are no codes yet.
        """
        z = F.normalize(features, dim=-1)
        codebook, start = self.codebook, None
        if not self.started:
            codebook = start = kmeans(z.detach(), self._first(z, first, generator), self.iterations)[0]
        tokens = nearest(z.detach(), codebook)
        counts, sums = _statistics(z.detach(), tokens, len(codebook))
        return Quantized(z, codebook[tokens], tokens, counts, sums, start)

    def _first(
        self, z: Tensor, first: Tensor | None, generator: torch.Generator | None
    ) -> Float[Tensor, "K C"]:
        """The means that k-means starts from, on all ranks: different patches of rank 0 if it has enough."""
        if first is None:
            patches, codes = len(z), len(self.codebook)
            if patches >= codes:
                first = torch.randperm(patches, generator=generator, device=z.device)[:codes]
            else:
                first = torch.randint(patches, (codes,), generator=generator, device=z.device)
        return from_first(z[first])

    @torch.no_grad()
    def count(self, counts: Float[Tensor, " K"]) -> None:
        """Note how many patches took each code. Officially every forward does so, in evaluation too."""
        self.usage.lerp_(counts, 1 - self.decay)

    def learn(self, outputs: Sequence[dict[str, Tensor]]) -> None:
        """Once an optimizer step: moves by the patches of all micro-batches and ranks (`Quantized.rows`).

        On its first step it starts: by the first micro-batch alone, as the others began another codebook.
        """
        if "enqueue/counts" not in outputs[0]:
            return
        start = outputs[0].get("enqueue/start")
        counted = outputs if start is None else outputs[:1]
        counts = torch.stack([output["enqueue/counts"] for output in counted]).sum(0)
        sums = torch.stack([output["enqueue/sums"] for output in counted]).sum(0)
        self.move(counts, sums, start)
        if "enqueue/far" in outputs[0]:
            self.revive(outputs[0]["enqueue/far"])

    @torch.no_grad()
    def revive(self, far: Float[Tensor, "R C"], floor: float = 0.01) -> None:
        """Codes that hardly any patch takes move to patches that no code is near, rank 0's on all ranks.

        Source: Dhariwal et al. 2020 (Jukebox), appendix A, with the farthest patches for random ones.

        Args:
            floor: patches a step, below which a code counts as unused.
        """
        unused = (self.usage < floor).nonzero()[: len(far), 0]
        self.codebook[unused] = from_first(far)[: len(unused)]
        self.usage[unused] = 1 - self.decay  # as if one patch had just taken it

    @torch.no_grad()
    def move(
        self, counts: Float[Tensor, " K"], sums: Float[Tensor, "K C"], start: Tensor | None = None
    ) -> None:
        """Once a step: each code goes a step towards the mean direction of its patches, of all ranks.

        Args:
            counts, sums: of this rank, from `forward`. start: the codebook to start from, on the first step.
        """
        if start is not None:
            self.codebook.copy_(start)
            self.started.fill_(1.0)
        counts, sums = sum_over_ranks(counts), sum_over_ranks(sums)
        self.count(counts)
        # A code that nothing was assigned to stays where it is.
        target = F.normalize(sums, dim=-1).where(counts[:, None] > 0, self.codebook)
        self.codebook.copy_(F.normalize(self.codebook.lerp(target, 1 - self.decay), dim=-1))


def nearest(z: Float[Tensor, "*P C"], codebook: Float[Tensor, "K C"]) -> Int[Tensor, "*P"]:
    """Rows of the most similar unit vectors: by cosine, which orders them as their distance does.

    In full precision: half of it would take one of several near codes for another.
    """
    with torch.autocast(z.device.type, enabled=False):
        return (z.float() @ codebook.float().T).argmax(-1)


def _statistics(z: Tensor, tokens: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """How many patches each code has, and their sum."""
    counts = torch.bincount(tokens, minlength=codes).to(z.dtype)
    return counts, z.new_zeros(codes, z.shape[1]).index_add_(0, tokens, z)


@torch.no_grad()
def kmeans(
    z: Float[Tensor, "P C"], means: Float[Tensor, "K C"], iterations: int
) -> tuple[Float[Tensor, "K C"], Float[Tensor, " K"]]:
    """Means of clusters of unit vectors by cosine, of the patches of all ranks; an empty one keeps its own.

    Returns:
        The means, unit vectors, and how many patches were nearest to each before its last move.
    """
    counts = z.new_zeros(len(means))
    for _ in range(iterations):
        counts, sums = (sum_over_ranks(x) for x in _statistics(z, nearest(z, means), len(means)))
        means = F.normalize(sums, dim=-1).where(counts[:, None] > 0, means)
    return means, counts
