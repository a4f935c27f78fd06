"""What every system promises, asked of each at a tiny size.

That writing with caches equals writing without, token for token, each system's own tests say beside its plain
path: `tests/generation/test_search.py`, `tests/systems/test_{beit3_captioner,coca,simvlm,generalist}.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_all import MAKE, built, losses

import multiway
from multiway.systems import SYSTEMS

#: Systems whose pictures go through no module of their own.
NO_TOWER = ("beit3", "vqvae")


def test_every_system_is_asked() -> None:
    assert set(MAKE) == set(SYSTEMS)


@pytest.mark.parametrize("name", MAKE)
def test_losses_are_finite_pure_and_reach_every_parameter(name: str) -> None:
    model, state, batch = built(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    moving = {n: t.clone() for n, t in state.state_dict().items()}
    out, again = (losses(name, model, state, batch) for _ in range(2))
    assert all(torch.isfinite(value).all() for value in out.values())
    tiny.assert_same(out, again, tolerance=0)  # a function of its arguments alone
    tiny.assert_same(dict(model.state_dict()), before, tolerance=0)
    tiny.assert_same(dict(state.state_dict()), moving, tolerance=0)
    out["loss"].backward()
    assert _idle(model) == []


def _idle(model: Any) -> list[str]:
    named = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return [n for n, p in named if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("name", MAKE)
def test_one_batch_is_learned_by_heart(name: str) -> None:
    model, state, batch = built(name)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    seen = []
    for _ in range(12):
        out = losses(name, model, state, batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.advance(state, [{n: value.detach() for n, value in out.items()}])
        seen.append(float(out["loss"].detach()))
    assert seen[-1] < 0.92 * seen[0]


@pytest.mark.parametrize("name", MAKE)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    model = built(name)[0].eval()
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert again.config == model.config
    tiny.assert_same(dict(again.state_dict()), dict(model.state_dict()), tolerance=0)


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_half_precision_is_close(name: str) -> None:
    model, state, batch = built(name)
    model.eval()
    whole = losses(name, model, state, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = losses(name, model, state, batch)["loss"]
    # bfloat16 keeps 8 bits, 0.4 % a rounding: some layers' worth, and far from what a wrong cast costs
    torch.testing.assert_close(half.float(), whole, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("name", [name for name in MAKE if name not in NO_TOWER])
@torch.no_grad()
def test_the_image_tower_is_exported(name: str) -> None:
    model, _, batch = built(name)
    model.eval()
    image = batch.image[:2]
    program = torch.export.export(model.image_tower, (image,))
    torch.testing.assert_close(program.module()(image), model.image_tower(image))


@pytest.mark.compile
@pytest.mark.parametrize("name", [name for name in MAKE if name != "vqvae"])  # that has no block
def test_compiled_it_is_the_same(name: str) -> None:
    """In a process of its own: what checks shapes in tests can't be compiled."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).parents[1] / "tiny_all.py"), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
