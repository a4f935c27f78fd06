"""BEiT-3's fine-tuning networks against plain formulas, and how they start from a pre-trained model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_beit3 as tiny
import torch
import torch.nn.functional as F

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.beit3_config import (
    BEiT3Config,
    CaptionerConfig,
    ClassifierConfig,
    NLVR2Config,
    RetrievalConfig,
    TextConfig,
    VQAConfig,
)
from multiway.weights.start import start_from_model

HEADS = {
    "retrieval": tiny.config(RetrievalConfig),
    "vqa": tiny.config(VQAConfig, classes=3, labels=("red", "blue", "two")),
    "nlvr2": tiny.config(NLVR2Config),
    "classify": tiny.config(ClassifierConfig, classes=4),
    "caption": tiny.config(CaptionerConfig),
}


def batch_for(task: str) -> Batch:
    batch = tiny.pairs(labels=torch.tensor([0, 1, 1, 0]))
    if task == "nlvr2":
        return replace(batch, image=torch.stack([batch.image, batch.image.flip(0)], dim=1))
    return batch


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("task", HEADS)
@pytest.mark.slow
def test_one_batch_can_be_learned(task, form) -> None:
    model = tiny.build(replace(HEADS[task], form=form))
    state, batch = model.init_state(), batch_for(task)
    optimizer, found = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(50):
        losses = model.losses(batch, state, None, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append(losses["loss"].item())
    floor = {"classify": 0.4, "caption": 0.0}.get(task, 0.0)  # the entropy of smoothed labels
    assert found[-1] - floor < 0.35 * (found[0] - floor)


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("task", HEADS)
def test_every_weight_that_a_task_needs_learns(task, form) -> None:
    model = tiny.build(replace(HEADS[task], form=form))
    generator = torch.Generator().manual_seed(0)
    model.losses(batch_for(task), model.init_state(), None, generator)["loss"].backward()
    seen = {n for n, p in model.named_parameters() if p.grad is not None}
    left_out = {n for n, _ in model.named_parameters()} - seen
    # No fine-tuning masks patches; a class is told from the picture alone; a dual encoder fuses nothing, and
    # pairs go through the joint expert on top.
    unused = {"retrieval": "joint", "classify": "text joint words text_positions"}.get(task, "")
    names = {"mask_token", *unused.split()}
    if form == "paper" and not unused:
        left_out = {
            n for n in left_out if not n.startswith(("network.blocks.2.ffn", "network.blocks.2.norm2"))
        }
        assert any(n.startswith("network.blocks.2.ffn.joint") for n in seen)
    assert {n for n in left_out if not names & set(n.split("."))} == set()


def test_features_are_of_first_tokens_alone_and_blind_to_padding() -> None:
    model, batch = tiny.build(HEADS["retrieval"]).eval(), tiny.pairs()
    image, _ = model.image_context(batch.image)
    text, _ = model.text_context(*batch.text())
    whole = F.normalize(model.image_head(model.look(batch.image)[:, 0]), dim=-1)
    torch.testing.assert_close(image, whole)
    for b, length in enumerate(batch.attention_mask.sum(1)):
        ids = batch.input_ids[b : b + 1, :length]
        alone, _ = model.text_context(ids, torch.ones_like(ids))
        torch.testing.assert_close(text[b], alone[0])
    torch.testing.assert_close(image.norm(dim=1), torch.ones(4))
    logits = model.logit_scale.exp() * image @ text.T
    target = torch.arange(4)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(model.losses(batch, None)["itc"], expected)


def test_rows_with_one_id_are_positives_of_each_other() -> None:
    model = tiny.build(replace(HEADS["retrieval"], positives="ids"))
    batch = replace(tiny.pairs(), ids=torch.tensor([7, 8, 7, 9]))
    apart = model.losses(replace(batch, ids=torch.arange(4)), None)["itc"]
    torch.testing.assert_close(apart, tiny.build(HEADS["retrieval"]).losses(batch, None)["itc"])
    assert not torch.allclose(model.losses(batch, None)["itc"], apart)


def test_vqa_takes_soft_targets_or_one_label() -> None:
    model, batch = tiny.build(HEADS["vqa"]), tiny.pairs(labels=torch.tensor([2, 0, 1, 1]))
    hard = F.one_hot(batch.labels, 3).float()
    soft = replace(batch, targets=0.5 * hard)
    logits = model.predict(batch)
    torch.testing.assert_close(
        model.losses(soft, None)["vqa"],
        F.binary_cross_entropy_with_logits(logits, 0.5 * hard, reduction="none").sum(1).mean(),
    )
    assert torch.equal(
        model.losses(batch, None)["vqa"], model.losses(replace(batch, targets=hard), None)["vqa"]
    )


def test_only_what_is_read_is_computed_in_the_last_layer() -> None:
    model, batch = tiny.build(HEADS["vqa"]), tiny.pairs()
    whole = model.fuse(batch.image, *batch.text())
    some = model.fuse(batch.image, *batch.text(), read=[0, 3])
    torch.testing.assert_close(some[:, [0, 3]], whole[:, [0, 3]])
    assert not some[:, 1].any()
    pooled = torch.tanh(model.pooler["dense"](model.pooler["norm"](whole[:, 0])))
    torch.testing.assert_close(model.pooled(batch), pooled)


def test_a_run_for_larger_pictures_starts_from_a_model_for_smaller_ones() -> None:
    base, _ = tiny.beit3()
    image = tiny.ImageConfig(image_size=(48, 64), patch_size=8)
    model = tiny.build(replace(HEADS["retrieval"], image=image))
    said = start_from_model(model, base, "base")
    assert "3 left fresh" in said
    positions = model.network.image_positions
    assert torch.equal(positions[:3], base.network.image_positions[:3])
    assert torch.equal(
        positions, model.resize("network.image_positions", base.network.image_positions, (3, 4))
    )
    assert torch.equal(model.network.words.weight, base.network.words.weight)


def test_contrast_at_the_size_of_pre_training_comes_between_it_and_larger_pictures() -> None:
    base, _ = tiny.beit3()
    between = tiny.build(HEADS["retrieval"], seed=1)
    start_from_model(between, base, "base")
    between.losses(batch_for("retrieval"), between.init_state())["loss"].backward()
    with torch.no_grad():
        for parameter in between.parameters():
            if parameter.grad is not None:  # a text never meets the joint expert here
                parameter -= 0.1 * parameter.grad
    image = tiny.ImageConfig(image_size=(48, 64), patch_size=8)
    last = tiny.build(replace(HEADS["retrieval"], image=image), seed=2)
    assert ", 0 left fresh" in start_from_model(last, between, "between")
    assert torch.equal(last.image_head.weight, between.image_head.weight)
    assert torch.equal(last.logit_scale, between.logit_scale)


@pytest.mark.parametrize("positions", [12, 40])
def test_texts_of_another_length_keep_the_positions_they_share(positions) -> None:
    base, _ = tiny.beit3()
    text = replace(base.config.text, positions=positions)
    tokens = replace(base.config.tokenizer, max_length=positions - 2)
    model = tiny.build(replace(HEADS["retrieval"], text=text, tokenizer=tokens), seed=1)
    fresh = model.network.text_positions.detach().clone()
    start_from_model(model, base, "base")
    known = base.network.text_positions[:positions]
    assert torch.equal(model.network.text_positions, torch.cat([known, fresh[len(known) :]]))


def test_the_other_form_is_refused() -> None:
    base, _ = tiny.beit3(form="release", joint_layers=0)
    with pytest.raises(UserError, match="system.form release"):
        start_from_model(tiny.build(replace(HEADS["retrieval"], form="paper")), base, "base")


def test_features_are_not_cached_without_an_image_tower() -> None:
    with pytest.raises(UserError, match="cache_views"):
        tiny.beit3()[0].image_tower  # noqa: B018


def test_answers_are_the_labels_of_the_head() -> None:
    model = tiny.build(HEADS["vqa"]).eval()
    image = torch.rand(2, 3, *tiny.PIXELS)
    answers = model.answer(image, ["a red dog", "the park"])
    ids, mask = model.tokenize(["a red dog", "the park"])
    best = model.predict(Batch(image=image, input_ids=ids, attention_mask=mask)).argmax(1)
    assert answers == [("red", "blue", "two")[i] for i in best]
    with pytest.raises(UserError, match="2 pictures, 1 questions"):
        model.answer(image, "a red dog")
    nameless = tiny.build(replace(HEADS["vqa"], labels=()))
    with pytest.raises(UserError, match="names"):
        nameless.answer(image, ["a", "b"])


def test_two_pictures_are_told_apart() -> None:
    model, batch = tiny.build(HEADS["nlvr2"]).eval(), batch_for("nlvr2")
    found = model.represented(batch)
    for k in (0, 1):
        hidden = model.fuse(batch.image[:, k], *batch.text())
        first = torch.cat([hidden[:, 0], hidden[:, 1 + tiny.PATCHES]], dim=1)
        torch.testing.assert_close(found[:, 48 * k : 48 * (k + 1)], first)
    assert not torch.allclose(model.predict(batch), model.predict(replace(batch, image=batch.image.flip(1))))


@pytest.mark.parametrize("task", ["nlvr2", "classify"])
def test_heads_begin_as_small_as_the_config_says(task) -> None:
    config, sizes = HEADS[task], {}
    for scale in (0.001, 2.0):
        head = NETWORKS[config.system].network()(replace(config, head_scale=scale)).head
        sizes[scale] = [w.std() for w in head.parameters() if w.ndim == 2]
    for small, large in zip(sizes[0.001], sizes[2.0], strict=True):
        assert 1000 < large / small < 4000  # each is drawn anew
    with pytest.raises(UserError, match="head_scale is 0"):
        replace(config, head_scale=0.0)


def test_classes_are_told_by_the_mean_of_patches() -> None:
    model, batch = tiny.build(HEADS["classify"]), batch_for("classify")
    patches = model.look(batch.image)[:, 1:]
    torch.testing.assert_close(model.predict(batch), model.head(model.fc_norm(patches.mean(1))))
    expected = F.cross_entropy(model.predict(batch), batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(model.losses(batch, None)["classify"], expected)
    assert model.network.norm is None


def test_a_pre_trained_model_gives_its_network_and_its_head_for_words() -> None:
    base, _ = tiny.beit3()
    for task, left in (("retrieval", 3), ("caption", 0), ("nlvr2", 8), ("vqa", 10), ("classify", 4)):
        config = base.fine_tuning(task, ("a", "b"))
        assert config.system in NETWORKS
        assert config.network() == base.config.network()
        model = NETWORKS[config.system].network()(config)
        given, own = model.adopt(base.state_dict()), model.state_dict()
        fits = {n for n, t in given.items() if n in own and own[n].shape == t.shape}
        assert len(own) - len(fits) == left, task
    assert base.fine_tuning("classify", ("a", "b")).classes == 2
    assert base.fine_tuning("vqa").classes == 3129
    with pytest.raises(UserError, match="grounding"):
        base.fine_tuning("grounding")


def test_layers_and_decay_are_the_official_ones() -> None:
    model = tiny.build(tiny.config(BEiT3Config))
    named = dict(model.named_parameters())
    layers = {name: model.layer_of(name) for name in named}
    assert {layers[f"network.{n}"] for n in ("cls_token", "words.weight", "text_positions")} == {(0, 3)}
    assert layers["network.blocks.0.norm1.image.weight"] == (1, 3)
    assert layers["network.blocks.2.ffn.text.fc2.bias"] == (3, 3)
    assert {layers[n] for n in ("network.norm.text.weight", "mlm_head.weight", "mim_head.bias")} == {(4, 3)}
    decayed = {name for name, parameter in named.items() if model.decays(name, parameter)}
    assert {"network.text_positions", "network.mask_token", "network.words.weight"} <= decayed
    assert not {"network.cls_token", "network.image_positions", "network.norm.text.weight"} & decayed


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(UserError, match=r"max_length is 16, and there are positions for texts of 10 tokens"):
        tiny.config(text=TextConfig(vocab_size=70, positions=12))
    with pytest.raises(UserError, match="joint_layers"):
        tiny.config(form="paper", joint_layers=9)


def test_parameters_are_counted_once_by_what_goes_through_them() -> None:
    for form, through_both in (("release", 0), ("paper", 1)):
        model = tiny.build(tiny.config(BEiT3Config, form=form))
        parts = model.parts
        names = [name for group in parts.values() for name in group]
        assert sorted(names) == sorted(n for n, _ in model.named_parameters())
        assert bool(parts["interaction"]) == bool(through_both)
