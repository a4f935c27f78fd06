"""The generalist on two ranks, one of which is only asked for pictures."""

from __future__ import annotations

import pytest
import ranks
import tiny
import tiny_generalist
import torch
from torch import Tensor

from multiway.train import parallel
from multiway.train.run import TrainConfig

TEXTS = (
    ("draw a blue cat\t", "draw a red dog\t"),
    ("what colour is it ?\tred", "what does the picture show ?\ta cat"),
)


def on_rank(rank: int, kind: str) -> dict[str, Tensor]:
    model = tiny_generalist.build(cosine_weight=0.5).train()
    wrapped = parallel.wrap(
        model, TrainConfig(steps=1, parallel=kind), parallel.Ranks(rank, 2, torch.device("cpu"))
    )
    generator = torch.Generator().manual_seed(0)
    wrapped(tiny_generalist.batch(TEXTS[rank], seed=rank), None, None, generator)["loss"].backward()
    parallel.average_whole(wrapped, [p for p in model.parameters() if p.requires_grad])
    return {n: parallel.whole(p.grad) for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.timeout(120)
def test_a_rank_that_only_draws_compares_as_often() -> None:
    ddp, fsdp = (ranks.run(on_rank, 2, kind)[0] for kind in ("ddp", "fsdp"))
    tiny.assert_same(fsdp, ddp, tolerance=1e-5)
