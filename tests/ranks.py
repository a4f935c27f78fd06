"""Runs a function on several gloo ranks, as real processes, and gives back what each of them returned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

#: One process a rank, kept for the next call: to start one and import everything takes seconds.
_RANKS: list[ProcessPoolExecutor] = []


def run(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """`[function(rank, *arguments) for rank in range(world)]`, all at once, in one process group.

    `function` is found by its module's name in the other processes, so it lives at the top of an importable
    module. It returns tensors in lists and dictionaries.
    """
    while len(_RANKS) < world:
        _RANKS.append(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
    with tempfile.TemporaryDirectory() as folder:
        given = (function, world, folder, arguments)
        calls = [_RANKS[rank].submit(_rank, rank, *given) for rank in range(world)]
        failed = [call for call in wait(calls, return_when=FIRST_EXCEPTION).done if call.exception()]
        if failed:  # the others may wait for it forever
            _end()
            failed[0].result()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _end() -> None:
    for pool in _RANKS:
        for process in pool._processes.values():
            process.kill()
        pool.shutdown(cancel_futures=True)
    _RANKS.clear()


def _rank(rank: int, function: Callable[..., Any], world: int, folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
