"""AdamW's parameter groups, the learning rate of each step, and the norm of the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train.adamw import TransformersAdamW
from multiway.train.run import TrainConfig


def fits(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or lies under it; a part `*` of the prefix is any one part."""
    parts, own = prefix.rstrip(".").split("."), name.split(".")
    return len(own) >= len(parts) and all(p in ("*", o) for p, o in zip(parts, own, strict=False))


def check_prefixes(module: nn.Module, prefixes: Sequence[str], option: str) -> None:
    """Refuse prefixes that name nothing.

    Raises:
        UserError: a prefix fits no parameter; the sentence names the nearest one that would.
    """
    names = [name for name, _ in module.named_parameters()]
    known = sorted({".".join(name.split(".")[:depth]) for name in names for depth in range(1, 5)})
    for prefix in prefixes:
        if not any(fits(name, prefix) for name in names):
            near = get_close_matches(prefix, known, n=1)
            advice = (
                f"did you mean {near[0]!r}?" if near else f"the outermost are {', '.join(_outermost(names))}"
            )
            raise UserError(f"train.{option} names {prefix!r}, but no parameter is called so: {advice}")


def _outermost(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def freeze(system: System, prefixes: Sequence[str]) -> str:
    """Stop training what lies under `prefixes`, in eval mode; the sentence that says so."""
    check_prefixes(system, prefixes, "freeze")
    for name, parameter in system.named_parameters():
        if any(fits(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    train_mode(system, prefixes)
    trained = [p for p in system.parameters() if p.requires_grad]
    frozen = [p for p in system.parameters() if not p.requires_grad]
    sentence = f"trains {_counted(trained)}"
    if frozen:
        sentence += f"; frozen: {_counted(frozen)}"
    return sentence + (f" ({', '.join(prefixes)})" if prefixes else "")


def _counted(parameters: Sequence[nn.Parameter]) -> str:
    return f"{len(parameters)} tensors of {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters"


def train_mode(system: System, frozen: Sequence[str]) -> None:
    """`system.train()`, except for what is frozen: BatchNorm statistics and dropout rest there."""
    system.train()
    for name, module in system.named_modules():
        if any(fits(name, prefix) for prefix in frozen):
            module.eval()


def running_statistics(*modules: nn.Module) -> list[Tensor]:
    """The buffers that a forward moves (BatchNorm's in train mode): a skipped step puts them back."""
    norms = [part for module in modules for part in module.modules() if isinstance(part, _NormBase)]
    return [buffer for norm in norms if norm.training for buffer in norm.buffers()]


def build_optimizer(system: System, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; a group has one weight decay and one `scale` of the learning rate.

    The official ALBEF groups are `system.decays` alone: no decay for one-dimensional tensors and biases,
    while the 0-d temperature, the class token and the position embedding do decay.
    """
    check_prefixes(system, list(config.lr_scale), "lr_scale")
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            prefix = max((p for p in config.lr_scale if fits(name, p)), key=len, default="")
            scale = config.lr_scale.get(prefix, 1.0) * layer_scale(system, name, config.layer_decay)
            groups.setdefault((system.decays(name, parameter), scale), []).append(parameter)
    if not groups:
        raise UserError("train.freeze leaves nothing to train: freeze less")
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "scale": scale}
        for (decays, scale), parameters in groups.items()
    ]
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.optimizer == "transformers_adamw":
        return TransformersAdamW(listed, **options)
    fused = all(p.device.type in ("cpu", "cuda") for ps in groups.values() for p in ps)
    return torch.optim.AdamW(listed, fused=fused, **options)


def layer_scale(system: System, name: str, decay: float | None) -> float:
    """decay^(L + 1 - layer) of a parameter's layer: what follows the blocks learns at the full rate.

    Source: BEiT optim_factory.py `LayerDecayValueAssigner`; MAE, BEiT-3 and VLMo have the same.

    Raises:
        UserError: the system says nothing of layers.
    """
    if decay is None:
        return 1.0
    layer, layers = system.layer_of(name)
    return decay ** (layers + 1 - layer)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of this step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def learning_rate(step: int, config: TrainConfig, *, steps_per_epoch: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0."""
    total = config.total_steps(steps_per_epoch)
    if config.schedule == "albef":
        epochs = config.epochs or math.ceil(total / steps_per_epoch)
        return albef_schedule(
            step,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            lr=config.lr,
            min_lr=config.min_lr,
            warmup_lr=config.warmup_lr,
            warmup_steps=config.warmup_steps,
            stride=config.warmup_stride,
        )
    if config.schedule == "blip":
        return blip_schedule(
            step,
            steps_per_epoch=steps_per_epoch,
            lr=config.lr,
            min_lr=config.min_lr,
            decay=config.lr_decay,
            warmup_lr=config.warmup_lr,
            warmup_steps=config.warmup_steps,
        )
    if config.schedule in ("linear", "mae") and step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "mae":  # util/lr_sched.py
        part = max(total - config.warmup_steps, 1)
        return cosine(config.lr, config.min_lr, (step - config.warmup_steps) / part)
    if config.schedule == "linear":
        left = max(total - step, 0) / max(total - config.warmup_steps, 1)
        return config.min_lr + (config.lr - config.min_lr) * left
    if step < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = step - config.warmup_steps + (config.schedule != "open_clip")
    return cosine(config.lr, config.min_lr, done / max(total - config.warmup_steps, 1))


def cosine(start: float, end: float, progress: float) -> float:
    """end + (start - end) * (1 + cos(pi * progress)) / 2, for progress from 0 to 1; `end` after that."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(progress, 1.0)))


def albef_schedule(
    step: int,
    *,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    min_lr: float,
    warmup_lr: float,
    warmup_steps: int,
    stride: int = 100,
) -> float:
    """The official staircase (ALBEF `scheduler/cosine_lr.py` as Pretrain.py and the fine-tunings drive it).

    In the first epoch the rate moves after every `stride`-th step, up to `warmup_steps`, linearly from
    `warmup_lr`; every later epoch e has the one rate cosine(e / epochs). So the first stair is one step
    longer than the others, and a warm-up longer than the first epoch is cut off.

    Args:
        step: optimizer step, from 0.
    """
    epoch, i = divmod(step, steps_per_epoch)
    if epoch > 0:
        return cosine(lr, min_lr, epoch / epochs)
    warmup = warmup_steps // stride
    if i == 0 and warmup:
        return warmup_lr
    stair = min(max(i - 1, 0) // stride, warmup)
    return warmup_lr + stair * (lr - warmup_lr) / warmup if stair < warmup else lr


def blip_schedule(
    step: int,
    *,
    steps_per_epoch: int,
    lr: float,
    min_lr: float,
    decay: float,
    warmup_lr: float,
    warmup_steps: int,
) -> float:
    """The official staircase of BLIP's pre-training (utils.py, `step_lr_schedule`, `warmup_lr_schedule`).

    Epoch e has the one rate lr * decay^e, at least `min_lr`; in the first, the rate of step i is on the line
    from `warmup_lr` to `lr`. A warm-up longer than the first epoch is cut off.
    """
    epoch, i = divmod(step, steps_per_epoch)
    if epoch == 0:
        return min(lr, warmup_lr + (lr - warmup_lr) * i / max(warmup_steps, 1))
    return max(min_lr, lr * decay**epoch)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together, 0-d, equal on all ranks; of sharded ones each rank adds its part."""
    grads = [p.grad for p in parameters if p.grad is not None]
    whole = [g for g in grads if not isinstance(g, DTensor)]
    parts = [g.to_local() for g in grads if isinstance(g, DTensor)]
    norm = torch.nn.utils.get_total_norm(whole) if whole else torch.zeros(())
    if not parts:
        return norm
    square = torch.nn.utils.get_total_norm(parts).square()
    dist.all_reduce(square)
    return (norm.to(square.device).square() + square).sqrt()


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
    """Multiply every gradient by `factor`, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            local.mul_(factor.to(local.device))
