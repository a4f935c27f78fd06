"""One optimizer step of a run."""

from __future__ import annotations

import math

import torch
from torch import nn

from multiway.batch import Batch
from multiway.systems.base import System
from multiway.train import memory, optim, parallel
from multiway.train.checkpoint import Progress
from multiway.train.run import TrainConfig


@memory.explained
def take_step(
    model: nn.Module,
    system: System,
    state: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    progress: Progress,
    config: TrainConfig,
    ranks: parallel.Ranks,
) -> tuple[bool, dict[str, float]]:
    """One optimizer step: whether it was taken, and its losses averaged over micro-batches and ranks."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    buffers = [(buffer, buffer.clone()) for buffer in optim.running_statistics(system, state)]
    outputs = []
    parts = batch.split(config.accumulate)
    for i, part in enumerate(parts):
        generator = parallel.generator(ranks.device, config.seed, progress.step, ranks.rank, i)
        with parallel.sync(model, last=i + 1 == len(parts)):
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                output = model(part.to(ranks.device), state, None, generator)
            (output["loss"] / len(parts)).backward()
        outputs.append({name: value.detach() for name, value in output.items()})
    parallel.average_whole(model, parameters)

    norm = optim.gradient_norm(parameters)
    losses = {k: torch.stack([o[k] for o in outputs]).mean() for k, v in outputs[0].items() if v.ndim == 0}
    taken = parallel.everywhere(math.isfinite(norm) and math.isfinite(losses["loss"]), ranks.device)
    if taken:
        if config.clip_grad is not None:
            optim.scale_gradients(parameters, (config.clip_grad / (norm + 1e-6)).clamp(max=1.0))
        optimizer.step()
        parallel.unshard(system)
        system.advance(state, outputs)
    else:
        for buffer, before in buffers:
            buffer.copy_(before)
    optimizer.zero_grad(set_to_none=True)
    return taken, {**parallel.mean(losses), "grad_norm": float(norm)}
