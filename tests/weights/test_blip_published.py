"""Every kind of official BLIP checkpoint, tiny and random, loads by itself and does what it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_blip
import torch
from PIL import Image

import multiway
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.blip_config import (
    BLIPConfig,
    CaptionerConfig,
    FeaturesConfig,
    NLVRConfig,
    VQAConfig,
    blip_tokenizer,
)
from multiway.systems.captioning import Captioning
from multiway.weights import blip
from multiway.weights.keymap import to_theirs

SIZES = {
    "image": tiny.vit(width=64, heads=1),
    "text": tiny_blip.med(width=64, heads=1, vocab_size=30524, dropout=0.1),
}
DROPPING = SIZES | {"image": tiny.vit(width=64, heads=1, drop_path=0.1)}
TEXTS = ["a cat", "two dogs on a red mat", "no"]

#: kind -> its config, and what is left out of it: the name of the official class and its file.
KINDS = {
    "pretrain": BLIPConfig(**SIZES, embed_dim=12, queue_size=8),
    "retrieval": BLIPConfig(**SIZES, embed_dim=12, queue_size=8, **blip.RETRIEVAL),
    "itm": BLIPConfig(**SIZES, embed_dim=12, **blip.RETRIEVAL),
    "caption": CaptionerConfig(**SIZES),
    "vqa": VQAConfig(**DROPPING),
    "nlvr": NLVRConfig(**DROPPING, tokenizer=blip_tokenizer(max_words=40), merge_from=1),
    "base": FeaturesConfig(**SIZES),
}


def pictures(count: int = 2) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def network(kind: str) -> tuple[System, dict[str, torch.Tensor]]:
    """A model with its momentum model and queue, if it has them."""
    config = KINDS[kind]
    torch.manual_seed(0)
    model = NETWORKS[config.system].network()(config).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    state = {f"state.{n}": t for n, t in model.init_state().state_dict().items()}
    return model, state if kind in ("pretrain", "retrieval") else {}


def written(kind: str, folder: Path) -> tuple[Path, System]:
    """The checkpoint as the official code writes it: under `model`, with position_ids and other values."""
    model, state = network(kind)
    names = ("temp",) if state else ()
    tensors = to_theirs(blip.layout_of(KINDS[kind], names), model.state_dict() | state)
    path = folder / f"{kind}.pth"
    torch.save({"model": tensors, "epoch": 5, "config": {"vit": "base", "prompt": "a picture of "}}, path)
    return path, model


def said(model: System) -> list[torch.Tensor | list[str]]:
    """What a model of each kind is for."""
    ids, mask = model.tokenize(TEXTS)
    image, found = model.prepare(pictures()), []
    with torch.no_grad():
        if isinstance(model.config, BLIPConfig):
            found += [model.encode_image(pictures()), model.encode_text(TEXTS)]
            found += [model.match(picture, TEXTS) for picture in pictures()]
        if isinstance(model, Captioning) and model.decoder is not None:
            found.append(model.caption(pictures()))
        if isinstance(model.config, VQAConfig):
            found.append(model.answer(pictures(), ["what is it?", "why?"]))
            found.append(model.answer(pictures(), ["what is it?", "why?"], answers=TEXTS))
        if isinstance(model.config, NLVRConfig):
            found += model.judge(torch.cat([image, image.flip(0)]), ids[:2], mask[:2])
        if isinstance(model.config, FeaturesConfig):
            found += [model.features(image), model.features(input_ids=ids, attention_mask=mask)]
            found.append(model.features(image, ids[:2], mask[:2]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_every_kind(kind: str, tmp_path: Path) -> None:
    path, model = written(kind, tmp_path)
    again = multiway.load(path)
    assert type(again) is type(model)
    assert not again.training
    known = {"queue_size": again.config.queue_size} if kind == "itm" else {}  # ITM's file has no queue
    assert again.config == replace(model.config, **known)
    for name, tensor in model.state_dict().items():
        if (kind, name) != ("itm", "temperature"):
            assert torch.equal(again.state_dict()[name], tensor), name
    model.tokenizer = again.tokenizer
    mine, theirs = said(again), said(model)
    assert len(mine) > 0
    for a, b in zip(mine, theirs, strict=True):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_ours_after_a_checkpoint(kind: str, tmp_path: Path) -> None:
    model = multiway.load(written(kind, tmp_path)[0])
    multiway.save(model, tmp_path / "folder")
    again = multiway.load(tmp_path / "folder")
    for a, b in zip(said(again), said(model), strict=True):
        assert a == b if isinstance(a, list) else torch.equal(a, b)
