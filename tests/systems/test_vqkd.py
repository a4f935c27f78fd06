"""VQ-KD: the codebook moves once a step, the same on all ranks; teachers; what is saved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ranks
import tiny
import tiny_beit
import tiny_beit3
import tiny_vlmo
import torch
import torch.nn.functional as F
from torch import nn

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.beit3_config import BEiT3Config, RetrievalConfig
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.systems.dvae import DVAE
from multiway.systems.teacher import Teacher, normalised, pixels
from multiway.systems.vqkd import VQKD, Draws
from multiway.systems.vqkd_quantizer import Quantizer, kmeans, nearest
from multiway.weights.positions import resized

C, K, P = 6, tiny_beit.CODES, tiny_beit.PATCHES


def target(size: int = 5, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(size, P, 7, generator=torch.Generator().manual_seed(seed))


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("started", [True, False])
def test_every_parameter_learns_and_losses_change_nothing(started: bool) -> None:
    model = tiny_beit.vqkd(started=started)
    before = snapshot(model)
    out = model.losses(tiny_beit.pictures(), model.init_state(), Draws(target=target()))
    tiny.assert_same(snapshot(model), before, tolerance=0)
    torch.testing.assert_close(out["loss"], out["reconstruction"] + out["commitment"])
    out["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    model.advance(model.init_state(), [out])
    moved = {n for n, tensor in snapshot(model).items() if not tensor.equal(before[n])}
    assert moved == {"quantizer.codebook", "quantizer.usage", *([] if started else ["quantizer.started"])}


def test_a_step_of_the_codebook_by_hand() -> None:
    quantizer = Quantizer(3, 2, decay=0.75)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    quantizer.started.fill_(1)
    z = torch.tensor([[4.0, 3.0], [1.0, 0.0], [0.0, 2.0]])
    found = quantizer(z)
    assert found.tokens.tolist() == [0, 0, 1]
    assert found.start is None
    quantizer.move(found.counts, found.sums)
    towards = F.normalize(torch.tensor([0.8, 0.6]) + torch.tensor([1.0, 0.0]), dim=0)
    first = F.normalize(0.75 * torch.tensor([1.0, 0.0]) + 0.25 * towards, dim=0)
    torch.testing.assert_close(quantizer.codebook, torch.stack([first, z[2] / 2, torch.tensor([-1.0, 0.0])]))
    torch.testing.assert_close(quantizer.usage, torch.tensor([0.5, 0.25, 0.0]))


def test_of_equal_codes_the_first_is_taken() -> None:
    codebook = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), codebook).tolist() == [1, 0]


def test_near_codes_are_told_apart_in_mixed_precision_too() -> None:
    g = torch.Generator().manual_seed(0)
    codebook = F.normalize(torch.ones(50, 8) + 0.03 * torch.randn(50, 8, generator=g), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest(codebook, codebook).tolist() == list(range(50))
        assert (codebook @ codebook.T).argmax(-1).tolist() != list(range(50))


def test_kmeans_keeps_empty_clusters_and_finds_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [0.1, 0.0, 1.0]]), dim=1)
    z = F.normalize(centres.repeat(20, 1) + 0.05 * torch.randn(60, 3, generator=g), dim=1)
    far = -F.normalize(torch.ones(1, 3), dim=1)
    means, counts = kmeans(z, torch.cat([z[[0, 1, 2]], far]), 10)
    assert counts.tolist() == [20, 20, 20, 0]
    torch.testing.assert_close(means[3:], far)
    assert ((means[:3] * centres).sum(1) > 0.99).all()
    torch.testing.assert_close(means.norm(dim=1), torch.ones(4))


def test_the_codebook_starts_from_different_patches_of_the_first_batch() -> None:
    model = tiny_beit.vqkd(started=False)
    batch, state = tiny_beit.pictures(), model.init_state()
    given = Draws(target=target(), first=torch.arange(0, 5 * P, 9)[:K])
    out, same = (model.losses(batch, state, given) for _ in range(2))
    torch.testing.assert_close(out["enqueue/start"], same["enqueue/start"])
    other = model.losses(batch, state, Draws(target=target()), torch.Generator().manual_seed(0))
    assert not torch.allclose(out["enqueue/start"], other["enqueue/start"])
    assert out["usage"] > 0.5
    # Several micro-batches each begin a codebook of their own; the first one's is kept, and it alone counts.
    model.advance(state, [out, other])
    alone = tiny_beit.vqkd(started=False)
    alone.advance(state, [out])
    tiny.assert_same(snapshot(model), snapshot(alone), tolerance=0)
    assert "enqueue/start" not in model.losses(batch, state, Draws(target=target()))


def test_micro_batches_move_the_codebook_as_the_whole_batch() -> None:
    parts, whole = tiny_beit.pictures(6).split(2), tiny_beit.pictures(6)
    one, two = tiny_beit.vqkd(), tiny_beit.vqkd()
    state, features = one.init_state(), target(6)
    one.advance(state, [one.losses(whole, state, Draws(target=features))])
    outputs = [
        two.losses(part, state, Draws(target=half))
        for part, half in zip(parts, features.split(3), strict=True)
    ]
    two.advance(state, outputs)
    tiny.assert_same(snapshot(two), snapshot(one))


def test_until_the_codebook_starts_patches_pass_as_they_are() -> None:
    model = tiny_beit.vqkd(tiny_beit.vqkd_config(start_after=2), started=False)
    batch, state, given = tiny_beit.pictures(), model.init_state(), Draws(target=target())
    for step in range(3):
        out = model.losses(batch, state, given, torch.Generator().manual_seed(0))
        assert ("enqueue/start" in out) == (step == 2)
        if step < 2:
            passed = model.decode(F.normalize(model.encode(batch.image), dim=-1))
            torch.testing.assert_close(out["loss"], 1 - F.cosine_similarity(passed, given.target, -1).mean())
            assert not model.quantizer.started
            with pytest.raises(UserError, match="no codebook yet"):
                model.visual_tokens(torch.rand(1, 3, *tiny_beit.SIZE))
        model.advance(state, [out])
    assert model.quantizer.started
    assert "enqueue/start" not in model.losses(batch, state, given)


def test_centred_features_have_no_mean() -> None:
    model = tiny_beit.vqkd(tiny_beit.vqkd_config(centre=True))
    plain = tiny_beit.vqkd()
    batch, state, features = tiny_beit.pictures(), model.init_state(), target() + 3
    ours = model.losses(batch, state, Draws(target=features))
    theirs = plain.losses(batch, state, Draws(target=features - features.mean((0, 1))))
    torch.testing.assert_close(ours["loss"], theirs["loss"])


def two_steps(batch: Batch, features: torch.Tensor, started: bool) -> dict:
    """The codebook after two steps whose start, if there is one, is from the first rows."""
    model = tiny_beit.vqkd(tiny_beit.vqkd_config(centre=True), started=started)
    state, first = model.init_state(), torch.arange(K) * 3
    for _ in range(2):
        model.advance(state, [model.losses(batch, state, Draws(target=features, first=first))])
    return snapshot(model.quantizer)


def on_rank(rank: int, started: bool) -> dict:
    return two_steps(tiny_beit.pictures(6).split(2)[rank], target(6).split(3)[rank], started)


@pytest.mark.parametrize("started", [True, False])
def test_two_ranks_equal_one_process_with_the_whole_batch(started: bool) -> None:
    one = two_steps(tiny_beit.pictures(6), target(6), started)
    for ours in ranks.run(on_rank, 2, started):
        tiny.assert_same(ours, one)


def test_one_batch_is_learned_by_heart_and_more_codes_are_used() -> None:
    """Pictures of many colours, a teacher that sees them: the tokens come to tell colours apart."""
    model = tiny_beit.vqkd(tiny_beit.vqkd_config(codes=24, decay=0.95), started=False)
    colours = torch.rand(8, 3, *tiny_beit.GRID, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(colours, size=tiny_beit.SIZE, mode="nearest")
    batch = Batch(image=normalised(image, model.image_mean, model.image_std))
    model.learn_from(tiny_beit.Tower())
    state = model.init_state()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99))
    found = []
    for _ in range(150):
        optimizer.zero_grad()
        out = model.losses(batch, state, generator=torch.Generator().manual_seed(0))
        out["loss"].backward()
        optimizer.step()
        model.advance(state, [out])
        found.append({name: float(value.detach()) for name, value in out.items() if value.ndim == 0})
    lowest = min(step["perplexity"] for step in found)
    assert found[-1]["perplexity"] > 2 * lowest
    assert found[-1]["usage"] > 0.4
    assert found[-1]["reconstruction"] < 0.1 < found[0]["reconstruction"] / 4
    # Patches of one colour have one token, wherever they are.
    tokens = model.visual_tokens(image)
    assert tokens.shape == (8, P)
    assert model.visual_tokens(image.flip(0)).equal(tokens.flip(0))


def test_tokens_are_of_pictures_in_0_to_1_at_any_size() -> None:
    model = tiny_beit.vqkd().eval()
    image = torch.rand(3, 3, *tiny_beit.SIZE)
    direct = model.quantizer.tokens(model.encode(2 * image - 1))
    assert model.visual_tokens(image).equal(direct)
    assert model.visual_tokens(torch.rand(2, 3, 50, 70)).shape == (2, P)
    torch.testing.assert_close(pixels(2 * image - 1, model.image_mean, model.image_std), image)


def test_saved_and_loaded_it_says_the_same_without_its_teacher(tmp_path) -> None:
    model = tiny_beit.vqkd().eval()
    model.learn_from(tiny_beit.Tower())
    batch, state = tiny_beit.pictures(), model.init_state()
    model.advance(state, [model.losses(batch, state)])
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    tiny.assert_same(snapshot(again), snapshot(model), tolerance=0)
    image = torch.rand(3, 3, *tiny_beit.SIZE)
    assert again.visual_tokens(image).equal(model.visual_tokens(image))
    with pytest.raises(UserError, match="teacher"):
        again.losses(batch, again.init_state())


@pytest.mark.parametrize("relative", ["none", "shared"])
def test_it_is_resized_for_other_pictures(relative: str) -> None:
    config = tiny_beit.vqkd_config()
    model = tiny_beit.vqkd(replace(config, image=replace(config.image, relative_bias=relative))).eval()
    same = resized(resized(model, (48, 64)), tiny_beit.SIZE)
    larger = resized(model, (48, 64)).eval()
    assert larger.visual_tokens(torch.rand(2, 3, 48, 64)).shape == (2, 48)
    assert larger.decode(torch.rand(2, 48, 6)).shape == (2, 48, 7)
    assert torch.equal(larger.decoder.positions[:, 0], model.decoder.positions[:, 0])
    assert same.decoder.positions.shape == model.decoder.positions.shape


def test_a_dvae_is_saved_and_loaded(tmp_path) -> None:
    torch.manual_seed(0)
    model = DVAE(tiny_beit.dvae_config()).eval()
    image = torch.rand(2, 3, *tiny_beit.SIZE)
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert again.visual_tokens(image).equal(model.visual_tokens(image))
    assert model.visual_tokens(image).shape == (2, P)
    with pytest.raises(UserError, match="targets from no other"):
        model.learn_from(tiny_beit.Tower())


def test_a_teacher_sees_pictures_its_own_way() -> None:
    tower = tiny_beit.Tower()
    teacher, image = Teacher.of(tower), torch.rand(2, 3, *tiny_beit.SIZE)
    plain = tower(normalised(image, tower.image_mean, tower.image_std))
    torch.testing.assert_close(teacher(image, tiny_beit.GRID), plain)
    assert not any(p.requires_grad for p in teacher.parameters())
    # Another grid is interpolated, and its corners stay nearest to their own.
    finer = teacher(image, (8, 10))
    assert finer.shape == (2, 80, 7)
    assert F.cosine_similarity(finer[:, 0], plain[:, 0]).min() > 0.99
    # Other pixels are asked for by the system.
    assert Teacher.of(tower, (64, 80))(image, (8, 10)).shape == (2, 80, 7)


def test_of_clip_the_patches_are_projected_as_the_class_token_is() -> None:
    text = CLIPTextConfig(vocab_size=60, width=16, layers=1, heads=2, hidden=28, positions=11)
    vit = clip_vit(image_size=tiny_beit.SIZE, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    model = CLIP(CLIPConfig(image=vit, text=text, tokenizer=clip_tokenizer(11), embed_dim=7)).eval()
    image = torch.rand(2, 3, *tiny_beit.SIZE)
    tokens = model.image_tower(normalised(image, model.image_mean, model.image_std))
    torch.testing.assert_close(Teacher.of(model)(image, tiny_beit.GRID), model.image_proj(tokens[:, 1:]))
    tokenizer = VQKD(tiny_beit.vqkd_config())
    tokenizer.learn_from(model)
    assert tokenizer.init_state().model.proj is model.image_proj


@pytest.mark.parametrize("kind", [BEiT3Config, RetrievalConfig])
def test_beit3_teaches_by_its_picture_part(kind: type) -> None:
    model = tiny_beit3.build(tiny_beit3.config(kind)).eval()
    image = torch.rand(2, 3, *tiny_beit3.PIXELS)
    expected = model.look(normalised(image, model.image_mean, model.image_std))[:, 1:]
    if kind is RetrievalConfig:
        expected = model.image_head(expected)
    torch.testing.assert_close(Teacher.of(model)(image, (3, 4)), expected)
    tokenizer = VQKD(tiny_beit.vqkd_config(target_width=24))
    tokenizer.learn_from(model)
    batch = tiny_beit.pictures()
    assert torch.isfinite(tokenizer.losses(batch, tokenizer.init_state())["loss"])


@pytest.mark.parametrize("name", ["beit", "vlmo"])
def test_a_teacher_of_one_size_says_which(name: str) -> None:
    small = {"image_size": 32, "patch_size": 8}
    if name == "beit":
        model: nn.Module = tiny_beit.beit(tiny_beit.beit_config(image=tiny_beit.vit(**small)))
    else:
        model = tiny_vlmo.vlmo()
    tokenizer = VQKD(tiny_beit.vqkd_config(teacher_size=64, target_width=24))
    with pytest.raises(UserError, match="takes 32 pixels, not 64: set system.teacher_size 32"):
        tokenizer.learn_from(model)


def test_a_dvae_follows_the_grid_of_patches() -> None:
    model = tiny_beit.beit(tiny_beit.beit_config(image=tiny_beit.vit(image_size=(24, 48))))
    model.learn_from(DVAE(tiny_beit.dvae_config()))
    batch = Batch(image=torch.rand(2, 3, 24, 48))
    assert model.visual_tokens(batch.image, model.init_state()).shape == (2, 18)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="target_width"):
        VQKD(tiny_beit.vqkd_config(target_width=8)).learn_from(tiny_beit.Tower())
    with pytest.raises(UserError, match="has no width"):
        VQKD(tiny_beit.vqkd_config()).learn_from(nn.Identity())


def test_class_tokens_positions_and_the_codebook_do_not_decay() -> None:
    model = tiny_beit.vqkd()
    decayed = {name for name, p in model.named_parameters() if model.decays(name, p)}
    assert "to_code.0.weight" in decayed
    assert not any("cls_token" in n or "positions" in n or n.endswith("bias") for n in decayed)
    assert not any("quantizer" in name for name, _ in model.named_parameters())
