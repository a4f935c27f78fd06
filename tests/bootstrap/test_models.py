"""BLIP as captioner and filter: captions depend on picture, key and seed; workers change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import vit

import multiway
from multiway.bootstrap import captioner
from multiway.bootstrap.config import BootstrapConfig
from multiway.bootstrap.generate import search_of
from multiway.bootstrap.run import bootstrap
from multiway.systems.blip_config import med_config


@pytest.fixture(scope="module")
def model():
    """A BLIP whose words are drawn from nearly nothing: every draw shows."""
    torch.manual_seed(0)
    text = med_config(width=16, fusion_layers=1, heads=2, hidden=28, positions=32, dropout=0.0)
    blip = multiway.create(
        "blip", image=vit(), text=text, embed_dim=12, momentum=None, queue_size=0, alpha=0.0
    )
    with torch.no_grad():
        for parameter in blip.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return blip.eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("blip") / "model"
    multiway.save(model, place)
    return str(place)


def pictures(n: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def settings(**changes) -> BootstrapConfig:
    return BootstrapConfig(data=("x",), filter="x", captioner="x", **changes)


def test_draws_are_keyed_and_do_not_depend_on_the_batch(model):
    write = captioner.from_model(model, settings(captions=2, seed=1))
    images, keys = pictures(4), ["a", "b", "c", "d"]
    together = write(images, keys)
    assert together == [write([image], [key])[0] for image, key in zip(images, keys, strict=True)]
    assert [len(texts) for texts in together] == [2] * 4
    same = write([images[0]] * 2, ["a", "other"])
    assert same[0] == together[0]
    assert same[1] != same[0]
    assert captioner.from_model(model, settings(captions=2, seed=2))(images, keys) != together


def test_beam_search_gives_its_best(model):
    write = captioner.from_model(model, settings(method="beam", beams=3, captions=2, max_length=6))
    found = write(pictures(2), ["a", "b"])
    assert [len(texts) for texts in found] == [2, 2]
    assert found == write(pictures(2), ["c", "d"])


def test_lengths_are_the_runs_or_the_models(model):
    own = model.generation_config(1)
    assert own.min_length > 3
    for changes, lengths in (
        ({}, (own.min_length, own.max_length)),
        ({"max_length": 3}, (3, 3)),
        ({"min_length": 1}, (1, own.max_length)),
        ({"min_length": 2, "max_length": 9}, (2, 9)),
    ):
        found = search_of(settings(**changes), own)
        assert (found.min_length, found.max_length) == lengths
        assert (found.method, found.top_p, found.eos_id) == ("sample", 0.9, own.eos_id)


def test_a_model_gives_the_same_shards_by_one_and_two_workers(web, contents, folder, tmp_path):
    config = BootstrapConfig(
        data=(web(9, shard_size=5),), captioner=folder, filter=folder, batch_size=4, max_length=6
    )
    one = bootstrap(config, tmp_path / "one", workers=1, device="cpu")
    bootstrap(config, tmp_path / "two", workers=2, device="cpu")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sum(one["texts"]["synthetic"][fate] for fate in ("kept", "dropped")) == 9
    assert one["threshold"] == {"value": 0.5, "from": "the filter's own"}
