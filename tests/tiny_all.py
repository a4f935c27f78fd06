"""Every system at a tiny size, with a batch for it; `python tiny_all.py NAME` compiles one and compares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

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

from multiway.batch import Batch
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.systems.flip import FLIP, FLIPConfig, flip_text, flip_tokenizer, flip_vit
from multiway.text import train_vocabulary
from multiway.train.parallel import Ranks, wrap
from multiway.train.run import TrainConfig


def _taught(model: Any, teacher: nn.Module) -> Any:
    model.learn_from(teacher)
    return model


def _clip() -> CLIP:
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    text = CLIPTextConfig(vocab_size=tiny.VOCAB, width=16, layers=2, heads=2, hidden=28, positions=11)
    return CLIP(CLIPConfig(image=image, text=text, tokenizer=clip_tokenizer(11), embed_dim=12))


def _flip() -> FLIP:
    sizes = {"width": 24, "heads": 3, "hidden": 40}
    image = flip_vit(image_size=32, patch_size=8, depth=2, **sizes)
    text = flip_text(vocab_size=tiny.VOCAB, layers=2, positions=11, **sizes)
    return FLIP(FLIPConfig(image=image, text=text, tokenizer=flip_tokenizer(11)))


def _vlmo() -> Any:
    return tiny_vlmo.vlmo(tiny_vlmo.config(depth=2, joint_layers=1))


def _tiles(height: int, width: int) -> Batch:
    """Pictures of one tile over and over, a colour each: a part tells the rest, and so do few codes."""
    g = torch.Generator().manual_seed(0)
    tiles = torch.rand(4, 3, 1, 1, generator=g) + 0.5 * torch.rand(4, 3, 8, 8, generator=g)
    tiles = 2 * tiles / 1.5 - 1
    return Batch(image=tiles.repeat(1, 1, height // 8, width // 8))


#: A momentum model that follows in some steps, and a queue of one batch.
FOLLOWING: dict[str, Any] = {"momentum": 0.5, "queue_size": 5}

#: Name -> a fresh model, a batch for it, and random choices of a step (None: drawn from a generator).
MAKE: dict[str, tuple[Callable[[], Any], Callable[[], Batch], Callable[[Batch], Any] | None]] = {
    "albef": (lambda: tiny.albef(tiny.albef_config(**FOLLOWING))[0], tiny.batch, tiny.draws),
    "beit": (lambda: _taught(tiny_beit.beit(), tiny_beit.Colours()), tiny_beit.pictures, None),
    "beit3": (lambda: tiny_beit3.beit3()[0], tiny_beit3.streams, tiny_beit3.draws),
    "blip": (lambda: tiny_blip.blip(tiny_blip.config(**FOLLOWING))[0], tiny.batch, tiny_blip.draws),
    "clip": (_clip, tiny.batch, None),
    "coca": (tiny_coca.coca, tiny_coca.batch, None),
    "flip": (_flip, tiny.batch, None),
    "generalist": (tiny_generalist.build, tiny_generalist.batch, None),
    "mae": (tiny_mae.mae, lambda: _tiles(*tiny_mae.SIZE), None),
    "simvlm": (tiny_simvlm.build, tiny_simvlm.pairs, None),
    "vilt": (tiny_vilt.vilt, tiny_vilt.batch, tiny_vilt.draws),
    "vlmo": (_vlmo, tiny.batch, tiny_vlmo.draws),
    "vqkd": (lambda: _taught(tiny_beit.vqkd(), tiny_beit.Tower()), lambda: _tiles(*tiny_beit.SIZE), None),
    "vqvae": (lambda: tiny_generalist.vqvae(revived=1), lambda: _tiles(32, 32), None),
}


def built(name: str) -> tuple[Any, Any, Batch]:
    """A model, its state, a batch."""
    make, batch, _ = MAKE[name]
    torch.manual_seed(0)
    return _begun(make(), batch())


def _begun(model: Any, batch: Batch) -> tuple[Any, Any, Batch]:
    state = model.init_state()
    model.begin(state)
    return model, state, batch


def losses(name: str, model: Any, state: Any, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    """With the random choices that `MAKE` gives."""
    draws = MAKE[name][2]
    given = None if draws is None else draws(batch)
    return model.losses(batch, state, given, torch.Generator().manual_seed(seed))


#: Systems that make no random choice.
CERTAIN = ("clip", "coca")


def undecided(name: str) -> tuple[Any, Any, Batch]:
    """As `built`, every choice left to the generator: it has what masks and targets take, and no codes."""
    model, _, batch = built(name)
    if name in ("albef", "vilt", "vlmo"):
        model.tokenizer = train_vocabulary([ascii_lowercase] * 2, size=tiny.VOCAB)
    if name == "beit3":
        model.learn_from(tiny_beit3.FakeTokenizer())
    if name == "generalist":
        model = tiny_generalist.build(form="semi_causal", span=0.5)
    if name in ("vqkd", "vqvae"):
        model.quantizer.started.zero_()
        noise = torch.randn(batch.need("image").shape, generator=torch.Generator().manual_seed(0))
        batch = replace(batch, image=noise)
    return _begun(model, batch)


def compiled(name: str) -> None:
    """The losses and gradients of a system whose blocks are compiled, beside those of one as it is."""
    found = []
    for compile in (False, True):
        model, state, batch = built(name)
        config = TrainConfig(steps=1, batch_size=len(batch), lr=1e-3, compile=compile)
        wrap(model, config, Ranks(0, 1, torch.device("cpu")))
        out = losses(name, model, state, batch)
        out["loss"].backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(({n: value.detach() for n, value in out.items()}, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
    print(f"{name}: {len(found[1][1])} gradients are the same")


if __name__ == "__main__":
    compiled(sys.argv[1])
