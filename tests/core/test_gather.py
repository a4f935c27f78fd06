"""Gathering rows of all ranks: values in rank order, and what gradient they carry."""

from __future__ import annotations

import pytest
import ranks
import torch

from multiway.core.gather import Gradient, gather, gather_ragged, mean_over_ranks, rank, world_size

SIZE, WIDTH, WORLD = 3, 4, 2
WEIGHTS = torch.randn(WORLD, WORLD * SIZE, WIDTH, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(WORLD, SIZE, WIDTH, generator=torch.Generator().manual_seed(1))


def gathered(rank_: int) -> dict[str, torch.Tensor]:
    out = {"rank": torch.tensor([rank(), world_size()])}
    for gradient in ("sum", "own", "none"):
        x = ROWS[rank_].clone().requires_grad_()
        y = gather(2 * x, gradient)
        out[f"{gradient}/value"] = y.detach()
        if gradient != "none":
            (y.pow(2) * WEIGHTS[rank_]).sum().backward()
            out[f"{gradient}/gradient"] = x.grad
        else:
            out["none/requires_grad"] = torch.tensor(y.requires_grad)
    lengths = ROWS[rank_, :, : 2 + rank_]
    out["ragged"] = gather_ragged(lengths, "none")
    out["ragged_ids"] = gather_ragged(lengths.long() + 5, "none")
    out["mean"] = mean_over_ranks(torch.tensor(1.0 + rank_))
    return out


def test_two_ranks() -> None:
    both = ranks.run(gathered, WORLD)
    whole = ROWS.flatten(0, 1)
    # What one process would compute that holds all rows and adds both ranks' losses.
    x = whole.clone().requires_grad_()
    sum((2 * x).pow(2).mul(weights).sum() for weights in WEIGHTS).backward()
    for r, found in enumerate(both):
        own = slice(r * SIZE, (r + 1) * SIZE)
        assert found["rank"].tolist() == [r, WORLD]
        for gradient in ("sum", "own", "none"):
            assert torch.equal(found[f"{gradient}/value"], 2 * whole)
        torch.testing.assert_close(found["sum/gradient"], x.grad[own])
        torch.testing.assert_close(found["own/gradient"], 8 * ROWS[r] * WEIGHTS[r, own])
        assert not found["none/requires_grad"]
        assert found["mean"] == 1.5
        ragged = torch.zeros(WORLD * SIZE, 3)
        ragged[:SIZE, :2], ragged[SIZE:] = ROWS[0, :, :2], ROWS[1, :, :3]
        assert torch.equal(found["ragged"], ragged)
        assert found["ragged_ids"].dtype == torch.int64
        assert found["ragged_ids"][0, 2] == 0


@pytest.mark.parametrize("gradient", ["sum", "own"])
def test_one_process_gathers_itself(gradient: Gradient) -> None:
    x = ROWS[0].clone().requires_grad_()
    assert gather(x, gradient) is x
    assert gather_ragged(x, gradient) is x
    assert torch.equal(mean_over_ranks(x), x)
    assert not mean_over_ranks(x).requires_grad
    assert not gather(x, "none").requires_grad
    assert (rank(), world_size()) == (0, 1)
