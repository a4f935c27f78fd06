"""ALBEF on two ranks with global negatives equals one process with the whole batch, given the same draws."""

from __future__ import annotations

import ranks
import tiny
import torch

from multiway.batch import Batch
from multiway.systems.albef import Draws

SIZE, WORLD = 3, 2
WHOLE = tiny.batch(SIZE * WORLD)
DRAWS = tiny.draws(WHOLE)
DRAWS.negative_text[0] = DRAWS.negative_image[1] = -1  # rank 0 has fewer labelled pairs than rank 1
GLOBAL = {"negatives": "global", "normalisation": "global"}


def part(rank: int) -> tuple[Batch, Draws]:
    """A rank's rows, cut to their own longest text; negatives are rows of the whole batch."""
    rows = slice(rank * SIZE, (rank + 1) * SIZE)
    length = int(WHOLE.attention_mask[rows].sum(1).max())
    draws = DRAWS
    batch = Batch(
        image=WHOLE.image[rows],
        input_ids=WHOLE.input_ids[rows, :length],
        attention_mask=WHOLE.attention_mask[rows, :length],
        ids=WHOLE.ids[rows],
    )
    mlm = {"mlm_input_ids": draws.mlm_input_ids[rows, :length], "mlm_labels": draws.mlm_labels[rows, :length]}
    negatives = {"negative_image": draws.negative_image[rows], "negative_text": draws.negative_text[rows]}
    return batch, Draws(**mlm, **negatives)


def two_steps(rank: int, batch: Batch, draws: Draws, world: int, changes: dict) -> dict:
    model, state = tiny.albef(tiny.albef_config(**GLOBAL, **changes))
    model.begin(state)
    found = []
    for _ in range(2):
        model.zero_grad()
        out = model.losses(batch, state, draws)
        out["loss"].backward()
        for parameter in model.parameters():  # as DDP averages
            if world > 1:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= world
        grads = tiny.gradients(model)
        loss = out["loss"].detach().clone()
        if world > 1:
            torch.distributed.all_reduce(loss)
            loss /= world
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
        model.advance(state, [out])
        found.append({"loss": loss, "grads": grads})
    return {"steps": found, "model": model.state_dict(), "state": state.state_dict()}


def on_rank(rank: int, changes: dict) -> dict:
    return two_steps(rank, *part(rank), WORLD, changes)


def compare(changes: dict) -> None:
    one = two_steps(0, WHOLE, DRAWS, 1, changes)
    for both in ranks.run(on_rank, WORLD, changes):
        for ours, theirs in zip(both["steps"], one["steps"], strict=True):
            torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=1e-5, atol=1e-5)
            tiny.assert_same(ours["grads"], theirs["grads"], tolerance=2e-5)
        tiny.assert_same(both["model"], one["model"])
        tiny.assert_same(both["state"], one["state"])


def test_with_momentum_and_queue() -> None:
    compare({})


def test_without_momentum_gradient_flows_to_both_sides_of_all_ranks() -> None:
    compare({"momentum": None})
