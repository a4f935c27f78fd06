"""VLMo and its fine-tuning networks: the contract, the stages, and the user's verbs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_vlmo
import torch
from tiny_steps import step
from tiny_vlmo import LONGEST, POSITIONS

import multiway
from multiway.batch import Batch
from multiway.core.relative import image_rows, resize_table, text_index
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.beit import BEiT
from multiway.systems.beit_config import BEiTConfig, beit_vit
from multiway.systems.fused import Tokens
from multiway.systems.vlmo import Draws, VLMo
from multiway.systems.vlmo_config import VLMoConfig
from multiway.systems.vlmo_stages import STAGES, frozen
from multiway.text import Tokenizer, train_vocabulary
from multiway.train.optim import build_optimizer, freeze, set_lr
from multiway.train.run import TrainConfig
from multiway.weights.start import start_from_model


def network(name: str):
    config = tiny_vlmo.networks()[name]
    torch.manual_seed(0)
    return tiny_vlmo.shaken(NETWORKS[config.system].network()(config))


def drawn(name: str, batch: Batch) -> Draws | None:
    return tiny_vlmo.draws(batch) if name.split()[0] == "vlmo" else None


def idle(name: str, model: torch.nn.Module) -> set[str]:
    """Parameters that a network has for others of its kind, or that stand still by a plan."""
    frozen_there = {n for n, p in model.named_parameters() if not p.requires_grad}
    joint = {n for n, _ in model.named_parameters() if ".joint." in n}
    below = model.config.depth - model.config.joint_layers
    top = {
        n
        for n, _ in model.named_parameters()
        if any(f"blocks.{i}." in n for i in range(below, model.config.depth))
        and (".text." in n or ".image." in n)
    }
    if name == "vlmo_retrieval":
        return frozen_there | joint | {n for n, _ in model.named_parameters() if n.startswith("pooler")}
    return frozen_there | (top if name in ("vlmo_vqa", "vlmo_nlvr2") else set())


PAIRS = ("vlmo", "vlmo absolute", "vlmo_retrieval", "vlmo_vqa", "vlmo_nlvr2")


@pytest.mark.parametrize("name", PAIRS)
def test_losses_are_finite_and_reach_every_trained_parameter(name: str) -> None:
    model, batch = network(name), tiny_vlmo.batch_for(name)
    losses, grads = step(model, model.init_state(), batch, drawn(name, batch))
    assert all(torch.isfinite(value).all() for value in losses.values())
    parameters = {n for n, _ in model.named_parameters()}
    assert parameters - set(grads) == idle(name, model)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in grads.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_vlmo.networks())
def test_one_batch_is_learned_by_heart(name: str) -> None:
    model, batch = network(name), tiny_vlmo.batch_for(name)
    if name == "vlmo_vqa":
        batch = replace(batch, targets=(batch.targets > 0.5).float())
    state, given = model.init_state(), drawn(name, batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    first = None
    for _ in range(50):
        optimizer.zero_grad()
        loss = model.losses(batch, state, given)["loss"]
        loss.backward()
        optimizer.step()
        first = float(loss.detach()) if first is None else first
    assert float(loss.detach()) < 0.4 * first


@pytest.mark.parametrize("name", tiny_vlmo.networks())
def test_what_is_saved_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    model, batch = network(name).eval(), tiny_vlmo.batch_for(name)
    words = [f"word{i}" for i in range(20)]
    model.tokenizer = train_vocabulary(words, size=tiny.VOCAB, config=model.config.tokenizer)
    model.config = replace(model.config, tokenizer=model.tokenizer.config)
    multiway.save(model, tmp_path / "model")
    again = multiway.load(tmp_path / "model")
    assert again.config == model.config
    given = drawn(name, batch)
    with torch.no_grad():
        ours, theirs = (m.losses(batch, m.init_state(), given) for m in (model, again))
    assert {n: float(v) for n, v in ours.items()} == {n: float(v) for n, v in theirs.items()}


def test_losses_change_nothing() -> None:
    model = tiny_vlmo.vlmo()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    batch = tiny.batch()
    for _ in range(2):
        step(model, model.init_state(), batch, tiny_vlmo.draws(batch))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_recomputed_blocks_give_the_same_gradients() -> None:
    batch, found = tiny.batch(), []
    for on in (False, True):
        model = tiny_vlmo.vlmo().train()
        model.set_checkpointing(on)
        found.append(step(model, model.init_state(), batch, tiny_vlmo.draws(batch)))
    tiny.assert_same(found[0][0], found[1][0], tolerance=1e-7)
    tiny.assert_same(found[0][1], found[1][1], tolerance=1e-7)


def test_half_precision_is_near_the_whole_one() -> None:
    batch, model = tiny.batch(), tiny_vlmo.vlmo()
    drawn_here = tiny_vlmo.draws(batch)
    whole = model.losses(batch, model.init_state(), drawn_here)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.losses(batch, model.init_state(), drawn_here)["loss"]
    half.backward()
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_drawn_negatives_are_never_positives() -> None:
    model = tiny_vlmo.vlmo(tiny_vlmo.config(positives="ids", mlm_weight=0.0))
    ids = torch.tensor([1, 2, 1, 3, 3])
    batch = replace(tiny.batch(), ids=ids)
    figure = model.figure(batch)
    assert figure.dual.positive.sum(1).tolist() == [2, 1, 2, 2, 2]
    for _ in range(20):
        found = model.pairs(figure.dual, Draws(), None)
        assert (ids[found.text[5:10]] != ids[found.image[5:10]]).all()
        assert (ids[found.text[10:]] != ids[found.image[10:]]).all()
    # where every row is of one kind there are none, and the loss is that of the positives
    alike = model.figure(replace(batch, ids=torch.zeros(5, dtype=torch.long)))
    assert alike.itm_labels.tolist() == [1] * 5 + [-100] * 10
    assert torch.isfinite(alike.losses["loss"])


def test_without_joint_layers_itc_is_the_dual_encoder_alone() -> None:
    model = tiny_vlmo.vlmo(tiny_vlmo.config(joint_layers=0))
    batch = tiny.batch()
    losses, grads = step(model, model.init_state(), batch, tiny_vlmo.draws(batch))
    assert "itc_joint" not in losses
    assert losses["itc"] == losses["itc_dual"]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(grads)


# --- stages


def test_the_stage_of_texts_leaves_what_it_freezes_byte_for_byte() -> None:
    config = tiny_vlmo.config(stage="text", joint_layers=0)
    model = tiny_vlmo.vlmo(config)
    prefixes = frozen("text", config)
    sentence = freeze(model, prefixes)
    assert all(prefix in sentence for prefix in prefixes)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    train = TrainConfig(steps=3, optimizer="transformers_adamw", weight_decay=0.5)
    optimizer = build_optimizer(model, train)
    for number in range(3):
        batch = tiny.batch(seed=number)
        set_lr(optimizer, 0.01)
        _, grads = step(model, model.init_state(), replace(batch, image=None), tiny_vlmo.draws(batch))
        optimizer.step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == set(grads)
    official = ("text_embed.", "transformer.types", "ffn.text", "norm2.text", "mlm_", "relative.table")
    assert all(any(part in n for part in (*official, "transformer.norm")) for n in moved)
    standing = ("attention", "norm1", "gamma", "image", "patches", "cls_token", "pooler")
    assert not any(part in n for n in moved for part in standing)
    rows = before["transformer.relative.table"].clone()  # those of pictures have no part in texts
    assert torch.equal(model.transformer.relative.table[:54], rows[:54])


def test_absolute_networks_have_a_plan_of_their_own() -> None:
    config = tiny_vlmo.config(stage="text", joint_layers=0, positions="absolute", layer_scale=None)
    model = tiny_vlmo.vlmo(config)
    freeze(model, frozen("text", config))
    assert not model.transformer.positions.requires_grad
    assert model.transformer.text_embed.positions.weight.requires_grad
    assert list(STAGES) == ["image", "text", "pairs"]
    assert frozen("pairs", config) == ()


@pytest.mark.parametrize("tables", ["layers", "shared"])
def test_a_network_starts_from_a_beit(tables: str) -> None:
    torch.manual_seed(0)
    image = beit_vit(image_size=32, patch_size=8, width=24, depth=4, heads=3, hidden=40, relative_bias=tables)
    beit = tiny_vlmo.shaken(BEiT(BEiTConfig(image=image, codes=11)))
    model = tiny_vlmo.vlmo(tiny_vlmo.config(stage="text", joint_layers=0))
    text_rows = model.transformer.relative.table[52:].clone()
    adopted = model.adopt(beit.state_dict())
    own = model.state_dict()
    taken = {n: t for n, t in adopted.items() if n in own}
    assert all(own[n].shape == t.shape for n, t in taken.items())
    model.load_state_dict(taken, strict=False)
    # The same pictures have the same hidden states, but for the type that VLMo adds.
    with torch.no_grad():
        model.transformer.types.weight[1] = 0.0
    pictures = tiny.batch().image
    ours, theirs = model.eval().transformer(pictures), beit.eval().image_tower(pictures)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(model.transformer.relative.table[52:], text_rows)
    own_experts = [n for n in own if ".text." in n or "text_embed" in n]
    assert own_experts
    assert not set(own_experts) & set(taken)


def test_the_stage_of_pairs_starts_from_the_stage_of_texts() -> None:
    longer = tiny_vlmo.sizes()["text"]
    first = tiny_vlmo.vlmo(tiny_vlmo.config(stage="text", joint_layers=0, text=replace(longer, positions=17)))
    second = tiny_vlmo.vlmo(seed=1)
    own = second.state_dict()
    adopted = second.adopt(first.state_dict())
    taken = {n for n, t in adopted.items() if n in own and own[n].shape == t.shape}
    fresh = set(own) - taken
    assert all(
        n.startswith(("itm_head", "image_proj", "text_proj", "joint_", "logit_scale")) or ".joint." in n
        for n in fresh
    )
    assert set(first.state_dict()) <= taken


def test_relative_positions_for_shorter_texts_keep_their_meaning() -> None:
    old = tiny_vlmo.vlmo(tiny_vlmo.config(image=replace(tiny_vlmo.config().image, image_size=40)))
    new = tiny_vlmo.vlmo(tiny_vlmo.config(relative_positions=POSITIONS), seed=1)
    said = start_from_model(new, old, "old")
    assert "shape" not in said
    tables = [model.transformer.relative.table for model in (old, new)]
    grids, lengths = ((5, 5), (4, 4)), (LONGEST, POSITIONS)
    # words see each other as before, and what lies behind the rows of pictures is at its place
    index = [text_index(9, positions=p, first=image_rows(g) + 2) for g, p in zip(grids, lengths, strict=True)]
    assert torch.equal(tables[0][index[0]], tables[1][index[1]])
    between = [table[image_rows(grid) - 3 :][:5] for table, grid in zip(tables, grids, strict=True)]
    assert torch.equal(*between)
    with torch.no_grad():
        pictures = resize_table(tables[0], *grids)[: image_rows((4, 4))]
    torch.testing.assert_close(tables[1][: image_rows((4, 4))], pictures)
    same = tiny_vlmo.vlmo(tiny_vlmo.config(relative_positions=POSITIONS), seed=2)
    start_from_model(same, new, "new")
    assert torch.equal(same.transformer.relative.table, tables[1])


@pytest.mark.parametrize("positions", [8, 20])
def test_absolute_positions_of_texts_of_another_length(positions: int) -> None:
    sizes = {"positions": "absolute", "layer_scale": None}
    old, tokens = tiny_vlmo.vlmo(tiny_vlmo.config(**sizes)), tiny_vlmo.config().tokenizer
    text = replace(old.config.text, positions=positions)
    config = tiny_vlmo.config(**sizes, text=text, tokenizer=replace(tokens, max_length=positions))
    new = tiny_vlmo.vlmo(config, seed=1)
    fresh = new.transformer.text_embed.positions.weight.detach().clone()
    assert "shape" not in start_from_model(new, old, "old")
    known = old.transformer.text_embed.positions.weight[:positions]
    assert torch.equal(new.transformer.text_embed.positions.weight, torch.cat([known, fresh[len(known) :]]))


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_first_row_of_words_stands_still_where_it_is_padding(kind: str) -> None:
    tokens = replace(tiny_vlmo.config().tokenizer, kind=kind)
    words = tiny_vlmo.vlmo(tiny_vlmo.config(tokenizer=tokens)).transformer.text_embed.words
    words(torch.tensor([0, 3])).sum().backward()
    assert bool(words.weight.grad[0].any()) == (kind == "sentencepiece")


def test_relative_positions_for_longer_texts_are_refused() -> None:
    new = tiny_vlmo.vlmo(tiny_vlmo.config(relative_positions=64))
    with pytest.raises(UserError, match="texts of 17 tokens can't serve texts of 64"):
        start_from_model(new, tiny_vlmo.vlmo(), "old")


def test_what_has_another_shape_is_named() -> None:
    new = tiny_vlmo.vlmo(tiny_vlmo.config(hidden=48))
    assert "for another shape: transformer.blocks.0.ffn" in start_from_model(new, tiny_vlmo.vlmo(), "old")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 3}, "depth 3, here 4"),
        ({"heads": 2}, "has 2 heads where it reads the image, and this run 3"),
        ({"width": 48}, "width 48, here 24"),
        ({"patch_size": 16}, "rows of relative positions 12, here 52"),
        ({"patch_size": 4, "image_size": 16}, "patch_size 4, here 8"),
        ({"hidden": 48}, "hidden 48, here 40"),
        ({"depth": 3, "relative_bias": "layers"}, "depth 3, here 4"),
    ],
)
def test_a_beit_of_other_sizes_is_refused(changes: dict[str, object], named: str) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 4, "heads": 3, "hidden": 40}
    beit = BEiT(BEiTConfig(image=beit_vit(**(sizes | changes)), codes=11))
    with pytest.raises(UserError, match=named):
        start_from_model(tiny_vlmo.vlmo(), beit, "beit")


def test_layers_for_layer_decay() -> None:
    model = network("vlmo_vqa")
    layers = {n: model.layer_of(n)[0] for n, _ in model.named_parameters()}
    assert {n for n, layer in layers.items() if layer == 0} == {
        n for n in layers if any(part in n for part in ("text_embed", "patches", "cls_token", "types"))
    }
    assert layers["transformer.blocks.2.ffn.image.fc1.weight"] == 3
    assert layers["transformer.relative.table"] == layers["classifier.0.weight"] == layers["pooler.bias"] == 5
    assert network("vlmo").layer_of("logit_scale") == (5, 4)


def test_two_pictures_start_as_one() -> None:
    model = network("vlmo_nlvr2")
    base = tiny_vlmo.vlmo()
    types = model.adopt(base.state_dict())["transformer.types.weight"]
    assert torch.equal(types[1], types[2])
    assert torch.equal(types[:2], base.transformer.types.weight)


def test_larger_pictures_on_load(tmp_path: Path) -> None:
    model = network("vlmo").eval()
    model.tokenizer = train_vocabulary(["a dog"], size=tiny.VOCAB, config=model.config.tokenizer)
    model.config = replace(model.config, tokenizer=model.tokenizer.config)
    multiway.save(model, tmp_path / "model")
    larger = multiway.load(tmp_path / "model", image_size=48)
    features, context = larger.image_context(torch.randn(2, 3, 48, 48))
    assert features.shape == (2, 24)
    assert context.tokens.shape == (2, 37, 24)
    with pytest.raises(ValueError, match="image_size"):
        model.image_context(torch.randn(2, 3, 48, 48))


# --- the user's verbs


def test_one_checkpoint_is_a_dual_encoder_and_a_fusion_encoder() -> None:
    model = network("vlmo").eval()
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    ids, mask = tiny.batch().text()
    pictures = tiny.batch().image
    model.tokenize = lambda texts: (ids[: len(texts)], mask[: len(texts)])
    assert torch.allclose(model.encode_image(pictures).norm(dim=-1), torch.ones(5))
    assert torch.allclose(model.encode_text(["a"] * 5).norm(dim=-1), torch.ones(5))
    matched = model.match(pictures, ["a"] * 5)
    assert matched.shape == (5,)
    assert ((matched > 0) & (matched < 1)).all()
    one = model.match(pictures[:1], ["a"] * 5)
    assert float(one[0]) == pytest.approx(float(matched[0]), abs=1e-6)
    # what re-ranking asks, with pictures shared by texts
    _, context = model.image_context(pictures)
    _, hidden = model.text_context(ids, mask)
    rows = torch.tensor([0, 0, 3, 3, 4])
    shared = model.match_pairs(context.select(torch.tensor([0, 3, 4])).shared_by(
        torch.tensor([0, 0, 1, 1, 2])), hidden, mask)  # fmt: skip
    torch.testing.assert_close(shared, model.match_pairs(context.select(rows), hidden, mask))


def test_what_can_not_be_asked_is_said_in_a_sentence() -> None:
    with pytest.raises(UserError, match="system.labels"):
        NETWORKS["vlmo_vqa"].network()(NETWORKS["vlmo_vqa"].config()(**tiny_vlmo.sizes()))
    with pytest.raises(UserError, match="image_tower"):
        VLMo(tiny_vlmo.config(), torch.nn.Identity())
    with pytest.raises(UserError, match="joint_layers"):
        VLMoConfig(stage="text")
    with pytest.raises(UserError, match="max_length"):
        tiny_vlmo.config(relative_positions=5)
    with pytest.raises(UserError, match="ITC"):
        network("vlmo_vqa").image_context(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="task"):
        network("vlmo").fine_tuning("grounding")
    text_only = network("vlmo text")
    with pytest.raises(UserError, match="ITC"):
        text_only.image_context(torch.zeros(1, 3, 32, 32))
    ids, retrieval = torch.ones(1, 3, dtype=torch.long), network("vlmo_retrieval")
    with pytest.raises(UserError, match="matching head"):
        retrieval.match_pairs(Tokens(torch.zeros(1, 17, 24)), ids, ids)


def test_configs_of_tasks_keep_the_sizes() -> None:
    model = network("vlmo")
    assert model.fine_tuning("retrieval").sizes() == model.config.sizes()
    assert model.fine_tuning("nlvr2").types == 3
    assert model.fine_tuning("vqa", ("yes", "no")).labels == ("yes", "no")
    again = network("vlmo_nlvr2")
    assert again.fine_tuning("nlvr2") == again.config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 5}, "heads is 5"),
        ({"types": 1}, "types is 1"),
        ({"joint_layers": 9}, "joint_layers is 9: give 0 to the 4"),
        ({"relative_positions": 5}, "raise system.relative_positions"),
    ],
)
def test_sizes_that_can_not_be(changes: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        tiny_vlmo.config(**changes)


@pytest.mark.parametrize("name", ["vlmo", "vlmo_retrieval"])
def test_texts_alone_are_refused_among_pairs(name: str) -> None:
    model, batch = network(name), tiny_vlmo.batch_for(name)
    mixed = replace(batch, has_image=torch.tensor([True, False, True, True, True]))
    for given, says in ((mixed, "leave texts alone out"), (replace(batch, image=None), "has no image")):
        with pytest.raises(UserError, match=says):
            model.losses(given, model.init_state(), drawn(name, batch))


def test_answers_are_given_in_words() -> None:
    model = network("vlmo_vqa").eval()
    ids, mask = tiny.batch().text()
    model.tokenize = lambda texts: (ids[: len(texts)], mask[: len(texts)])
    found = model.answer(tiny.batch().image[:2], ["what?", "which?"])
    assert set(found) <= set(model.config.labels)
    with pytest.raises(UserError, match="as many"):
        model.answer(tiny.batch().image[:2], ["what?"])
