"""AdamW in the order of transformers before 5, which VLMo and ViLT were trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class TransformersAdamW(torch.optim.Optimizer):
    """p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps), and only then p -= lr weight_decay p.

    In torch's own, eps is added after the correction of v, and the decay comes first. A parameter without
    a gradient is left alone; one whose gradient is zero decays. Source: transformers 4.8.1 optimization.py.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        states = [self._state(p) for p in parameters]
        (b1, b2), lr = group["betas"], group["lr"]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        sizes = []
        for state in states:
            state["step"] += 1
            t = int(state["step"])
            sizes.append(-lr * (1 - b2**t) ** 0.5 / (1 - b1**t))
        torch._foreach_mul_(first, b1)
        torch._foreach_add_(first, gradients, alpha=1 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - b2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(parameters, first, roots, scalars=sizes)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state
