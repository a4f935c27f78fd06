"""What every system promises, asked of each at a tiny size; compiled steps: `tests/train/test_loop.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_beit
import tiny_beit3
import tiny_blip
import tiny_coca
import tiny_generalist
import tiny_mae
import tiny_simvlm
import tiny_vilt
import tiny_vlmo
import torch
from torch import Tensor, nn

import multiway
from multiway.batch import Batch
from multiway.systems import SYSTEMS
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_vit
from multiway.systems.flip import FLIP, FLIPConfig, flip_text, flip_vit

#: Systems whose pictures go through no module of their own.
NO_TOWER = ("beit3", "vqvae")


def _taught(model: Any, teacher: nn.Module) -> Any:
    model.learn_from(teacher)
    return model


def _clip() -> CLIP:
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    text = CLIPTextConfig(vocab_size=tiny.VOCAB, width=16, layers=2, heads=2, hidden=28, positions=11)
    return CLIP(CLIPConfig(image=image, text=text, embed_dim=12))


def _flip() -> FLIP:
    sizes = {"width": 24, "heads": 3, "hidden": 40}
    image = flip_vit(image_size=32, patch_size=8, depth=2, **sizes)
    return FLIP(
        FLIPConfig(image=image, text=flip_text(vocab_size=tiny.VOCAB, layers=2, positions=11, **sizes))
    )


def _drawn_pictures() -> Batch:
    size = tiny_generalist.pictures().image_size
    return Batch(image=torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5)


#: Name -> a fresh model, a batch for it, and random choices of a step (None: drawn from a generator).
MAKE: dict[str, tuple[Callable[[], Any], Callable[[], Batch], Callable[[Batch], Any] | None]] = {
    "albef": (lambda: tiny.albef()[0], tiny.batch, tiny.draws),
    "beit": (lambda: _taught(tiny_beit.beit(), tiny_beit.Colours()), tiny_beit.pictures, None),
    "beit3": (lambda: tiny_beit3.beit3()[0], tiny_beit3.streams, tiny_beit3.draws),
    "blip": (lambda: tiny_blip.blip()[0], tiny.batch, None),
    "clip": (_clip, tiny.batch, None),
    "coca": (tiny_coca.coca, tiny_coca.batch, None),
    "flip": (_flip, tiny.batch, None),
    "generalist": (tiny_generalist.build, tiny_generalist.batch, None),
    "mae": (tiny_mae.mae, tiny_mae.pictures, None),
    "simvlm": (tiny_simvlm.build, tiny_simvlm.pairs, None),
    "vilt": (tiny_vilt.vilt, tiny_vilt.batch, tiny_vilt.draws),
    "vlmo": (tiny_vlmo.vlmo, tiny.batch, tiny_vlmo.draws),
    "vqkd": (lambda: _taught(tiny_beit.vqkd(), tiny_beit.Tower()), tiny_beit.pictures, None),
    "vqvae": (tiny_generalist.vqvae, _drawn_pictures, None),
}


def _built(name: str) -> tuple[Any, Any, Batch]:
    """A model, its state, a batch."""
    make, batch, _ = MAKE[name]
    torch.manual_seed(0)
    model = make()
    state = model.init_state()
    model.begin(state)
    return model, state, batch()


def _losses(name: str, model: Any, state: Any, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    draws = MAKE[name][2]
    given = None if draws is None else draws(batch)
    return model.losses(batch, state, given, torch.Generator().manual_seed(seed))


def test_every_system_is_asked() -> None:
    assert set(MAKE) == set(SYSTEMS)


@pytest.mark.parametrize("name", MAKE)
def test_losses_are_finite_pure_and_reach_every_parameter(name: str) -> None:
    model, state, batch = _built(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    moving = {n: t.clone() for n, t in state.state_dict().items()}
    out, again = (_losses(name, model, state, batch) for _ in range(2))
    assert all(torch.isfinite(value).all() for value in out.values())
    tiny.assert_same(out, again, tolerance=0)  # a function of its arguments alone
    tiny.assert_same(dict(model.state_dict()), before, tolerance=0)
    tiny.assert_same(dict(state.state_dict()), moving, tolerance=0)
    out["loss"].backward()
    assert _idle(model) == []


def _idle(model: Any) -> list[str]:
    named = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return [n for n, p in named if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("name", MAKE)
def test_one_batch_is_learned_by_heart(name: str) -> None:
    model, state, batch = _built(name)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    losses = []
    for _ in range(12):
        out = _losses(name, model, state, batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.advance(state, [{n: value.detach() for n, value in out.items()}])
        losses.append(float(out["loss"].detach()))
    assert losses[-1] < 0.92 * losses[0]


@pytest.mark.parametrize("name", MAKE)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    model = _built(name)[0].eval()
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert again.config == model.config
    tiny.assert_same(dict(again.state_dict()), dict(model.state_dict()), tolerance=0)


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_half_precision_is_close(name: str) -> None:
    model, state, batch = _built(name)
    model.eval()
    whole = _losses(name, model, state, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = _losses(name, model, state, batch)["loss"]
    # bfloat16 keeps 8 bits, 0.4 % a rounding: some layers' worth, and far from what a wrong cast costs
    torch.testing.assert_close(half.float(), whole, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("name", [name for name in MAKE if name not in NO_TOWER])
@torch.no_grad()
def test_the_image_tower_is_exported(name: str) -> None:
    model, _, batch = _built(name)
    model.eval()
    image = batch.image[:2]
    program = torch.export.export(model.image_tower, (image,))
    torch.testing.assert_close(program.module()(image), model.image_tower(image))
