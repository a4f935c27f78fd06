"""BEiT-3's masked data modelling: three streams in one pass, both forms, and the contract of a system."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ranks
import tiny_beit3 as tiny
import torch
import torch.nn.functional as F

import multiway
from multiway import weights
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.beit3 import Draws
from multiway.systems.beit3_config import BEiT3Config, CaptionerConfig, RetrievalConfig
from multiway.systems.beit3_masks import Kinds, masked_patches, masked_words

FORMS = pytest.mark.parametrize("form", ["release", "paper"])


def plain(model, batch: Batch, draws: Draws) -> dict[str, torch.Tensor]:
    """The four losses, each row by itself, unpacked, and every position computed."""
    kinds, found = Kinds.of(batch), {"mim": [], "pair_mim": [], "pair_mlm": [], "mlm": []}
    for b in range(len(batch)):
        length = int(kinds.attention_mask[b].sum())
        image = batch.image[b : b + 1] if kinds.image[b] else None
        ids = draws.input_ids[b : b + 1, :length] if length else None
        mask = None if ids is None else torch.ones_like(ids)
        patches = draws.patch_mask[b : b + 1] if image is not None else None
        hidden = model.network(image, ids, mask, patch_mask=patches)[0]
        mark = "pair_" if image is not None and length else ""
        if patches is not None:
            logits = model.mim_head(hidden[1 : 1 + tiny.PATCHES][patches[0]])
            losses = F.cross_entropy(logits, draws.codes[b][patches[0]], reduction="none")
            found[f"{mark}mim"].append(losses)
        if length:
            labels = draws.labels[b, :length]
            logits = model.mlm_head(hidden[len(hidden) - length :][labels != -100])
            found[f"{mark}mlm"].append(F.cross_entropy(logits, labels[labels != -100], reduction="none"))
    losses = {name: torch.cat(rows).mean() for name, rows in found.items()}
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@FORMS
def test_one_pass_over_three_streams_equals_every_row_by_itself(form) -> None:
    model, state = tiny.beit3(form=form)
    batch = tiny.streams(9)
    draws = tiny.draws(batch)
    ours, expected = model.losses(batch, state, draws), plain(model, batch, draws)
    assert set(ours) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, msg=name)
    fast, slow = gradients(model, ours["loss"]), gradients(model, expected["loss"])
    assert set(fast) == set(slow)
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@FORMS
def test_every_parameter_learns_from_three_streams(form) -> None:
    model, state = tiny.beit3(form=form)
    batch = tiny.streams(9)
    losses = model.losses(batch, state, tiny.draws(batch))
    assert all(torch.isfinite(value) for value in losses.values())
    grads = gradients(model, losses["loss"])
    assert [n for n, _ in model.named_parameters() if n not in grads or not grads[n].any()] == []


def test_the_joint_expert_is_for_pairs_alone() -> None:
    model, state = tiny.beit3(form="paper")
    batch = tiny.streams(9)
    draws = tiny.draws(batch)
    experts = {n.split(".")[4] for n, _ in model.named_parameters() if n.startswith("network.blocks.2.ffn")}
    assert experts == {"image", "text", "joint"}
    assert not any("joint" in n for n, _ in model.named_parameters() if n.startswith("network.blocks.1."))
    for name, own in (("mim", "image"), ("mlm", "text"), ("pair_mlm", "joint"), ("pair_mim", "joint")):
        grads = gradients(model, model.losses(batch, state, draws)[name])
        top = {n.split(".")[4] for n, g in grads.items() if n.startswith("network.blocks.2.ffn") and g.any()}
        assert top == {own}, name


def test_attention_is_shared_in_the_paper_and_doubled_in_the_release() -> None:
    names = {
        form: {n for n, _ in tiny.beit3(form=form)[0].named_parameters()} for form in ("release", "paper")
    }
    assert "network.blocks.0.attention.qkv.weight" in names["paper"]
    assert "network.blocks.0.attention.qkv.image.weight" in names["release"]
    assert any("attention.norm" in name for name in names["release"])
    assert not any("attention.norm" in name for name in names["paper"])


@FORMS
@pytest.mark.parametrize("alone", ["image", "text"])
def test_one_stream_alone_is_enough(form, alone) -> None:
    model, state = tiny.beit3(form=form)
    whole = tiny.pairs()
    draws = tiny.draws(whole)
    if alone == "image":
        batch, draws = Batch(image=whole.image), Draws(patch_mask=draws.patch_mask, codes=draws.codes)
    else:
        batch = Batch(input_ids=whole.input_ids, attention_mask=whole.attention_mask)
        draws = Draws(input_ids=draws.input_ids, labels=draws.labels)
    losses = model.losses(batch, state, draws)
    own = "mim" if alone == "image" else "mlm"
    assert losses["loss"] == losses[own] > 0
    others = {n: v.item() for n, v in losses.items() if n not in ("loss", own)}
    assert others == dict.fromkeys({"mim", "mlm", "pair_mim", "pair_mlm"} - {own}, 0.0)


def test_masks_have_the_papers_shares() -> None:
    model, _ = tiny.beit3()
    batch = tiny.streams(900)
    kinds, generator = Kinds.of(batch), torch.Generator().manual_seed(0)
    patches = masked_patches(model.config, kinds, generator)
    assert set(patches.sum(1)[kinds.image].tolist()) == {round(0.4 * tiny.PATCHES)}
    assert not patches[~kinds.image].any()
    ids, labels = masked_words(model.config, model.tokenizer, batch.input_ids, kinds, generator)
    chosen, free = labels != -100, batch.attention_mask.bool() & (batch.input_ids != tiny.CLS)
    assert not (chosen & ~free).any()
    for rows, share in ((kinds.pair, 0.5), (kinds.text & ~kinds.image, 0.15)):
        got = float(chosen[rows].sum() / free[rows].sum())
        assert got == pytest.approx(share, abs=0.03)
    assert float((ids[chosen] == tiny.MASK).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert torch.equal(ids[~chosen], batch.input_ids[~chosen])


def test_neighbouring_patches_are_masked_together() -> None:
    config = tiny.config(image=tiny.ImageConfig(image_size=112, patch_size=8))
    kinds = Kinds(
        torch.ones(50, dtype=torch.bool), torch.zeros(50, dtype=torch.bool), torch.zeros(50, 0).long()
    )
    mask = masked_patches(config, kinds, torch.Generator().manual_seed(0)).view(50, 14, 14)
    together = float((mask[:, :, 1:] == mask[:, :, :-1]).float().mean())
    assert together > 0.75  # independent patches: 0.4^2 + 0.6^2 = 0.52
    assert set(mask.flatten(1).sum(1).tolist()) == {78}


def test_codes_come_from_the_tokenizer_of_the_state() -> None:
    model, _ = tiny.beit3()
    model.learn_from(tiny.FakeTokenizer())
    state, batch = model.init_state(), tiny.streams(9)
    given = tiny.draws(batch)
    pixels = (batch.image * 0.5 + 0.5).clamp(0, 1)
    codes = tiny.FakeTokenizer().visual_tokens(pixels)
    asked = model.losses(batch, state, replace(given, codes=None))
    assert torch.equal(asked["loss"], model.losses(batch, state, replace(given, codes=codes))["loss"])
    assert not torch.equal(asked["mim"], model.losses(batch, state, given)["mim"])
    assert not any(name.startswith("_tokenizer") for name in model.state_dict())
    drawn = [
        model.losses(batch, state, None, torch.Generator().manual_seed(seed))["loss"] for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@FORMS
def test_a_step_in_which_nothing_is_masked_is_no_trouble(form) -> None:
    """A few short texts may have no masked word between them."""
    model, state = tiny.beit3(form=form)
    ids, mask = tiny.texts(2)
    losses = model.losses(
        Batch(input_ids=ids, attention_mask=mask),
        state,
        Draws(input_ids=ids, labels=torch.full_like(ids, -100)),
    )
    assert losses["loss"].item() == 0
    losses["loss"].backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_what_cannot_give_codes_is_refused() -> None:
    model, state = tiny.beit3()
    with pytest.raises(UserError, match=r"init\.visual-tokenizer"):
        model.losses(tiny.streams(), state, None, torch.Generator())
    for no_tokenizer in (torch.nn.Linear(2, 2), model):
        with pytest.raises(UserError, match="^[A-Za-z0-9]+ gives no visual tokens: take a VQ-KD or a dVAE$"):
            model.learn_from(no_tokenizer)
    other = tiny.FakeTokenizer()
    other.codes = 5
    with pytest.raises(UserError, match=r"system\.codes"):
        model.learn_from(other)
    coarse, _ = tiny.beit3(image=tiny.ImageConfig(image_size=(24, 40), patch_size=8))
    coarse.learn_from(tiny.FakeTokenizer())
    other = tiny.FakeTokenizer()
    other.visual_tokens = lambda image: torch.zeros(1, 7, dtype=torch.long)
    with pytest.raises(UserError, match="7 tokens"):
        model.learn_from(other)


@pytest.mark.slow
def test_one_batch_can_be_learned() -> None:
    torch.manual_seed(0)
    model, state = tiny.beit3(width=48, hidden=96)
    batch = tiny.streams(6)
    draws = tiny.draws(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        losses = model.losses(batch, state, draws)
        first = first or losses
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    for name in ("mim", "mlm", "pair_mim", "pair_mlm"):
        assert losses[name] < 0.2 * first[name], name


@FORMS
def test_saved_is_loaded(form, tmp_path) -> None:
    model, state = tiny.beit3(form=form)
    weights.save(model, tmp_path / "model")
    loaded = multiway.load(tmp_path / "model")
    batch = tiny.streams()
    draws = tiny.draws(batch)
    assert loaded.config == model.config
    assert torch.equal(loaded.losses(batch, state, draws)["loss"], model.losses(batch, state, draws)["loss"])
    assert loaded.tokenizer.encode("a red dog") == model.tokenizer.encode("a red dog")


def test_rows_without_a_picture_are_read_as_texts_alone_are() -> None:
    network = tiny.beit3()[0].network
    ids = torch.randint(4, tiny.MASK, (2, 6))
    every = torch.ones_like(ids)
    read = network(torch.zeros(2, 3, 40, 24), ids, every, has_image=torch.tensor([False, False]))
    torch.testing.assert_close(read[:, -6:], network(None, ids, every))
    assert not read[:, :-6].any()


def test_pictures_of_another_size_are_read() -> None:
    model, _ = tiny.beit3()
    assert model.look(torch.randn(2, 3, 40, 24)).shape == (2, 16, 24)


def rank(number: int, seed: int) -> dict[str, torch.Tensor]:
    """The loss and the gradients of one rank's half."""
    model, state = tiny.beit3(seed)
    batch = tiny.streams(12, seed=seed)
    draws = tiny.draws(batch, seed=seed)
    half = slice(6 * number, 6 * number + 6)
    own = Batch(
        image=batch.image[half],
        has_image=batch.has_image[half],
        input_ids=batch.input_ids[half],
        attention_mask=batch.attention_mask[half],
    )
    fields = ("patch_mask", "codes", "input_ids", "labels")
    losses = model.losses(own, state, Draws(**{f: getattr(draws, f)[half] for f in fields}))
    return gradients(model, losses["loss"]) | {f"loss/{n}": v.detach() for n, v in losses.items()}


