"""Counting floating-point operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """What runs inside is counted, a multiplication and an addition as two: `get_total_flops()` is their sum.

    Attention goes by plain products meanwhile: torch counts nothing of its fused kernel for CPUs.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
