"""Runs a function on several gloo ranks, as real processes, and gives back what each of them returned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """`[function(rank, *arguments) for rank in range(world)]`, all at once, in one process group.

    `function` is found by its module's name in the new processes, so it lives at the top of an importable
    module. It returns tensors in lists and dictionaries.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (function, world, folder, arguments), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(rank: int, function: Callable[..., Any], world: int, folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
