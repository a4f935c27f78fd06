"""BEiT and BEiT v2: what is masked is not seen, targets come from a tokenizer, ranks, fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import ranks
import tiny
import tiny_beit
import torch
from torch import nn

import multiway
from multiway.batch import Batch
from multiway.core.embed import sincos_positions
from multiway.data.patch_masks import BlockMask
from multiway.errors import UserError
from multiway.systems.beit import BEiT, Draws
from multiway.systems.beit_config import ClassifierConfig
from multiway.systems.beit_heads import Classifier
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig

#: The forms that a pre-training can have.
FORMS = {
    "beit": {},
    "layers": {"image": tiny_beit.vit(relative_bias="layers")},
    "absolute": {"image": tiny_beit.vit(relative_bias="none", absolute_positions=True, layer_scale=None)},
    "shared head": {"early_layer": 1},
    "own head": {"early_layer": 2, "shared_head": False, "aggregation_layers": 1},
}


def draws(size: int = 5, *, seed: int = 0) -> Draws:
    """Masks of different sizes, and any tokens."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(size, tiny_beit.PATCHES, generator=g) < 0.4
    mask[:, 0] = True
    return Draws(mask=mask, tokens=torch.randint(tiny_beit.CODES, mask.shape, generator=g))


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_learns_and_losses_change_nothing(form: str) -> None:
    model = tiny_beit.beit(tiny_beit.beit_config(**FORMS[form]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    out = model.losses(tiny_beit.pictures(), model.init_state(), draws())
    tiny.assert_same(dict(model.state_dict()), before, tolerance=0)
    assert all(torch.isfinite(value) for value in out.values())
    parts = [out[name] for name in ("mim", "mim_cls") if name in out]
    assert len(parts) == 1 + (model.aggregation is not None)
    torch.testing.assert_close(out["loss"], torch.stack(parts).sum())
    out["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_one_batch_is_learned_by_heart(form: str) -> None:
    model, batch = tiny_beit.beit(tiny_beit.beit_config(**FORMS[form])), tiny_beit.pictures(3)
    state, choices = model.init_state(), draws(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(101):
        optimizer.zero_grad()
        out = model.losses(batch, state, choices)
        out["loss"].backward()
        optimizer.step()
    assert out["mim"] < 0.1
    assert out["accuracy"] == 1


def test_a_masked_patch_is_not_seen_and_the_others_are() -> None:
    model, batch, choices = tiny_beit.beit(), tiny_beit.pictures(1), draws(1)
    mask = choices.mask[0].unflatten(0, tiny_beit.GRID)
    pixels = mask.repeat_interleave(tiny_beit.PATCH, 0).repeat_interleave(tiny_beit.PATCH, 1)
    hidden = model.hidden(batch.image, choices.mask).last
    same = model.hidden(batch.image.where(~pixels, 7.0), choices.mask).last
    torch.testing.assert_close(same, hidden)
    other = model.hidden(batch.image.where(pixels, batch.image + 1), choices.mask).last
    assert (other - hidden).abs().max() > 1e-2


def test_aggregation_reads_the_early_patches_and_the_last_class_token() -> None:
    model = tiny_beit.beit(tiny_beit.beit_config(early_layer=1))
    batch, choices = tiny_beit.pictures(), draws()
    model.losses(batch, model.init_state(), choices)["mim_cls"].backward()
    last = model.image_tower.blocks[-1]
    # Late blocks are reached through the class token alone: of their positions' bias, its row counts.
    assert last.ffn["all"].fc1.weight.grad.abs().sum() > 0
    plain = tiny_beit.beit()
    hidden, own = model.hidden(batch.image, choices.mask), plain.hidden(batch.image, choices.mask)
    torch.testing.assert_close(hidden.last, own.last)
    assert hidden.aggregated is not None
    assert own.aggregated is None


def test_aggregation_has_no_tables_of_its_own() -> None:
    with pytest.raises(UserError, match="relative-bias"):
        BEiT(tiny_beit.beit_config(early_layer=1, image=tiny_beit.vit(relative_bias="layers")))


@torch.no_grad()
def test_weights_begin_as_officially() -> None:
    torch.manual_seed(0)
    wide = tiny_beit.vit(width=192, heads=3, hidden=768, depth=4)
    model = BEiT(tiny_beit.beit_config(image=wide, early_layer=2, shared_head=False))
    tower = model.image_tower
    cut = 0.02 * 0.5396  # the deviation of a normal that is cut at one of its own
    for weight in (tower.patches.proj.weight, tower.blocks[1].attention.qkv.weight, model.head.weight):
        assert weight.abs().max() <= 0.02
        assert float(weight.std()) == pytest.approx(cut, rel=0.05)
    for token in (tower.cls_token, model.mask_token):
        assert 0.01 < token.abs().max() <= 0.02
    for layer, block in enumerate(tower.blocks, 1):
        for part in (block.attention.out, block.ffn["all"].fc2):
            assert float(part.weight.std()) == pytest.approx(cut / (2 * layer) ** 0.5, rel=0.05)
            assert not part.bias.any()
        assert (block.gamma1 == 0.1).all()
    assert not tower.relative[0].table.any()
    # Those of aggregation are torch's own, made smaller as layers 3 and 4 are.
    uniform = 192**-0.5 / 3**0.5
    for layer, block in enumerate(model.aggregation.blocks, 3):
        assert float(block.attention.qkv.weight.std()) == pytest.approx(uniform, rel=0.05)
        assert float(block.attention.out.weight.std()) == pytest.approx(
            uniform / (2 * layer) ** 0.5, rel=0.05
        )
    assert model.aggregation.head.weight.abs().max() <= 0.02


def test_sines_and_cosines_stay_as_they_are() -> None:
    image = replace(tiny_beit.vit(), absolute_positions=True, relative_bias="none", sincos=True)
    tower = BEiT(tiny_beit.beit_config(image=image)).image_tower
    assert torch.equal(tower.positions, sincos_positions(image.grid, image.width))


def test_masks_are_drawn_from_the_generator() -> None:
    model, image = tiny_beit.beit(), tiny_beit.pictures().image
    first, again, other = (model.draw_mask(image, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert (first.sum(1) == 8).all()
    assert first.unique(dim=0).shape[0] > 1


def test_tokens_come_from_the_tokenizer_of_the_whole_picture() -> None:
    model = tiny_beit.beit()
    image = (
        torch.rand(4, 3, *tiny_beit.SIZE) - torch.tensor(model.image_mean)[:, None, None]
    ) / torch.tensor(model.image_std)[:, None, None]
    batch, tokenizer = Batch(image=image), tiny_beit.Colours()
    with pytest.raises(UserError, match="visual-tokenizer"):
        model.losses(batch, model.init_state())
    model.learn_from(tokenizer)
    state = model.init_state()
    mask = draws(4).mask
    asked = model.losses(batch, state, Draws(mask=mask))
    pixels = (
        image * torch.tensor(model.image_std)[:, None, None] + torch.tensor(model.image_mean)[:, None, None]
    )
    given = Draws(mask=mask, tokens=tokenizer.visual_tokens(pixels.clamp(0, 1)))
    torch.testing.assert_close(model.losses(batch, state, given)["loss"], asked["loss"])
    # The tokenizer is a part of the state, not of the model.
    assert not any("tokenizer" in name for name in model.state_dict())
    assert state.model is tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        (nn.Identity(), "no visual tokens"),
        (tiny_beit.Colours(codes=3), "3 tokens"),
        (tiny_beit.Colours(size=(32, 40)), None),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer: nn.Module, says: str | None) -> None:
    if says is None:
        tiny_beit.beit().learn_from(tokenizer)
        return
    with pytest.raises(UserError, match=says):
        tiny_beit.beit().learn_from(tokenizer)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": BlockMask(patches=21, exact=True)}, "4 x 5 patches: give 1 to 20"),
        ({"mask": BlockMask(patches=0)}, "mask.patches is 0"),
        ({"early_layer": 9}, "early_layer is 9: give 0 to the 3"),
    ],
)
def test_configs_that_can_not_be(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        tiny_beit.beit_config(**changes)


def test_a_tokenizer_of_another_grid_is_refused() -> None:
    class Halves(tiny_beit.Colours):
        def visual_tokens(self, image: torch.Tensor) -> torch.Tensor:
            return super().visual_tokens(image)[:, ::2]

    with pytest.raises(UserError, match="10 tokens a picture"):
        tiny_beit.beit().learn_from(Halves())


def gradients(batch: Batch, choices: Draws, world: int) -> dict:
    model = tiny_beit.beit(tiny_beit.beit_config(early_layer=1, normalisation="global"))
    out = model.losses(batch, model.init_state(), choices)
    out["loss"].backward()
    loss = out["loss"].detach().clone()
    if world > 1:
        for tensor in (loss, *(p.grad for p in model.parameters())):
            torch.distributed.all_reduce(tensor)
            tensor /= world
    return {"loss": {"loss": loss}, "gradients": tiny.gradients(model)}


def on_rank(rank: int) -> dict:
    part, choices = tiny_beit.pictures(6).split(2)[rank], draws(6)
    rows = slice(3 * rank, 3 * rank + 3)
    return gradients(part, Draws(mask=choices.mask[rows], tokens=choices.tokens[rows]), 2)


def test_two_ranks_equal_one_process_with_the_whole_batch() -> None:
    one = gradients(tiny_beit.pictures(6), draws(6), 1)
    for ours in ranks.run(on_rank, 2):
        tiny.assert_same(ours["loss"], one["loss"])
        tiny.assert_same(ours["gradients"], one["gradients"], tolerance=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_saved_and_loaded_it_says_the_same(form: str, tmp_path) -> None:
    model = tiny_beit.beit(tiny_beit.beit_config(**FORMS[form])).eval()
    model.learn_from(tiny_beit.Colours())
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert asdict(again.config) == asdict(model.config)
    batch, choices = tiny_beit.pictures(), draws()
    ours = again.losses(batch, again.init_state(), choices)
    tiny.assert_same(ours, model.losses(batch, model.init_state(), choices), tolerance=0)


def classifier(model: BEiT) -> Classifier:
    config = model.fine_tuning("classify", ("cat", "dog", "cow"))
    assert isinstance(config, ClassifierConfig)
    head = Classifier(config)
    head.load_state_dict(head.adopt(model.state_dict()), strict=False)
    return head


@pytest.mark.parametrize("form", FORMS)
def test_a_classifier_starts_from_the_pre_trained_tower(form: str) -> None:
    model = tiny_beit.beit(tiny_beit.beit_config(**FORMS[form]))
    head, image = classifier(model), tiny_beit.pictures().image
    x = model.image_tower.layers(model.image_tower.embed(image))
    torch.testing.assert_close(head.image_tower(image), x)
    pooled = nn.functional.layer_norm(x[:, 1:].mean(1), (24,), eps=1e-6)
    batch = replace(tiny_beit.pictures(), labels=torch.tensor([0, 2, 1, 1, 0]))
    torch.testing.assert_close(head.predict(batch), head.head(pooled))
    out = head.losses(batch, head.init_state())
    torch.testing.assert_close(out["loss"], nn.functional.cross_entropy(head.predict(batch), batch.labels))
    out["loss"].backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


def test_layers_learn_the_slower_the_lower_they_are() -> None:
    head = classifier(tiny_beit.beit())
    optimizer = build_optimizer(head, TrainConfig(steps=1, layer_decay=0.5, weight_decay=0.1))
    names = {p: n for n, p in head.named_parameters()}
    found = {names[p]: (g["scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found["head.weight"] == (1, 0.1)
    assert found["image_tower.fc_norm.weight"] == (1, 0)
    assert found["image_tower.blocks.2.ffn.all.fc1.weight"] == (0.5, 0.1)
    assert found["image_tower.relative.0.table"] == (0.125, 0.1)
    assert found["image_tower.blocks.0.attention.qkv.q_bias"] == (0.125, 0)
    assert found["image_tower.patches.proj.weight"] == (0.0625, 0.1)
    assert found["image_tower.cls_token"] == (0.0625, 0)
    kept = Classifier(replace(head.config, decay_relative=False))
    assert not kept.decays("image_tower.relative.0.table", kept.image_tower.relative[0].table)
    with pytest.raises(UserError, match="layer decay"):
        build_optimizer(tiny.albef()[0], TrainConfig(steps=1, layer_decay=0.5))


def test_larger_pictures_need_the_tables_resized(tmp_path) -> None:
    model = tiny_beit.beit().eval()
    folder = multiway.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="relative positions"):
        model.image_tower(torch.zeros(1, 3, 48, 40))
    larger = multiway.load(folder, image_size=(48, 64))
    assert larger.image_tower(torch.zeros(1, 3, 48, 64)).shape == (1, 49, 24)
    old, new = model.image_tower.relative[0].table, larger.image_tower.relative[0].table
    assert new.shape == (11 * 15 + 3, 3)
    torch.testing.assert_close(new[-3:], old[-3:])
    # The middle of the table is no offset: it stays.
    torch.testing.assert_close(new[82], old[31], rtol=1e-4, atol=1e-5)
