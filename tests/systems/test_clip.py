"""CLIP: two ranks equal one, several positives, the clamp, and what a text's feature depends on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import ranks
import tiny
import torch
import torch.nn.functional as F

from multiway.batch import Batch
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.systems.towers import BackboneConfig

SIZE, WORLD = 3, 2
WHOLE = tiny.batch(SIZE * WORLD)


def clip(**changes) -> CLIP:
    text = CLIPTextConfig(vocab_size=tiny.VOCAB, width=16, layers=2, heads=2, hidden=28, positions=11)
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    torch.manual_seed(0)
    values = {"image": image, "text": text, "tokenizer": clip_tokenizer(11), "embed_dim": 12}
    return CLIP(CLIPConfig(**(values | changes)))


def gradients(batch: Batch, world: int, changes: dict) -> dict:
    model = clip(**changes)
    out = model.losses(batch, model.init_state())
    out["loss"].backward()
    loss = out["loss"].detach().clone()
    if world > 1:
        for tensor in (loss, *(p.grad for p in model.parameters())):
            torch.distributed.all_reduce(tensor)
            tensor /= world
    return {"loss": {"loss": loss}, "gradients": tiny.gradients(model)}


def on_rank(rank: int, changes: list[dict]) -> list[dict]:
    part = WHOLE.split(WORLD)[rank]
    part = replace(part, ids=torch.tensor([4, 7, 4, 9, 7, 4]).split(SIZE)[rank])
    return [gradients(part, WORLD, change) for change in changes]


def test_two_ranks_equal_one_process_with_the_whole_batch() -> None:
    changes = [{"local_loss": local, "positives": p} for local in (True, False) for p in ("pair", "ids")]
    whole = replace(WHOLE, ids=torch.tensor([4, 7, 4, 9, 7, 4]))
    one = [gradients(whole, 1, change) for change in changes]
    for both in ranks.run(on_rank, WORLD, changes):
        for ours, theirs in zip(both, one, strict=True):
            tiny.assert_same(ours["loss"], theirs["loss"])
            tiny.assert_same(ours["gradients"], theirs["gradients"], tolerance=2e-5)


def test_a_text_is_its_last_token_and_padding_does_not_count() -> None:
    model = clip().eval()
    batch = tiny.batch()
    features, _ = model.text_context(batch.input_ids, batch.attention_mask)
    noise = batch.input_ids.where(batch.attention_mask.bool(), torch.full_like(batch.input_ids, 17))
    torch.testing.assert_close(model.text_context(noise, batch.attention_mask)[0], features)
    for b, length in enumerate(batch.attention_mask.sum(1)):
        alone = model.text_context(
            batch.input_ids[b : b + 1, :length], batch.attention_mask[b : b + 1, :length]
        )
        torch.testing.assert_close(alone[0][0], features[b])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_a_locked_tower_is_pooled_without_weights() -> None:
    tower = BackboneConfig(name="efficientnet_lite0", image_size=32, frozen_blocks="all")
    model = clip(image=tower, image_pool="mean").eval()
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = F.normalize(model.image_proj(model.image_tower(picture).mean(1)), dim=-1)
        torch.testing.assert_close(model.image_context(picture)[0], expected)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"text", "text_proj", "image_proj", "logit_scale"}


def test_the_scale_is_clamped_after_a_step() -> None:
    model = clip()
    for start, end in ((5.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        with torch.no_grad():
            model.logit_scale.fill_(start)
        model.advance(model.init_state(), [])
        assert float(model.logit_scale.detach()) == pytest.approx(end)


def test_matrices_alone_decay() -> None:
    decayed = {n for n, p in clip().named_parameters() if clip().decays(n, p)}
    assert "logit_scale" not in decayed
    assert "image_tower.cls_token" not in decayed
    assert "text.positions" in decayed
    assert not any(n.endswith("bias") or ".norm" in n for n in decayed)
    assert "text.blocks.0.attention.qkv.weight" in decayed
