"""Ranks and devices: torchrun's process group, DDP and FSDP2, compiled blocks, and seeds.

Every function is right on one process too, so that the loop reads the same with and without torchrun.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from multiway.core.block import Stack
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train.run import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all of them, and where it computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def choose_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there.

    Raises:
        UserError: a device was named that this machine does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        have = ", ".join(device for device, available in there.items() if available)
        raise UserError(
            f"train.device is {name}, which this machine does not have: choose one of auto, {have}"
        )
    if name != "cuda":
        return torch.device(name)
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"this machine has {count} GPUs for {number + 1} ranks or more: give torchrun --nproc-per-node "
            f"{count}"
        )
    return torch.device("cuda", number)


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join torchrun's process group (or one that exists already), and leave it if it was joined here."""
    where = choose_device(device)
    joined = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if joined:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    try:
        there = dist.is_initialized()
        yield Ranks(dist.get_rank() if there else 0, dist.get_world_size() if there else 1, where)
    finally:
        if joined:
            dist.destroy_process_group()


def wrap(system: System, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """The module to call for the losses: `system` itself, or `system` behind DDP or FSDP2.

    FSDP2 shards weights, gradients and optimizer at rest. Blocks that cross-attend stay in the outermost
    group, since a system asks them for keys and values outside their forward; 0-d parameters can't be
    sharded and stay whole.
    """
    system.set_checkpointing(config.checkpointing)
    blocks = [block for part in system.modules() if isinstance(part, Stack) for block in part]
    if config.compile:
        for block in blocks:
            block.compile()
    if ranks.world == 1:
        return system
    if config.parallel == "ddp":
        # A system may leave a part unused (a pooler, an expert); its gradient is None then, as on one rank.
        return DistributedDataParallel(system, find_unused_parameters=True)
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    scalars = {parameter for parameter in system.parameters() if parameter.ndim == 0}
    for block in blocks:
        if getattr(block, "cross", None) is None:
            fully_shard(block, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)
    fully_shard(system, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)  # in place
    return system


def sync(model: nn.Module, last: bool) -> AbstractContextManager:
    """Around a micro-batch: gradients are exchanged with other ranks in the `last` one only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def average_whole(model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Under FSDP2, average over ranks the gradients of the parameters that are not sharded."""
    if isinstance(model, FSDPModule):
        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def unshard(system: nn.Module) -> None:
    """Show whole parameters outside the forward (momentum update, validation); the next backward reshards."""
    for part in system.modules():
        if isinstance(part, FSDPModule):
            part.unshard()


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in full, on every rank; all ranks have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on every rank."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return bool(value)


def from_first(value: Any) -> Any:
    """Rank 0's `value`, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def whole_model(system: System, fresh: Callable[[], System]) -> System:
    """`system`, or if it is sharded a `fresh` one with its weights; all ranks have to ask."""
    if not isinstance(system, FSDPModule):
        return system
    tensors = {name: whole(tensor).cpu() for name, tensor in system.state_dict().items()}
    model = fresh()
    model.load_state_dict(tensors)
    return model


def agree(system: nn.Module) -> None:
    """Rank 0's weights on every rank: where training starts may have been measured on a rank's own batch."""
    if dist.is_initialized():
        for tensor in system.state_dict().values():
            dist.broadcast(tensor, 0)


def mean(values: dict[str, Tensor]) -> dict[str, float]:
    """0-d tensors averaged over all ranks, as numbers."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if dist.is_initialized():
        dist.all_reduce(stacked)
        stacked /= dist.get_world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def seed_all(*key: int) -> int:
    """Seed torch, numpy and random from `key` alone, so that nothing random has to be saved."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    return seed


def generator(device: torch.device, *key: int) -> torch.Generator:
    """The generator of one micro-batch's draws; also seeds what dropout draws from, with another number."""
    return torch.Generator(device).manual_seed(seed_all(*key) ^ 1)


class Stopped(KeyboardInterrupt):
    """A signal came in the middle of `StopSignal.interrupting`."""


class StopSignal:
    """Whether SIGINT or SIGTERM came; a second one ends the process at once."""

    name: str | None = None
    raises: bool = False

    def interrupting(self, build: Callable[[], T], ranks: Ranks) -> T | None:
        """What `build` returns; None, and a sentence, if a signal interrupted it on this rank or another."""
        result = None
        try:
            self.raises = True
            result = build() if self.name is None else None
            self.raises = False
        except Stopped:
            pass
        if everywhere(self.name is None, ranks.device):
            return result
        self.name = self.name or "a signal to another rank"
        if ranks.first:
            print(f"{self.name} before the first step: nothing is lost, and the same command starts again")
        return None


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Turn the first SIGINT or SIGTERM into a wish that the loop looks at after each step."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def wish(number: int, _frame: object) -> None:
        stop.name = signal.Signals(number).name
        for known, handler in before.items():
            signal.signal(known, handler)
        if stop.raises:
            stop.raises = False
            raise Stopped

    for number in before:
        signal.signal(number, wish)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
