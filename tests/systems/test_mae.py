"""MAE beside a slow plain reference; masking, reconstruction, and what a classifier starts from."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import tiny
import tiny_mae
import torch
from torch import Tensor, nn

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.mae import MAE
from multiway.systems.mae_heads import Classifier
from multiway.systems.patch_dropping import drawn_noise, split
from multiway.train.optim import build_optimizer, learning_rate
from multiway.train.run import TrainConfig


def plain(model: MAE, image: Tensor, noise: Tensor) -> Tensor:
    """The loss by loops: patches are cut out one by one, and the decoder draws all of them."""
    tower, config, size = model.image_tower, model.config, model.config.image.patch_size
    rows, columns = image.shape[2] // size, image.shape[3] // size
    losses = []
    for picture, numbers in zip(image, noise, strict=True):
        order = sorted(range(rows * columns), key=lambda n: float(numbers[n]))
        kept = order[: int(len(order) * (1 - config.mask_ratio))]
        cut = [
            picture[:, r * size : (r + 1) * size, c * size : (c + 1) * size]
            for r in range(rows)
            for c in range(columns)
        ]
        seen = [tower.patches.proj(cut[n][None]).flatten() + tower.positions[0, 1 + n] for n in kept]
        first = tower.cls_token[0, 0] + tower.positions[0, 0]
        latent = tower.norm(tower.blocks(torch.stack([first, *seen])[None]))
        shown = model.decoder_embed(latent)[0]
        where = {n: shown[1 + i] for i, n in enumerate(kept)}
        tokens = [shown[0], *(where.get(n, model.mask_token[0, 0]) for n in range(len(order)))]
        drawn = model.pixels(model.decoder((torch.stack(tokens) + model.decoder_positions[0])[None]))[0, 1:]
        for n in set(order) - set(kept):
            target = cut[n].permute(1, 2, 0).flatten()
            if config.normalised:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            losses.append((drawn[n] - target).square().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_the_loss_is_that_of_the_plain_reference(normalised: bool, ratio: float) -> None:
    config = tiny_mae.config(normalised=normalised, mask_ratio=ratio)
    model, other = tiny_mae.mae(config), tiny_mae.mae(config)
    image, draws = tiny_mae.pictures().image, tiny_mae.draws()
    loss = model.losses(Batch(image=image), model.init_state(), draws)["loss"]
    reference = plain(other, image, draws.noise)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    tiny.assert_same(tiny.gradients(model), tiny.gradients(other), tolerance=1e-5)


def test_every_trained_parameter_learns_and_losses_change_nothing() -> None:
    model = tiny_mae.mae()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.losses(tiny_mae.pictures(), model.init_state(), tiny_mae.draws())["loss"].backward()
    tiny.assert_same(dict(model.state_dict()), before, tolerance=0)
    still = {"image_tower.positions", "decoder_positions"}
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == still
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert idle == still


def test_one_batch_is_learned_by_heart() -> None:
    config = tiny_mae.config(mask_ratio=0.5, decoder_width=32, decoder_layers=1, normalised=False)
    model, batch, draws = tiny_mae.mae(config), tiny_mae.pictures(1), tiny_mae.draws(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.losses(batch, model.init_state(), draws)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_removed_patches_are_not_seen() -> None:
    model, image, noise = tiny_mae.mae(), tiny_mae.pictures(1).image, tiny_mae.draws(1).noise
    parts = split(noise, 0.75)
    hole = (parts.restore[0] >= parts.kept.shape[1]).unflatten(0, tiny_mae.GRID)
    pixels = hole.repeat_interleave(tiny_mae.PATCH, 0).repeat_interleave(tiny_mae.PATCH, 1)
    latent = model.latent(image, parts)
    torch.testing.assert_close(model.latent(image.where(~pixels, 7.0), parts), latent, rtol=0, atol=0)
    assert (model.latent(image.where(pixels, image + 1), parts) - latent).abs().max() > 1e-2
    assert parts.kept.shape == (1, 5)


def test_masks_are_drawn_from_the_generator() -> None:
    image = tiny_mae.pictures().image
    first, again, other = (
        drawn_noise(image, tiny_mae.PATCH, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(other)
    kept = split(first, 0.75).kept
    assert kept.unique(dim=0).shape[0] == len(image)


def test_a_reconstruction_keeps_what_is_seen() -> None:
    model, image, noise = tiny_mae.mae(), tiny_mae.pictures().image, tiny_mae.draws().noise
    seen, drawn = model.reconstruct(image, noise)
    hole = (seen == 0) & (image != 0)
    assert 0.7 < float(hole.float().mean()) < 0.8
    assert drawn[~hole].equal(image[~hole])
    assert not torch.isclose(drawn[hole], image[hole]).all()
    # A drawn patch has the true one's mean and deviation where the model draws a normalised one exactly.
    exact = tiny_mae.mae(tiny_mae.config())
    exact.pixels = lambda hidden: exact.target(image)
    torch.testing.assert_close(exact.reconstruct(image, noise)[1], image, rtol=1e-4, atol=1e-4)


def test_what_can_not_be_is_refused() -> None:
    for ratio in (0.0, 0.99):
        with pytest.raises(UserError, match="mask_ratio"):
            MAE(tiny_mae.config(mask_ratio=ratio))
    with pytest.raises(UserError, match="relative"):
        MAE(tiny_mae.config(image=tiny_mae.vit(relative_bias="shared")))


def test_saved_and_loaded_it_says_the_same_also_of_larger_pictures(tmp_path) -> None:
    model = tiny_mae.mae().eval()
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert asdict(again.config) == asdict(model.config)
    batch, draws = tiny_mae.pictures(), tiny_mae.draws()
    ours = again.losses(batch, again.init_state(), draws)
    tiny.assert_same(ours, model.losses(batch, model.init_state(), draws), tolerance=0)
    larger = multiway.load(tmp_path / "model", image_size=(48, 64))
    assert larger.decoder_positions.shape == (1, 49, 16)
    out = larger.losses(Batch(image=torch.randn(2, 3, 48, 64)), larger.init_state())
    assert torch.isfinite(out["loss"])


def classifier(model: MAE, **changes) -> Classifier:
    head = Classifier(replace(model.fine_tuning("classify", ("cat", "dog", "cow")), **changes))
    head.load_state_dict(head.adopt(model.state_dict()), strict=False)
    return head


def test_a_classifier_starts_from_the_pre_trained_tower() -> None:
    model = tiny_mae.mae()
    head, batch = classifier(model), replace(tiny_mae.pictures(), labels=torch.tensor([0, 2, 1, 1, 0]))
    x = model.image_tower.layers(model.image_tower.embed(batch.image))
    pooled = nn.functional.layer_norm(x[:, 1:].mean(1), (24,), eps=1e-6)
    torch.testing.assert_close(head.predict(batch), head.head(pooled))
    loss = head.losses(batch, head.init_state())["loss"]
    smooth = nn.functional.cross_entropy(head.predict(batch), batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, smooth)
    loss.backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []  # positions learn here
    assert float(head.head.weight.detach().abs().max()) < 2e-4


def test_shares_of_classes_are_a_target() -> None:
    head, batch = classifier(tiny_mae.mae()), tiny_mae.pictures(2)
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    loss = head.losses(replace(batch, targets=shares), head.init_state())["loss"]
    target = 0.9 * shares + 0.1 / 3
    expected = -(target * head.predict(batch).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="labels"):
        head.losses(batch, head.init_state())


def test_a_probe_trains_the_head_alone() -> None:
    model = tiny_mae.mae()
    image = replace(model.fine_tuning("classify").image, pool="cls", drop_path=0.5)
    head = classifier(model, probe=True, image=image).train()
    batch = replace(tiny_mae.pictures(), labels=torch.tensor([0, 2, 1, 1, 0]))
    assert {n for n, p in head.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    tokens = model.image_tower(batch.image)[:, 0]
    pooled = (tokens - tokens.mean(0)) / (tokens.var(0, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(head.predict(batch), head.head(pooled))
    assert not head.norm.running_mean.equal(torch.zeros(24))
    head.losses(batch, head.init_state())["loss"].backward()
    with pytest.raises(UserError, match="a single picture"):
        head.predict(replace(batch, image=batch.image[:1]))
    assert head.eval().predict(replace(batch, image=batch.image[:1])).shape == (1, 3)


def test_layers_learn_the_slower_the_lower_they_are() -> None:
    head = classifier(tiny_mae.mae())
    optimizer = build_optimizer(head, TrainConfig(steps=1, layer_decay=0.5, weight_decay=0.1))
    names = {p: n for n, p in head.named_parameters()}
    found = {names[p]: (g["scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found["head.weight"] == (1, 0.1)
    assert found["image_tower.fc_norm.weight"] == (1, 0)
    assert found["image_tower.blocks.2.ffn.all.fc1.weight"] == (0.5, 0.1)
    assert found["image_tower.positions"] == (0.0625, 0)


def test_the_schedule_starts_from_nothing() -> None:
    train = TrainConfig(steps=10, lr=2.0, min_lr=0.0, warmup_steps=4, schedule="mae")
    rates = [learning_rate(step, train, steps_per_epoch=5) for step in range(10)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates[7] == pytest.approx(1.0)
