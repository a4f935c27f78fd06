"""Our models under the official names: recorded weights in; weights, gradients and facts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from case import Case
from safetensors import safe_open
from torch import Tensor, nn

from multiway.train.optim import gradient_norm
from multiway.weights.keymap import Layout, to_ours, to_theirs


def fill(
    model: nn.Module, layout: Layout, recorded: Mapping[str, Tensor], state: nn.Module | None = None
) -> None:
    """Load recorded weights, every key of which must find its place; `state.*` of the layout into `state`."""
    ours, missing, unexpected = to_ours(layout, recorded)
    if missing or unexpected:
        raise ValueError(f"weights lack {missing} and have no place for {unexpected}")
    moving = {n.removeprefix("state."): t for n, t in ours.items() if n.startswith("state.")}
    model.load_state_dict({n: t for n, t in ours.items() if not n.startswith("state.")})
    if state is not None:  # what no checkpoint stores keeps its first value
        kept = {n: t for n, t in state.state_dict().items() if n in ("step", "queue.ids")}
        state.load_state_dict(kept | moving)


def weights(model: nn.Module, layout: Layout, state: nn.Module | None = None) -> dict[str, Tensor]:
    """Copies of all weights, the momentum model's too where there is one; tied ones once."""
    tensors = dict(model.state_dict())
    if state is not None:
        tensors |= {f"state.{n}": t for n, t in state.state_dict().items()}
    return {n: t.clone() for n, t in to_theirs(layout, tensors, ties=False).items()}


def gradients(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Copies of the gradients of all parameters that have one."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {n: g.clone() for n, g in to_theirs(layout, ours, ties=False).items()}


def norms(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """L2 norms in the recorded order, which must name exactly these tensors."""
    if set(names) != set(tensors):
        raise ValueError(f"recorded names differ from ours in {sorted(set(names) ^ set(tensors))[:5]}")
    return torch.stack([tensors[name].norm() for name in names])


def of_gradients(model: nn.Module, layout: Layout, names: list[str]) -> dict[str, Tensor]:
    """Norms of all gradients in the recorded order, their whole norm, and each of them."""
    grads = gradients(model, layout)
    return {
        "grad_norms": norms(grads, names),
        "grad_global_norm": gradient_norm(list(model.parameters())),
        **{f"grad.{n}": g for n, g in grads.items()},
    }


def facts(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """What the official code recorded of its parameters in config.json."""
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    return {**tied(layout), "config.grad_params_without_grad": idle, "config.params_without_grad": idle}


def tied(layout: Layout) -> dict[str, set[tuple[str, ...]]]:
    """Groups of names that hold one tensor."""
    return {"config.tied": {tie for entry in layout.entries for tie in entry.ties()}}


def recorded_shape(case: Case, name: str) -> list[int]:
    """The shape of a recorded output: how many rows were recorded, not what they hold."""
    with safe_open(case.folder / "outputs.safetensors", "pt") as outputs:
        return outputs.get_slice(name).get_shape()
