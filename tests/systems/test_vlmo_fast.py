"""VLMo's step equals the official schedule of work in value and gradient; padding is of no account."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_vlmo
import torch
import torch.nn.functional as F
from tiny_steps import step

from multiway.core.ragged import Ragged
from multiway.systems.vlmo import VLMo
from multiway.systems.vlmo_config import VLMoConfig

KINDS = {
    "relative": tiny_vlmo.config(),
    "absolute": tiny_vlmo.config(positions="absolute", layer_scale=None),
    "three joint layers": tiny_vlmo.config(joint_layers=3),
}


@pytest.mark.parametrize("full", [False, True], ids=["padded", "without padding"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_fast_and_plain_steps_are_equal(config: VLMoConfig, full: bool) -> None:
    batch = tiny.batch()
    if full:
        batch = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))
    drawn, found = tiny_vlmo.draws(batch), []
    for kind in (VLMo, tiny_vlmo.PlainVLMo):
        model = tiny_vlmo.vlmo(config, kind=kind)
        found.append(step(model, model.init_state(), batch, drawn))
    tiny.assert_same(found[0][0], found[1][0])
    tiny.assert_same(found[0][1], found[1][1], tolerance=2e-5)


def test_padding_changes_nothing() -> None:
    """Texts padded to any length: the same losses and gradients."""
    batch, model = tiny.batch(), tiny_vlmo.vlmo()
    drawn = tiny_vlmo.draws(batch)
    longer = replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, 3)),
        attention_mask=F.pad(batch.attention_mask, (0, 3)),
    )
    padded = replace(
        drawn,
        mlm_input_ids=F.pad(drawn.mlm_input_ids, (0, 3)),
        mlm_labels=F.pad(drawn.mlm_labels, (0, 3), value=-100),
    )
    state = model.init_state()
    short, long = step(model, state, batch, drawn), step(model, state, longer, padded)
    tiny.assert_same(short[0], long[0])
    tiny.assert_same(short[1], long[1])


@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_read_is_what_the_whole_pass_has(absolute: bool) -> None:
    changes = {"positions": "absolute", "layer_scale": None} if absolute else {}
    model, batch = tiny_vlmo.vlmo(tiny_vlmo.config(**changes)), tiny.batch()
    network, (ids, mask) = model.transformer, batch.text()
    text, image = network.embed_text(ids), network.embed_image(batch.image)
    read = mask.bool() & (torch.rand(mask.shape) < 0.4)
    read[1] = False  # of one text nothing is wanted
    some, whole = network.pair(text, mask, image, read=read), network.pair(text, mask, image)
    wanted = F.pad(read, (0, image.shape[1]))
    torch.testing.assert_close(some[wanted], whole[wanted])
    assert (some[~wanted] == 0).all()
    for top in (("text",), ("text", "joint")):
        for one, all_of_it in zip(
            network.text(text, mask, top, read=read), network.text(text, mask, top), strict=True
        ):
            torch.testing.assert_close(one[read], all_of_it[read])
    seen = torch.rand(image.shape[:2]) < 0.3
    for one, all_of_it in zip(
        network.image(image, ("image", "joint"), read=seen),
        network.image(image, ("image", "joint")),
        strict=True,
    ):
        torch.testing.assert_close(one[seen], all_of_it[seen])


def test_a_mask_of_every_query_is_cut_to_those_that_are_read() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    read = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    reading = Ragged.of(mask).reading(read)
    for whole in (torch.randn(1, 2, 4, 4), torch.randn(3, 2, 4, 4)):
        cut = reading.of_queries(whole)
        assert cut.shape == (3, 2, 2, 4)
        for b, places in enumerate(([1, 3], [0, 2])):
            assert torch.equal(cut[b], whole[b % len(whole)][:, places])
    keys = torch.ones(3, 1, 1, 4, dtype=torch.bool)
    assert reading.of_queries(keys) is keys


def test_a_text_stage_without_any_masked_word_has_loss_zero() -> None:
    model = tiny_vlmo.vlmo(tiny_vlmo.config(stage="text", joint_layers=0))
    batch = tiny.batch()
    nothing = torch.full_like(batch.input_ids, -100)
    drawn = replace(tiny_vlmo.draws(batch), mlm_labels=nothing)
    loss = model.losses(batch, model.init_state(), drawn)["loss"]
    loss.backward()
    assert float(loss.detach()) == 0.0
