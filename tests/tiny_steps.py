"""Steps of small momentum systems: beside the plain order of work, on cached features, on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import tiny
import torch
from torch import Tensor

from multiway.batch import Batch


def step(model: Any, state: Any, batch: Batch, draws: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients."""
    model.zero_grad()
    out = model.losses(batch, state, draws)
    out["loss"].backward()
    return {name: value.detach() for name, value in out.items()}, tiny.gradients(model)


def move(model: Any, state: Any, outputs: dict[str, Tensor]) -> None:
    """One step of SGD, and all that moves with it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad
    model.advance(state, [outputs])


def assert_equal_steps(models: Sequence[tuple[Any, Any]], draws: Callable[..., Any], *, full: bool) -> None:
    """Two kinds of a model go the same way for three steps; `full`: over texts without padding."""
    for number in range(3):
        batch = tiny.batch(seed=number)
        if full:
            batch = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))
        drawn, found = draws(batch, seed=number), []
        for model, state in models:
            found.append(step(model, state, batch, drawn))
            move(model, state, found[-1][0])
        tiny.assert_same(found[0][0], found[1][0])
        tiny.assert_same(found[0][1], found[1][1])
    for ours, theirs in zip(*models, strict=True):
        tiny.assert_same(ours.state_dict(), theirs.state_dict())


def assert_a_cached_prefix_changes_nothing(model: Any, state: Any, draws: Callable[..., Any]) -> set[str]:
    """Losses and gradients from the tower's cached prefix; gives the names that have a gradient."""
    batch = tiny.batch()
    with torch.no_grad():
        prefix = model.image_tower.prefix(batch.image)
    cached = replace(batch, image=None, image_prefix=prefix)
    found = [step(model, state, given, draws(batch)) for given in (batch, cached)]
    for ours, theirs in zip(*found, strict=True):
        tiny.assert_same(ours, theirs, tolerance=1e-6)
    return set(found[0][1])


def of_rank(batch: Batch, draws: Any, rank: int, size: int) -> tuple[Batch, Any]:
    """A rank's rows, cut to their own longest text; negatives are rows of the whole batch."""
    rows = slice(rank * size, (rank + 1) * size)
    length = int(batch.attention_mask[rows].sum(1).max())
    drawn = {f.name: getattr(draws, f.name)[rows] for f in fields(draws)}
    own = Batch(
        image=batch.image[rows],
        input_ids=batch.input_ids[rows, :length],
        attention_mask=batch.attention_mask[rows, :length],
        ids=batch.ids[rows],
    )
    return own, type(draws)(**{n: t[:, :length] if n.startswith("mlm") else t for n, t in drawn.items()})


def two_steps(model: Any, state: Any, batch: Batch, draws: Any, world: int) -> dict[str, Any]:
    """Losses and gradients of two steps, averaged over the ranks as DDP does, and what they left."""
    model.begin(state)
    found = []
    for _ in range(2):
        out, grads = step(model, state, batch, draws)
        losses = {name: value.clone() for name, value in out.items() if not name.startswith("enqueue/")}
        if world > 1:
            for tensor in (*(p.grad for p in model.parameters()), *losses.values()):
                torch.distributed.all_reduce(tensor)
                tensor /= world
            grads = tiny.gradients(model)
        move(model, state, out)
        found.append({"losses": losses, "grads": grads})
    return {"steps": found, "model": model.state_dict(), "state": state.state_dict()}


def assert_ranks_equal_one(both: dict[str, Any], one: dict[str, Any]) -> None:
    """`two_steps` of a rank beside that of one process."""
    for ours, theirs in zip(both["steps"], one["steps"], strict=True):
        tiny.assert_same(ours["losses"], theirs["losses"])
        tiny.assert_same(ours["grads"], theirs["grads"], tolerance=2e-5)
    tiny.assert_same(both["model"], one["model"])
    tiny.assert_same(both["state"], one["state"])
