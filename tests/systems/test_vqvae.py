"""VQ-VAE: pixels to tokens and back, unused codes, what is saved."""

from __future__ import annotations

import pytest
import tiny
import tiny_generalist
import torch

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.vqkd_quantizer import Quantizer
from multiway.systems.vqvae import VQVAE, VQVAEConfig


def pictures(size: int = 6) -> Batch:
    return Batch(image=torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def test_losses_by_hand_change_nothing_and_every_weight_learns() -> None:
    model, batch = tiny_generalist.vqvae(), pictures()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    out = model.losses(batch, model.init_state())
    tiny.assert_same(model.state_dict(), before, tolerance=0)
    z = torch.nn.functional.normalize(model.encode(batch.image), dim=-1)
    codes = model.quantizer.codebook[(z @ model.quantizer.codebook.T).argmax(-1)]
    torch.testing.assert_close(out["reconstruction"], (model.decode(codes) - batch.image).square().mean())
    torch.testing.assert_close(out["commitment"], 0.25 * (z - codes).square().mean())
    torch.testing.assert_close(out["loss"], out["reconstruction"] + out["commitment"])
    out["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    model.advance(model.init_state(), [out])
    moved = {n for n, tensor in model.state_dict().items() if not tensor.equal(before[n])}
    assert moved == {"quantizer.codebook", "quantizer.usage"}


def test_pictures_can_be_learned_and_come_back_from_their_tokens() -> None:
    torch.manual_seed(0)
    config = tiny_generalist.pictures(width=32, codes=16, start_after=60, decay=0.9, revived=4)
    model, state = VQVAE(config), None
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    choice = torch.randint(4, (8, 4, 4), generator=torch.Generator().manual_seed(0))
    image = colours[choice].repeat_interleave(8, 1).repeat_interleave(8, 2).permute(0, 3, 1, 2)
    state = model.init_state()
    with pytest.raises(UserError, match="no codebook yet"):
        model.visual_tokens(image)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        losses = model.losses(Batch(image=image), state)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        model.advance(state, [losses])
    tokens = model.visual_tokens((image + 1) / 2)
    assert tokens.shape == (8, 16)
    seen = model.picture(tokens)
    assert seen.shape == image.shape
    assert ((seen * 2 - 1) - image).square().mean() < 0.1
    assert losses["usage"] > 0.2


def test_unused_codes_go_to_the_patches_that_are_farthest() -> None:
    quantizer = Quantizer(3, 2, decay=0.5)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
    quantizer.started.fill_(1.0)
    found = quantizer(torch.tensor([[1.0, 0], [1.0, 0.1], [0.1, 1.0], [0.0, -1.0]]))
    assert found.tokens.tolist() == [0, 0, 1, 0]
    rows = found.rows(2)
    torch.testing.assert_close(rows["enqueue/far"][0], torch.tensor([0.0, -1.0]))
    quantizer.learn([rows])
    torch.testing.assert_close(quantizer.codebook[2], torch.tensor([0.0, -1.0]))
    assert quantizer.usage[2] == 0.5
    assert "enqueue/far" not in found.rows()


def test_saved_and_loaded_it_is_the_same(tmp_path) -> None:
    model, image = tiny_generalist.vqvae().eval(), pictures(2).image
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    tiny.assert_same(again.state_dict(), model.state_dict(), tolerance=0)
    tokens = model.visual_tokens((image + 1) / 2)
    assert tokens.equal(again.visual_tokens((image + 1) / 2))
    torch.testing.assert_close(again.picture(tokens), model.picture(tokens))
    assert VQVAEConfig(image_size=(32, 64), strides=(2, 4)).grid == (4, 8)
