"""ALBEF for two pictures: who sees which, what is shared, what it starts from, its teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.albef_assignment import AssignmentConfig, TextAssignment, companions
from multiway.systems.albef_nlvr import NLVRConfig, PairModel
from multiway.systems.towers import BackboneConfig


def pairs(size: int = 4) -> Batch:
    batch = tiny.batch(size)
    image = torch.randn(size, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return replace(batch, image=image, labels=torch.arange(size) % 2)


def model(**changes) -> PairModel:
    torch.manual_seed(0)
    config = NLVRConfig(**({"image": tiny.vit(), "text": tiny.bert(fusion_layers=4)} | changes))
    found = PairModel(config)
    for parameter in found.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return found


def test_layers_come_in_pairs_and_companions_need_a_class_token() -> None:
    with pytest.raises(UserError, match="fusion_layers is 3: .* an even number"):
        model(text=tiny.bert(fusion_layers=3))
    tower = BackboneConfig(name="efficientnet_lite0", image_size=64)
    with pytest.raises(UserError, match="an image tower with one"):
        TextAssignment(AssignmentConfig(image=tower, text=tiny.bert(fusion_layers=4)))


def test_a_layer_looks_at_its_own_picture_and_a_pair_shares_keys_and_values() -> None:
    network = model().network.eval()
    first, second = network.text.fusion[0].cross, network.text.fusion[1].cross
    assert second.key_value is first.key_value
    assert second.query is not first.query
    names = {name for name, _ in network.named_parameters()}
    assert "text.fusion.0.cross.key_value.weight" in names
    assert "text.fusion.1.cross.key_value.weight" not in names
    batch = pairs()
    ids, mask = batch.text()
    a, b = network.look(batch.image[:, 0]), network.look(batch.image[:, 1])
    hidden = network.text(ids, mask)
    for i, block in enumerate(network.text.fusion):
        seen = block.cross.context((a, b)[i % 2])
        hidden = block(hidden, mask=mask.bool()[:, None, None, :], context=seen)
    ours, logits = network(a, b, ids, mask)
    real = mask.bool()
    torch.testing.assert_close(ours[real], hidden[real])
    torch.testing.assert_close(logits, network.head(hidden[:, 0]))
    assert not torch.allclose(network(b, a, ids, mask)[1], logits)


def test_it_starts_from_an_albef_with_every_fusion_layer_doubled() -> None:
    base, _ = tiny.albef()
    config = base.fine_tuning("nlvr2")
    assert config.text.fusion_layers == 2 * base.config.text.fusion_layers
    found = PairModel(config)
    own = found.state_dict()
    taken = {n: t for n, t in found.adopt(base.state_dict()).items() if n in own}
    assert set(own) - set(taken) == {f"network.head.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    assert all(own[name].shape == tensor.shape for name, tensor in taken.items())
    for i in range(4):
        name = f"fusion.{i}.cross.query.weight"
        assert torch.equal(
            taken[f"network.text.{name}"],
            base.state_dict()[f"encoders.text.fusion.{i // 2}.cross.query.weight"],
        )
    assert found.fine_tuning("nlvr2") is found.config
    with pytest.raises(UserError, match="no network for the task"):
        base.fine_tuning("grounding")


def test_the_teacher_is_a_target_and_follows() -> None:
    network = model(momentum=0.5, alpha=0.4)
    batch, state = pairs(), network.init_state(steps_per_epoch=2)
    plain = network.losses(batch)["loss"]
    torch.testing.assert_close(network.losses(batch, state)["loss"], plain)  # the ramp begins at 0
    network.advance(state, [])
    with torch.no_grad():
        network.network.head[2].weight += 1.0
    before = state.network.head[2].weight.clone()
    network.advance(state, [])
    assert state.alpha == pytest.approx(0.4)
    torch.testing.assert_close(state.network.head[2].weight, before + 0.5)
    logits = network.predict(batch)
    teacher = state.network(*state.network.look(torch.cat([batch.image[:, 0], batch.image[:, 1]])).chunk(2),
                            *batch.text())[1]  # fmt: skip
    soft = -(logits.log_softmax(1) * teacher.softmax(1)).sum(1).mean()
    hard = torch.nn.functional.cross_entropy(logits, batch.labels)
    torch.testing.assert_close(network.losses(batch, state)["loss"], 0.6 * hard + 0.4 * soft)
    assert model(momentum=None).init_state().network is None


def test_text_assignment_draws_companions() -> None:
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(300, 300, generator=g).fill_diagonal_(0.0)
    first, second, labels = companions(weights, g)
    own = torch.arange(300)
    assert torch.equal(first == own, labels == 0)
    assert torch.equal(second == own, labels == 1)
    assert (first != second).all()
    assert labels.bincount().min() > 70
    with pytest.raises(UserError, match="2 pairs at a time"):
        companions(weights[:2, :2], g)


def test_text_assignment_learns_from_pairs_and_passes_its_weights_on() -> None:
    torch.manual_seed(0)
    sizes = {"image": tiny.vit(), "text": tiny.bert(fusion_layers=4)}
    assignment = TextAssignment(AssignmentConfig(**sizes, embed_dim=12))
    base, _ = tiny.albef()
    fits = {n: t for n, t in assignment.adopt(base.state_dict()).items() if n in assignment.state_dict()}
    assert "image_proj.weight" in fits
    losses = assignment.losses(tiny.batch(5))
    losses["loss"].backward()
    assert assignment.network.text.fusion[3].cross.query.weight.grad is not None
    pair = PairModel(NLVRConfig(**sizes))
    passed = {n for n in pair.adopt(assignment.state_dict()) if n in pair.state_dict()}
    assert {n for n in pair.state_dict() if "head" not in n} == passed
    assert base.fine_tuning("assignment").text == assignment.config.text
    assert assignment.fine_tuning("nlvr2").text == pair.config.text
