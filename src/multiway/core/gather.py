"""All-gather with gradient: the one file that talks to other ranks in a forward.

Without a process group every function is the identity, so the same code runs on one process.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

#: What the gathered rows carry. "sum": each rank's rows receive the gradients of all ranks' losses, summed
#: (exact under data parallelism); "own": only this rank's rows carry gradient; "none": no row does.
Gradient = Literal["sum", "own", "none"]


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    """All-gather whose backward sums what all ranks' losses say about this rank's rows.

    torch.distributed.nn.functional.all_gather does the same, and is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather(x: Tensor, gradient: Gradient = "sum") -> Tensor:
    """Rows of all ranks in rank order: `[B, ...]` on each to `[W * B, ...]` on all; shapes are equal."""
    if world_size() == 1:
        return x.detach() if gradient == "none" else x
    if gradient == "sum":
        return _AllGather.apply(x.contiguous())
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    if gradient == "own":
        parts[rank()] = x
    return torch.cat(parts)


def gather_ragged(x: Tensor, gradient: Gradient = "sum") -> Tensor:
    """As `gather` for `[B, T, ...]` whose T differs between ranks: padded with zeros to the longest."""
    if world_size() > 1:
        longest = torch.tensor(x.shape[1], device=x.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        missing = int(longest) - x.shape[1]
        if missing:
            x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return gather(x, gradient)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient: how a count becomes an all-rank normaliser."""
    return sum_over_ranks(x) / world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient: statistics of a codebook."""
    if world_size() == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def from_first(x: Tensor) -> Tensor:
    """Rank 0's tensor on all ranks, without gradient; shapes are equal."""
    return x.detach() if world_size() == 1 else gather(x, "none")[: len(x)]
