"""BLIP's fast step equals the official schedule of work, in value and gradient, over several steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_blip
import torch
from plain_blip import PlainBLIP

from multiway.systems.blip import BLIP


def step(model: BLIP, state, batch, draws) -> tuple[dict, dict]:
    model.zero_grad()
    out = model.losses(batch, state, draws)
    out["loss"].backward()
    return {name: value.detach() for name, value in out.items()}, tiny.gradients(model)


@pytest.mark.parametrize("full", [False, True], ids=["padded", "without padding"])
def test_fast_and_plain_steps_are_equal(full: bool) -> None:
    models = [tiny_blip.blip(kind=kind) for kind in (BLIP, PlainBLIP)]
    for number in range(3):
        batch = tiny.batch(seed=number)
        if full:
            batch = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))
        draws, found = tiny_blip.draws(batch, seed=number), []
        for model, state in models:
            found.append(step(model, state, batch, draws))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.05 * parameter.grad
            model.advance(state, [found[-1][0]])
        tiny.assert_same(found[0][0], found[1][0])
        tiny.assert_same(found[0][1], found[1][1])
    tiny.assert_same(models[0][0].state_dict(), models[1][0].state_dict())
    tiny.assert_same(models[0][1].state_dict(), models[1][1].state_dict())


@pytest.mark.parametrize("frozen", ["all", 1])
def test_a_cached_frozen_prefix_changes_nothing(frozen) -> None:
    model, state = tiny_blip.blip(tiny_blip.config(image=tiny.vit(frozen_blocks=frozen)))
    batch = tiny.batch()
    draws = tiny_blip.draws(batch)
    with torch.no_grad():
        prefix = model.image_tower.prefix(batch.image)
    cached = replace(batch, image=None, image_prefix=prefix)
    found = [step(model, state, given, draws) for given in (batch, cached)]
    tiny.assert_same(found[0][0], found[1][0], tolerance=1e-6)
    tiny.assert_same(found[0][1], found[1][1], tolerance=1e-6)
