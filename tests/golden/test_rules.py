"""Tolerances of recorded initialisations: two honest draws of a narrow model agree by them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from beit3_setup import init_rule


@pytest.mark.parametrize("count", [16, 48, 4096])
def test_uniform_parameters_of_few_elements_may_stay_below_their_edge(count: int, tmp_path: Path) -> None:
    told = {"kind": "random", "std": 0.5, "shape": [count], "absmax_over_std": 1.7}
    (tmp_path / "outputs.json").write_text(json.dumps({"retrieval/patches.bias": told}))
    rule = init_rule(SimpleNamespace(folder=tmp_path), "retrieval/absmax.patches.bias")
    edge = 0.5 * 3**0.5
    noise = torch.Generator().manual_seed(0)
    drawn = edge * (2 * torch.rand(2_000, count, generator=noise) - 1).abs().amax(1)
    assert (edge - drawn).max() <= rule.absolute
    assert rule.absolute < edge
