"""ViLT's step equals the plain one, pair by pair, in value and gradient; padding is of no account."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_vilt
import torch
import torch.nn.functional as F
from tiny_steps import step

from multiway.systems.vilt import Draws, ViLT


def sampled(drawn: Draws) -> Draws:
    """Some patches of each picture, in any order; those that lie outside of a picture are padding."""
    g = torch.Generator().manual_seed(3)
    first, second = (torch.stack([torch.randperm(20, generator=g)[:9] for _ in range(5)]) for _ in range(2))
    # at least one of each picture's own
    first[:, 0], second[:, 4] = 0, 0
    first[:, 1:] = torch.where(first[:, 1:] == 0, 1, first[:, 1:])
    return replace(drawn, mlm_patches=first, itm_patches=second)


@pytest.mark.parametrize("patches", ["all", "some"])
@pytest.mark.parametrize("full", [False, True], ids=["padded", "without padding"])
def test_fast_and_plain_steps_are_equal(patches: str, full: bool) -> None:
    batch = tiny_vilt.batch()
    if full:
        ones = torch.ones_like(batch.attention_mask)
        ids = batch.input_ids.clamp_min(1)  # [PAD]'s row has no gradient
        batch = replace(batch, input_ids=ids, attention_mask=ones, image=torch.randn(5, 3, 32, 40))
    drawn, found = tiny_vilt.draws(batch), []
    drawn = drawn if patches == "all" else sampled(drawn)
    for kind in (ViLT, tiny_vilt.PlainViLT):
        model = tiny_vilt.vilt(kind=kind)
        found.append(step(model, model.init_state(), batch, drawn))
    tiny.assert_same(found[0][0], found[1][0])
    tiny.assert_same(found[0][1], found[1][1], tolerance=2e-5)


def test_padding_changes_nothing() -> None:
    """Texts padded to any length, pictures on any canvas: the same losses and gradients."""
    batch, model = tiny_vilt.batch(), tiny_vilt.vilt()
    drawn = tiny_vilt.draws(batch)
    longer = replace(
        batch,
        image=F.pad(batch.image, (0, 8, 0, 16)),
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


def test_what_is_read_is_what_the_whole_pass_has() -> None:
    model, batch = tiny_vilt.vilt(), tiny_vilt.batch()
    ids, mask = batch.text()
    pictures = model.look(batch.image)
    whole = model.pair(ids, mask, pictures)
    torch.testing.assert_close(model.read(ids, mask, pictures), model.pooled(whole))


def test_a_picture_alone_is_the_picture_in_a_batch() -> None:
    """Every picture in its own size, batch of one, as in the official evaluation."""
    model, batch = tiny_vilt.vilt(), tiny_vilt.batch()
    ids, mask = batch.text()
    together = model.match_pairs(model.look(batch.image), ids, mask)
    for row, (height, width) in enumerate(tiny_vilt.GRIDS):
        image = batch.image[row : row + 1, :, : 8 * height, : 8 * width]
        length = int(mask[row].sum())
        own = slice(row, row + 1)
        alone = model.match_pairs(model.look(image), ids[own, :length], mask[own, :length])
        torch.testing.assert_close(alone, together[own])
