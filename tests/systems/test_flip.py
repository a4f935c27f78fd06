"""FLIP: what is left out is not seen, whole pictures are CLIP, texts do not see their batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from official_shapes import shapes

import multiway
from multiway.errors import UserError
from multiway.systems.clip import CLIP, CLIPConfig, clip_vit
from multiway.systems.flip import FLIP, Draws, FLIPConfig, flip_text, flip_tokenizer, flip_vit
from multiway.text import Tokenizer
from multiway.weights.convert import convert
from multiway.weights.flip import layout
from multiway.weights.keymap import to_ours, to_theirs
from multiway.weights.official import check

PATCHES = 16


def config(**changes) -> FLIPConfig:
    sizes = {"width": 64, "heads": 1, "hidden": 40}
    values = {
        "image": flip_vit(image_size=32, patch_size=8, depth=2, **sizes),
        "text": flip_text(vocab_size=tiny.VOCAB, layers=2, positions=11, **sizes),
        "tokenizer": flip_tokenizer(11),
        "embed_dim": 12,
    }
    return FLIPConfig(**(values | changes))


def flip(**changes) -> FLIP:
    torch.manual_seed(0)
    return FLIP(config(**changes))


def noise(size: int = 4) -> Draws:
    return Draws(noise=torch.rand(size, PATCHES, generator=torch.Generator().manual_seed(0)))


def test_patches_left_out_count_for_nothing_and_the_others_do() -> None:
    model, batch, draws = flip(drop=0.75), tiny.batch(4), noise()
    loss = model.losses(batch, model.init_state(), draws)["itc"]
    hole = (draws.noise.argsort(1).argsort(1) >= 4).unflatten(1, (4, 4))
    pixels = hole.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]

    def with_other(where: torch.Tensor) -> torch.Tensor:
        image = batch.image.where(~where, batch.image.flip(0) + 1)
        return model.losses(replace(batch, image=image), model.init_state(), draws)["itc"]

    torch.testing.assert_close(with_other(pixels), loss, rtol=0, atol=0)
    assert abs(with_other(~pixels) - loss) > 1e-4


@pytest.mark.parametrize("image", ["flip", "clip"])
def test_leaving_out_equals_masking_in_every_layer(image: str) -> None:
    """The plain way: all patches go through the tower, and no token may attend to those that are masked."""
    towers = {"clip": clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)}
    changes = {"image": towers[image]} if image == "clip" else {}
    fast, slow = flip(**changes), flip(**changes)
    batch, draws = tiny.batch(4), noise()
    kept = draws.noise.argsort(1).argsort(1) < 8
    seen = torch.cat([torch.ones(4, 1, dtype=torch.bool), kept], dim=1)
    tower = slow.image_tower
    tokens = tower.norm(tower.blocks(tower.embed(batch.image), mask=seen[:, None, None]))
    if image == "flip":
        pooled = (tokens * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        features = torch.nn.functional.normalize(slow.image_proj(pooled), dim=-1)
    else:
        features = slow.image_features(tokens)
    slow.image_features = lambda _: features
    loss = fast.losses(batch, fast.init_state(), draws)["itc"]
    plain = slow.losses(batch, slow.init_state(), draws)["itc"]
    torch.testing.assert_close(loss, plain)
    loss.backward()
    plain.backward()
    tiny.assert_same(tiny.gradients(fast), tiny.gradients(slow), tolerance=1e-5)


def test_without_removal_it_is_clip() -> None:
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    text = replace(flip_text(vocab_size=tiny.VOCAB, positions=11, width=16, heads=2, hidden=28), layers=1)
    values = {"image": image, "text": text, "tokenizer": flip_tokenizer(11), "embed_dim": 12}
    torch.manual_seed(0)
    tuned = FLIP(FLIPConfig(**values, drop=0.0))
    torch.manual_seed(0)
    plain = CLIP(CLIPConfig(**values))
    batch = tiny.batch(4)
    loss = tuned.losses(batch, tuned.init_state())["loss"]
    assert loss.equal(plain.losses(batch, plain.init_state())["loss"])


def test_patches_are_drawn_from_the_generator() -> None:
    model, batch = flip(), tiny.batch(4)
    first, again, other = (
        model.losses(batch, model.init_state(), None, torch.Generator().manual_seed(s))["loss"]
        for s in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(other)


def test_a_text_does_not_depend_on_what_else_is_in_its_batch() -> None:
    model, batch = flip().eval(), tiny.batch(4)
    padded, length = batch.attention_mask.sum(1), batch.input_ids.shape[1]
    row = int(padded.argmin())
    assert padded[row] < length
    ids = batch.input_ids * batch.attention_mask
    whole = model.text_context(ids, batch.attention_mask)[0]
    cut = slice(0, int(padded[row]))
    alone = model.text_context(ids[row : row + 1, cut], batch.attention_mask[row : row + 1, cut])[0]
    torch.testing.assert_close(alone[0], whole[row])


def test_towers_that_can_leave_nothing_out_are_refused() -> None:
    for image in (flip_vit(frozen_blocks="all"), flip_vit(relative_bias="shared")):
        with pytest.raises(UserError, match="leaves patches out"):
            FLIP(config(image=replace(image, depth=1, width=64, heads=1, hidden=8)))
    with pytest.raises(UserError, match=r"drop 0\.99"):
        flip(drop=0.99)


def test_official_weights_are_recognised_and_leave_again(tmp_path: Path) -> None:
    model = flip(drop=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    theirs = to_theirs(layout(model.config), model.state_dict())
    assert theirs["img_encoder/embedding/kernel"].shape == (8, 8, 3, 64)
    assert "txt_encoder/Transformer/encoderblock_01/MultiHeadDotProductAttention_0/query/kernel" in theirs
    assert shapes(to_ours(layout(model.config), theirs)[0]) == shapes(model.state_dict())
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    path = convert(multiway.save(model, tmp_path / "ours"), tmp_path / "flip.safetensors", to="official")
    again = multiway.load(path)
    assert again.config == model.config
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
    assert check(path).unexpected == ()
    told = json.loads((tmp_path / "ours/config.json").read_text())
    assert told["system"] == "flip"
    assert multiway.load(tmp_path / "ours").config == model.config


def test_whatever_a_tokenizer_pads_with_a_text_does_not_see_its_batch() -> None:
    model, mask = flip().eval(), torch.tensor([[1, 1, 1, 0, 0]])
    ids = torch.randint(1, tiny.VOCAB, (1, 5))
    padded = [ids.masked_fill(mask == 0, pad) for pad in (0, 1)]
    found = [model.text(given, mask) for given in padded]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], model.text(ids[:, :3], mask[:, :3]))
