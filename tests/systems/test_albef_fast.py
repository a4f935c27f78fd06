"""ALBEF's fast step equals the official schedule of work, in value and gradient, over several steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_steps
import torch
from plain_albef import PlainALBEF

from multiway.systems.albef import ALBEF


@pytest.mark.parametrize("full", [False, True], ids=["padded", "without padding"])
def test_fast_and_plain_steps_are_equal(full: bool) -> None:
    models = [tiny.albef(kind=kind) for kind in (ALBEF, PlainALBEF)]
    tiny_steps.assert_equal_steps(models, tiny.draws, full=full)


def test_losses_change_nothing() -> None:
    model, state = tiny.albef()
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in (model, state)]
    batch = tiny.batch()
    for _ in range(2):
        tiny_steps.step(model, state, batch, tiny.draws(batch))
    for module, old in zip((model, state), before, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, old[name]), name


def test_micro_batches_enqueue_all_their_rows_once() -> None:
    model, state = tiny.albef()
    whole = tiny.batch(6)
    outputs = [model.losses(part, state, tiny.draws(part)) for part in whole.split(3)]
    model.advance(state, outputs)
    assert int(state.queue.pointer) == 6
    rows = torch.cat([out["enqueue/image"] for out in outputs])
    assert torch.equal(state.queue.image[:6], rows)
    assert int(state.step) == state.ramp_steps + 1


def test_alpha_ramps_over_the_first_epoch_and_stays() -> None:
    model = ALBEF(tiny.albef_config(alpha=0.4))
    state = model.init_state(steps_per_epoch=4)
    found = []
    for _ in range(6):
        found.append(float(state.alpha))
        state.step += 1
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
    at_once = ALBEF(tiny.albef_config(alpha=0.4, alpha_ramp_epochs=0)).init_state(steps_per_epoch=4)
    assert float(at_once.alpha) == 0.4


def test_the_temperature_is_clamped_before_the_next_forward() -> None:
    model, state = tiny.albef()
    with torch.no_grad():
        model.temperature.fill_(0.9)
    model.advance(state, [model.losses(tiny.batch(), state, tiny.draws(tiny.batch()))])
    assert float(model.temperature.detach()) == 0.5


def test_all_positives_of_a_picture_count_and_are_no_negatives() -> None:
    model, state = tiny.albef(tiny.albef_config(positives="ids", mlm_weight=0.0))
    batch = tiny.batch(6)
    ids = torch.tensor([1, 2, 1, 3, 3, 1])
    batch = replace(batch, ids=ids)
    model.advance(state, [model.losses(batch, state)])
    assert state.queue.ids[:6].equal(ids)
    figure = model.figure(batch, state)
    assert figure.sims.positive.sum(1).tolist() == [6, 2, 6, 4, 4, 6]  # the batch's and the queue's
    assert (figure.itm_labels[:6] == 1).all()
    for _ in range(20):
        found = model.pairs(figure.sims, None, None, None)
        assert (ids[found.text[6:12]] != ids[found.image[6:12]]).all()
        assert (ids[found.text[12:]] != ids[found.image[12:]]).all()


def test_a_weight_of_zero_leaves_itm_out_and_mlm_as_it_is() -> None:
    batch = tiny.batch()
    whole, without = (tiny.albef(tiny.albef_config(itm_weight=weight)) for weight in (1.0, 0.0))
    both, out = (model.losses(batch, state, tiny.draws(batch)) for model, state in (whole, without))
    assert "itm" not in out
    torch.testing.assert_close(out["mlm"], both["mlm"])
    torch.testing.assert_close(out["loss"], both["loss"] - both["itm"])
    out["loss"].backward()
    assert all(parameter.grad is None for parameter in without[0].itm_head.parameters())


def test_a_batch_of_one_picture_has_no_negatives_and_a_finite_loss() -> None:
    model, state = tiny.albef(tiny.albef_config(positives="ids", mlm_weight=0.0))
    batch = tiny.batch(3)
    batch = replace(batch, ids=torch.zeros(3, dtype=torch.long))
    figure = model.figure(batch, state)
    assert figure.itm_labels.tolist() == [1] * 3 + [-100] * 6
    assert torch.isfinite(figure.losses["loss"])


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": None},
        {"hardest": True},
        {"text_pooling": "mean", "match_pooling": "mean"},
        {"mlm_weight": 0.0},
        {"alpha": 0.0},
        {"null_token": True},
        {"hard_negatives": 3},
    ],
    ids=str,
)
def test_every_variant_has_finite_losses_and_reaches_every_parameter(changes: dict) -> None:
    model, state = tiny.albef(tiny.albef_config(**changes))
    batch = tiny.batch()
    draws = tiny.draws(batch)
    if not model.config.mlm_weight:
        draws = replace(draws, mlm_input_ids=None, mlm_labels=None)
    draws = replace(draws, negative_image=None, negative_text=None)
    out = model.losses(batch, state, draws)
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.advance(state, [out])


@pytest.mark.parametrize("frozen", ["all", 1])
def test_a_cached_frozen_prefix_changes_nothing(frozen) -> None:
    model, state = tiny.albef(tiny.albef_config(image=tiny.vit(frozen_blocks=frozen)))
    trained = tiny_steps.assert_a_cached_prefix_changes_nothing(model, state, tiny.draws)
    frozen_names = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen_names
    assert frozen_names.isdisjoint(trained)
