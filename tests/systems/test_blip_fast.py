"""BLIP's fast step equals the official schedule of work, in value and gradient, over several steps."""

from __future__ import annotations

import pytest
import tiny
import tiny_blip
import tiny_steps
from plain_blip import PlainBLIP

from multiway.systems.blip import BLIP


@pytest.mark.parametrize("full", [False, True], ids=["padded", "without padding"])
def test_fast_and_plain_steps_are_equal(full: bool) -> None:
    models = [tiny_blip.blip(kind=kind) for kind in (BLIP, PlainBLIP)]
    tiny_steps.assert_equal_steps(models, tiny_blip.draws, full=full)


@pytest.mark.parametrize("frozen", ["all", 1])
def test_a_cached_frozen_prefix_changes_nothing(frozen) -> None:
    model, state = tiny_blip.blip(tiny_blip.config(image=tiny.vit(frozen_blocks=frozen)))
    tiny_steps.assert_a_cached_prefix_changes_nothing(model, state, tiny_blip.draws)
