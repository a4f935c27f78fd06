"""ViLT and its fine-tuning networks: the contract, what is drawn, starting weights, and the user's verbs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_vilt
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_steps import step

import multiway
from multiway.errors import UserError
from multiway.explain import carried, overlay, resize_heat
from multiway.objectives import alignment
from multiway.systems import NETWORKS
from multiway.systems.vilt import Draws, ViLT
from multiway.systems.vilt_config import RetrievalConfig
from multiway.systems.vilt_heads import Draws as RetrievalDraws
from multiway.systems.vilt_heads import Retrieval
from multiway.systems.vit import VisionTransformer
from multiway.text import Tokenizer, train_vocabulary
from multiway.train.build import build_system
from multiway.train.run import Init, Run, TrainConfig
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import timm_vit
from multiway.weights.start import start_from_model

PRETRAINED = ("vilt", "vilt itm", "vilt mlm")


def network(name: str):
    config = tiny_vilt.networks()[name]
    torch.manual_seed(0)
    return tiny_vilt.shaken(NETWORKS[config.system].network()(config))


def tokenizer() -> Tokenizer:
    config = replace(tiny_vilt.config().tokenizer, vocab="trained")
    return train_vocabulary(["a red dog", "two black cats", "a big pig"] * 3, size=tiny.VOCAB, config=config)


def drawn(name: str, batch) -> Draws | None:
    return tiny_vilt.draws(batch) if name in PRETRAINED else None


@pytest.mark.parametrize("name", tiny_vilt.networks())
def test_losses_are_finite_and_reach_every_parameter(name: str) -> None:
    model, batch = network(name), tiny_vilt.batch_for(name)
    losses, grads = step(model, model.init_state(), batch, drawn(name, batch))
    assert all(torch.isfinite(value).all() for value in losses.values())
    # nothing is pooled for MLM alone
    idle = {"pooler.weight", "pooler.bias"} if name == "vilt mlm" else set()
    assert {n for n, _ in model.named_parameters()} - set(grads) == idle
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in grads.values())


@pytest.mark.parametrize("name", ["vilt", "vilt_retrieval", "vilt_vqa", "vilt_nlvr2"])
def test_one_batch_is_learned_by_heart(name: str) -> None:
    model, batch = network(name), tiny_vilt.batch_for(name)
    if name == "vilt_vqa":
        batch = replace(batch, targets=(batch.targets > 0.5).float())
    state, given = model.init_state(), drawn(name, batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    first = None
    for _ in range(20):
        optimizer.zero_grad()
        losses = model.losses(batch, state, given)
        losses["loss"].backward()
        optimizer.step()
        # alignment has no least value
        learned = losses["loss"].item() - 0.1 * losses.get("wpa", torch.zeros(())).item()
        first = first or learned
    assert learned < 0.7 * first


@pytest.mark.parametrize("name", tiny_vilt.networks())
def test_saved_is_loaded(name: str, tmp_path: Path) -> None:
    model = network(name).eval()
    model.tokenizer = tokenizer()
    loaded = multiway.load(multiway.save(model, tmp_path / "model"))
    tiny.assert_same(dict(loaded.state_dict()), dict(model.state_dict()), tolerance=0.0)


def test_what_is_drawn_is_drawn_by_the_generator_alone() -> None:
    model, batch = tiny_vilt.vilt(tiny_vilt.config(max_patches=6)).eval(), tiny_vilt.batch()
    model.tokenizer = tokenizer()
    batch, state = replace(batch, input_ids=batch.input_ids % 40), model.init_state()
    a, b, c = (
        model.losses(batch, state, generator=torch.Generator().manual_seed(seed))["loss"]
        for seed in (1, 1, 2)
    )
    assert a == b
    assert a != c


def test_half_of_the_texts_keep_their_picture_and_no_false_one_is_theirs() -> None:
    model, batch = tiny_vilt.vilt(), tiny_vilt.batch(6)
    batch = replace(batch, ids=torch.tensor([0, 0, 1, 1, 2, 2]))
    for seed in range(20):
        labels, rows = model.pictures_of(batch, Draws(), torch.Generator().manual_seed(seed))
        assert labels.sum() == 3
        assert torch.equal(rows[labels == 1], torch.arange(6)[labels == 1])
        assert not (batch.ids[rows] == batch.ids)[labels == 0].any()


def test_without_another_picture_a_text_keeps_its_own() -> None:
    model, batch = tiny_vilt.vilt(), tiny_vilt.batch(4)
    labels, rows = model.pictures_of(replace(batch, ids=torch.zeros(4, dtype=torch.long)), Draws(), None)
    assert labels.tolist() == [1, 1, 1, 1]
    assert rows.tolist() == [0, 1, 2, 3]


def test_sampled_patches_are_the_pictures_own_and_evenly_drawn() -> None:
    model = tiny_vilt.vilt(tiny_vilt.config(max_patches=7))
    _, own = model.canvas(tiny_vilt.pictures(5))
    counts = torch.zeros(20)
    for seed in range(200):
        chosen = model.sampled(own, None, torch.Generator().manual_seed(seed))
        assert chosen.shape == (5, 7)
        inside = own.gather(1, chosen)
        assert torch.equal(inside.sum(1), own.sum(1).clamp_max(7))
        assert all(len(set(row.tolist())) == 7 for row in chosen)
        counts += torch.zeros(20).index_add_(0, chosen[0], torch.ones(7))
    assert counts.min() > 40  # of 70, for the picture that fills the canvas
    assert model.sampled(own[1:3], None, None) is None  # nothing to draw: they have fewer


def test_all_patches_are_read_in_evaluation() -> None:
    batch = tiny_vilt.batch()
    ids, mask = batch.text()
    found = []
    for most in (None, 2):
        model = tiny_vilt.vilt(tiny_vilt.config(max_patches=most)).eval()
        found.append(model.match_pairs(model.match_context(batch.image), model.match_text(ids, mask), mask))
    assert torch.equal(*found)


def test_retrieval_starts_from_the_matching_row_and_ranks_as_it_does() -> None:
    base = tiny_vilt.vilt()
    model = Retrieval(RetrievalConfig(**tiny_vilt.sizes()))
    start_from_model(model, base, "base")
    assert torch.equal(model.rank_head.weight[0], base.itm_head.weight[1])
    assert torch.equal(model.rank_head.bias[0], base.itm_head.bias[1])
    batch = tiny_vilt.batch()
    ids, mask = batch.text()
    scores = [m.match_pairs(m.look(batch.image), ids, mask)[:, 1] for m in (model, base)]
    torch.testing.assert_close(*scores)


def test_false_texts_that_do_not_exist_are_left_out() -> None:
    model, batch = network("vilt_retrieval"), tiny_vilt.batch()
    batch = replace(batch, ids=torch.tensor([0, 0, 0, 0, 1]))
    scores = model.scores(batch, RetrievalDraws())
    assert torch.isfinite(scores).sum(1).tolist() == [2, 2, 2, 2, 4]
    assert torch.isfinite(model.losses(batch, model.init_state())["loss"])


def test_pre_training_starts_from_a_vit_in_timms_layout(tmp_path: Path) -> None:
    config = tiny_vilt.config(text=replace(tiny_vilt.config().text, vocab_size=30522))
    source = VisionTransformer(config.image)
    theirs = to_theirs(Layout(tuple(timm_vit("", "", config.image))), source.state_dict())
    theirs["head.weight"] = torch.zeros(10, 24)
    save_file({name: tensor.clone() for name, tensor in theirs.items()}, tmp_path / "vit.safetensors")
    init = Init(image_tower=str(tmp_path / "vit.safetensors"))
    run = Run(name="vilt", system=config, data=None, train=TrainConfig(steps=1), init=init)
    model = build_system(run, lambda sentence: None)
    tiny.assert_same(dict(model.image_tower.state_dict()), dict(source.state_dict()), tolerance=0.0)


def test_nlvr2_starts_with_both_pictures_alike() -> None:
    base, batch = tiny_vilt.vilt(), tiny_vilt.batch_for("vilt_nlvr2")
    config = base.fine_tuning("nlvr2")
    model = NETWORKS[config.system].network()(config)
    start_from_model(model, base, "base")
    assert torch.equal(model.types.weight, base.types.weight[[0, 1, 1]])
    assert model.predict(batch).shape == (5, 2)


def test_verbs(tmp_path: Path) -> None:
    model = tiny_vilt.vilt().eval()
    model.tokenizer = tokenizer()
    with pytest.raises(UserError, match="no contrastive features"):
        model.encode_image(torch.randn(3, 32, 32))
    with pytest.raises(UserError, match="no contrastive features"):
        model.encode_text("a dog")
    image = tiny_vilt.pictures(1)[0, :, :, :40]
    found = model.match(image, ["a red dog", "two black cats"])
    assert found.shape == (2,)
    assert ((found > 0) & (found < 1)).all()
    answers = network("vilt_vqa").eval()
    answers.tokenizer = model.tokenizer
    assert answers.answer(image, "a dog")[0] in answers.config.labels


def test_a_word_is_carried_to_patches_of_its_picture() -> None:
    model, batch = tiny_vilt.vilt().eval(), tiny_vilt.batch()
    ids, mask = batch.text()
    maps = carried(model, batch.image, ids, mask)
    assert maps.shape == (5, ids.shape[1], 4, 5)
    words = alignment.without_ends(mask)
    # the plan's margins are met in the limit; after 50 iterations nearly
    torch.testing.assert_close(maps.sum((2, 3))[words], torch.ones(int(words.sum())), rtol=1e-3, atol=0.0)
    assert maps[~words].count_nonzero() == 0
    for row, (height, width) in enumerate(tiny_vilt.GRIDS):
        assert maps[row, :, height:].count_nonzero() == maps[row, :, :, width:].count_nonzero() == 0
    drawn = overlay(Image.new("RGB", (40, 32)), resize_heat(maps[0, 1], (32, 40)))
    assert drawn.size == (40, 32)


def test_texts_alone_are_refused() -> None:
    batch = replace(tiny_vilt.batch(), has_image=torch.tensor([True, False, True, True, True]))
    model = tiny_vilt.vilt()
    with pytest.raises(UserError, match="leave texts alone out"):
        model.losses(batch, model.init_state(), tiny_vilt.draws(batch))
    with pytest.raises(UserError, match="classify: it has networks for retrieval"):
        model.fine_tuning("classify")


def test_a_run_for_larger_pictures_starts_from_a_model_for_smaller_ones() -> None:
    old, config = tiny_vilt.vilt(), tiny_vilt.config()
    larger = replace(config, image=replace(config.image, image_size=64), longest_side=112)
    model = ViLT(larger)
    assert "shape" not in start_from_model(model, old, "old")
    name = "image_tower.blocks.0.attention.qkv.weight"
    assert torch.equal(model.get_parameter(name), old.get_parameter(name))


def test_configs_that_can_not_be() -> None:
    for changes, says in (
        ({"beta": 0.0}, "beta is 0.0"),
        ({"iterations": 0}, "iterations 0"),
        ({"max_patches": 0}, "max_patches is 0"),
    ):
        with pytest.raises(UserError, match=says):
            tiny_vilt.config(**changes)
    white = replace(tiny_vilt.config().image, mean=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="a colour that pictures have"):
        tiny_vilt.config(image=white)
    with pytest.raises(UserError, match="mlm_weight are both 0"):
        tiny_vilt.config(mlm_weight=0.0, itm_weight=0.0, wpa_weight=0.0)
    with pytest.raises(UserError, match="set itm_weight too"):
        tiny_vilt.config(itm_weight=0.0)
    with pytest.raises(UserError, match="plain ViT"):
        tiny_vilt.config(image=replace(tiny_vilt.config().image, frozen_blocks=1))
    with pytest.raises(UserError, match="longest_side"):
        tiny_vilt.config(longest_side=20)
    with pytest.raises(UserError, match="positions for texts"):
        tiny_vilt.config(tokenizer=replace(tiny_vilt.config().tokenizer, max_length=13))


def test_profile_says_that_all_of_it_is_interaction() -> None:
    found = multiway.systems.profile("vilt")
    assert found["interaction"]["gflops"] > 30 * (found["vision"]["gflops"] + found["text"]["gflops"])
    assert sum(part["parameters"] for part in found.values()) == pytest.approx(135, rel=0.1)


def test_words_are_carried_by_the_plan_that_was_trained() -> None:
    batch = tiny_vilt.batch()
    plans = [
        carried(tiny_vilt.vilt(tiny_vilt.config(beta=beta)).eval(), batch.image, *batch.text())
        for beta in (0.5, 0.05)
    ]
    assert not torch.allclose(*plans)


@pytest.mark.parametrize("count", [0, -1])
def test_a_text_is_told_from_others(count) -> None:
    with pytest.raises(UserError, match=f"system.false_texts is {count}: give 1 or more"):
        RetrievalConfig(false_texts=count)
