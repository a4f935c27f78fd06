"""Longer texts: the beginning of a text means what it meant, and more of it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_beit3
import tiny_vilt
import tiny_vlmo
import torch

import multiway
from multiway.core.embed import resize_positions
from multiway.core.relative import resize_table
from multiway.errors import UserError
from multiway.systems.beit3_config import RetrievalConfig, TextConfig
from multiway.systems.clip import CLIPConfig, CLIPTextConfig, clip_vit
from multiway.systems.patches import ImageConfig
from multiway.text import train_vocabulary
from multiway.weights.positions import KEPT, longer, resized, stretched

pytestmark = pytest.mark.filterwarnings("ignore:a text was cut")
LONG = " ".join(["a small red dog runs over wet grass"] * 20)


def test_a_stretched_table_begins_as_it_was_and_ends_where_it_ended():
    table = torch.randn(77, 4)
    found = stretched(table, 248)
    assert found.shape == (248, 4)
    assert torch.equal(found[:KEPT], table[:KEPT])
    torch.testing.assert_close(found[-1], table[-1])
    torch.testing.assert_close(found[KEPT], table[KEPT])
    line = torch.arange(77.0)[:, None]
    torch.testing.assert_close(stretched(line, 133)[KEPT::2], line[KEPT:])  # half as steep


def test_clip_reads_more_of_a_long_text(tmp_path):
    config = CLIPConfig(
        image=clip_vit(image_size=32, patch_size=16, width=64, depth=1, hidden=64, heads=1),
        text=CLIPTextConfig(width=32, layers=1, heads=1, hidden=64),
        embed_dim=8,
    )
    torch.manual_seed(0)
    model = multiway.create("clip", **{f: getattr(config, f) for f in ("image", "text", "embed_dim")}).eval()
    multiway.save(model, tmp_path / "clip")
    more = multiway.load(tmp_path / "clip", text_length=200)
    ids, mask = more.tokenize(LONG)
    assert ids.shape[1] == mask.sum() == 162
    assert model.tokenize(LONG)[0].shape[1] == 77
    torch.testing.assert_close(more.encode_text("a red dog"), model.encode_text("a red dog"))
    assert not torch.allclose(more.encode_text(LONG), model.encode_text(LONG), atol=1e-4)
    multiway.save(more, tmp_path / "long")
    again = multiway.load(tmp_path / "long")
    torch.testing.assert_close(again.encode_text(LONG), more.encode_text(LONG))
    with pytest.raises(UserError, match="takes 200 tokens"):
        longer(again, 200)


def test_where_the_table_has_rows_enough_weights_stay():
    model = multiway.create(
        "albef", image=tiny.vit(), text=tiny.bert(vocab_size=30522, positions=64), embed_dim=12, queue_size=8
    ).eval()
    more = longer(model, 60)
    assert more.config.text == model.config.text
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), more.parameters(), strict=True))
    assert len(more.tokenizer.encode(LONG)) == 60
    assert len(model.tokenizer.encode(LONG)) == model.config.tokenizer.max_length


def test_beit3_reads_more_and_keeps_its_unused_rows():
    config = tiny_beit3.config(RetrievalConfig, text=TextConfig(vocab_size=tiny_beit3.VOCAB, positions=18))
    model = tiny_beit3.build(config).eval()
    more = longer(model, 30)
    old, new = model.network.text_positions, more.network.text_positions
    assert len(new) == 32
    assert torch.equal(new[:10], old[:10])  # two unused rows, and half of 16
    torch.testing.assert_close(new[-1], old[-1])


def test_relative_positions_are_not_stretched():
    model = tiny_vlmo.vlmo()
    model.tokenizer = train_vocabulary(["a dog"], size=tiny.VOCAB, config=model.config.tokenizer)
    assert longer(model, 17).config.tokenizer.max_length == 17
    with pytest.raises(UserError, match="text_length is 64.* are for 17 tokens"):
        longer(model, 64)


def test_pictures_of_as_many_patches_have_positions_of_their_own_shape():
    model = tiny_vlmo.vlmo(tiny_vlmo.config(image=ImageConfig(image_size=(32, 24), patch_size=8)))
    table, found = model.transformer.relative.table, resized(model, (24, 32)).transformer.relative.table
    assert torch.equal(found, resize_table(table.detach(), (4, 3), (3, 4)))
    assert not torch.equal(found, table)
    model = tiny_beit3.build(tiny_beit3.config(image=ImageConfig(image_size=(32, 24), patch_size=8)))
    table, found = (m.network.image_positions.detach() for m in (model, resized(model, (24, 32))))
    wanted = resize_positions(table[None], (3, 4), prefix=3, old_grid=(4, 3))[0]
    assert torch.equal(found, wanted)
    assert not torch.equal(found, table)


def test_a_vilt_keeps_the_shape_of_larger_pictures():
    model = tiny_vilt.vilt()
    shape = resized(model, 2 * model.image_size).kept_shape
    assert shape == replace(
        model.kept_shape, shorter=2 * model.kept_shape.shorter, longest=2 * model.kept_shape.longest
    )