def test_two_ranks_equal_one_process_with_the_whole_batch() -> None:
    """Masked positions differ in number between ranks: each counts alike."""
    both = ranks.run(rank, 2, 3)
    model, state = tiny.beit3(3)
    batch = tiny.streams(12, seed=3)
    losses = model.losses(batch, state, tiny.draws(batch, seed=3))
    for name, value in losses.items():
        torch.testing.assert_close((both[0][f"loss/{name}"] + both[1][f"loss/{name}"]) / 2, value.detach())
    for name, gradient in gradients(model, losses["loss"]).items():
        mean = (both[0][name] + both[1][name]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", [RetrievalConfig, CaptionerConfig])
def test_texts_alone_are_refused_among_pairs(kind) -> None:
    model, batch = tiny.build(tiny.config(kind)), tiny.pairs(3)
    mixed = replace(batch, has_image=torch.tensor([True, False, True]))
    for given, says in ((mixed, "leave texts alone out"), (replace(batch, image=None), "has no image")):
        with pytest.raises(UserError, match=says):
            model.losses(given, model.init_state())


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (BEiT3Config, {"image_mask": 1.5}, "image_mask is 1.5"),
        (BEiT3Config, {"pair_text_mask": -0.1}, "pair_text_mask is -0.1"),
        (CaptionerConfig, {"mask": 7.0}, "mask is 7.0"),
        (BEiT3Config, {"heads": 5}, "heads is 5"),
    ],
)
def test_configs_that_can_not_be(kind, changes, says) -> None:
    with pytest.raises(UserError, match=says):
        tiny.config(kind, **changes)
