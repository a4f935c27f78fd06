"""How many micro-batches a batch needs to fit, and what to change where it does not."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train import optim, parallel
from multiway.train.build import build
from multiway.train.parallel import Ranks
from multiway.train.run import Run, TrainConfig

HEADROOM = 0.92  # of a GPU's memory: other batches have longer texts
Step = TypeVar("Step", bound=Callable[..., Any])


class OutOfMemory(RuntimeError):
    """A step did not fit; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def explained(step: Step) -> Step:
    """A step whose lack of memory is said with what to change; its `TrainConfig` is among its arguments."""

    @functools.wraps(step)
    def wrapped(*args: Any) -> Any:
        try:
            return step(*args)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            config = next(a for a in args if isinstance(a, TrainConfig))
            ranks = next(a for a in args if isinstance(a, Ranks))
            raise OutOfMemory(advice(config, ranks.world)) from error

    return wrapped  # pyrefly: ignore


def advice(config: TrainConfig, world: int) -> str:
    """What to change, the gentlest first: what keeps the result before what alters it."""
    size = config.per_rank(world) // config.accumulate
    said = [] if config.checkpointing else ["--checkpointing True (slower, same numbers)"]
    parts = f"--find-batch-size, or --accumulate {2 * config.accumulate}"
    said += [f"{parts} (the batch in parts, of which ITC compares one at a time)"]
    said += [] if config.precision == "bf16" else ["--precision bf16"]
    said += [] if config.lora.rank else ["--lora.rank 8 (adapters alone are trained)"]
    said += ["a smaller --batch-size", "a smaller image size"]
    return f"no memory left for {size} samples at a time: try {'; '.join(said)}"


def find(run: Run, make: Callable[[Run, Ranks], tuple[System, Any]] = build) -> Run:
    """The run with the fewest micro-batches whose first step fits; its batch size stays.

    Losses that compare the samples of a batch (ITC) then compare those of a micro-batch.

    Raises:
        UserError: not even one sample at a time fits, or this is one of several processes.
    """
    config = run.train
    with parallel.ranks(config.device) as ranks:
        if ranks.world > 1:
            raise UserError(
                "the batch size is found in one process: run it without torchrun, then give --accumulate"
            )
        for parts in [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]:
            tried = replace(run, train=replace(config, accumulate=parts))
            fits = _fits(tried, make, ranks)
            gc.collect()
            if ranks.device.type == "cuda":
                torch.cuda.empty_cache()
            if fits:
                print(f"{config.batch_size // parts} samples at a time fit: --accumulate {parts}")
                return tried
    raise UserError(f"one sample at a time does not fit: {advice(run.train, 1).partition('try ')[2]}")


def _fits(run: Run, make: Callable[[Run, Ranks], tuple[System, Any]], ranks: Ranks) -> bool:
    """Whether the micro-batches and the update of the first step do; weights and data are built anew."""
    config, device = run.train, ranks.device
    parallel.seed_all(config.seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # else one size that was too large refuses all others
    system, loader = make(run, ranks)
    try:
        optim.freeze(system, config.freeze)
        state = system.to(device).init_state(steps_per_epoch=len(loader)).to(device)
        system.begin(state)
        optimizer = optim.build_optimizer(system, config)
        model = parallel.wrap(system, config, ranks)
        for part in next(iter(loader.iterate(0))).split(config.accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = model(part.to(device), state, None, parallel.generator(device, config.seed))["loss"]
            (loss / config.accumulate).backward()
        optimizer.step()
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return False
        raise
    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= HEADROOM * total
