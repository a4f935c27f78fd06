"""VLMo on two ranks: with summed gradients one process with the whole batch; officially, less of ITC."""

from __future__ import annotations

import ranks
import tiny
import tiny_steps
import tiny_vlmo
import torch
from torch import Tensor

SIZE, WORLD = 3, 2
WHOLE = tiny.batch(SIZE * WORLD)
DRAWS = tiny_vlmo.draws(WHOLE)
# As many masked words on each rank, so that the mean of the ranks' means is the mean.
DRAWS.mlm_labels[:] = torch.where(torch.arange(DRAWS.mlm_labels.shape[1]) == 1, WHOLE.input_ids, -100)


def on_rank(rank: int, changes: dict) -> dict[str, dict[str, Tensor]]:
    batch, draws = tiny_steps.of_rank(WHOLE, DRAWS, rank, SIZE)
    model = tiny_vlmo.vlmo(tiny_vlmo.config(**changes))
    losses, _ = tiny_steps.step(model, model.init_state(), batch, draws)
    for tensor in (*(p.grad for p in model.parameters() if p.grad is not None), *losses.values()):
        torch.distributed.all_reduce(tensor)
        tensor /= WORLD
    return {"losses": losses, "grads": tiny.gradients(model)}


def whole(changes: dict) -> dict[str, dict[str, Tensor]]:
    model = tiny_vlmo.vlmo(tiny_vlmo.config(**changes))
    losses, grads = tiny_steps.step(model, model.init_state(), WHOLE, DRAWS)
    return {"losses": losses, "grads": grads}


def test_summed_gradients_equal_one_process() -> None:
    one = whole({"gradient": "sum"})
    for rank in ranks.run(on_rank, WORLD, {"gradient": "sum"}):
        tiny.assert_same(rank["losses"], one["losses"])
        tiny.assert_same(rank["grads"], one["grads"], tolerance=2e-5)


def test_officially_each_rank_has_the_gradient_of_its_own_rows() -> None:
    """ITC's loss is the whole batch's, and its gradient by the ranks' mean half of it."""
    changes = {"itm_weight": 0.0, "mlm_weight": 0.0}
    one, both = whole(changes), ranks.run(on_rank, WORLD, changes)
    tiny.assert_same(both[0]["losses"], one["losses"])
    scales = ("logit_scale", "joint_logit_scale")  # every rank has the whole gradient of these
    halves = {n: g if n in scales else g / WORLD for n, g in one["grads"].items()}
    tiny.assert_same(both[0]["grads"], halves, tolerance=2e-5)
