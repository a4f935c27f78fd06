"""ALBEF on two ranks with global negatives equals one process with the whole batch, given the same draws."""

from __future__ import annotations

import ranks
import tiny
import tiny_steps

from multiway.batch import Batch
from multiway.systems.albef import Draws

SIZE, WORLD = 3, 2
WHOLE = tiny.batch(SIZE * WORLD)
DRAWS = tiny.draws(WHOLE)
DRAWS.negative_text[0] = DRAWS.negative_image[1] = -1  # rank 0 has fewer labelled pairs than rank 1
GLOBAL = {"negatives": "global", "normalisation": "global"}


def two_steps(rows: tuple[Batch, Draws], world: int, changes: dict) -> dict:
    model, state = tiny.albef(tiny.albef_config(**GLOBAL, **changes))
    return tiny_steps.two_steps(model, state, *rows, world)


def on_rank(rank: int, changes: dict) -> dict:
    return two_steps(tiny_steps.of_rank(WHOLE, DRAWS, rank, SIZE), WORLD, changes)


def compare(changes: dict) -> None:
    one = two_steps((WHOLE, DRAWS), 1, changes)
    for both in ranks.run(on_rank, WORLD, changes):
        tiny_steps.assert_ranks_equal_one(both, one)


def test_with_momentum_and_queue() -> None:
    compare({})


def test_without_momentum_gradient_flows_to_both_sides_of_all_ranks() -> None:
    compare({"momentum": None})
