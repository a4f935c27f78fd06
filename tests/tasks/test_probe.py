"""The linear probe: the regression beside its optimality condition, frozen models, any tower, controls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_beit
import tiny_beit3
import tiny_coca
import tiny_generalist
import tiny_mae
import tiny_vilt
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks.probe import _Looking, chosen, fit, measure, pooled

COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 30), "red": (220, 30, 20)}


def rows(count: int = 60, *, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    features = torch.eye(3)[labels] @ torch.randn(3, 5, generator=g) * 3
    return features + noise * torch.randn(count, 5, generator=g) + 7, labels


def test_the_regression_is_solved() -> None:
    features, labels = rows(noise=3.0)
    probe = fit(features, labels, 3, 0.1)
    x = (features - probe.mean) / probe.scale
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(5))
    residual = probe.logits(features).softmax(1) - torch.eye(3)[labels]
    gradient = residual.T @ x / len(labels) + 0.1 * probe.weight
    assert gradient.abs().max() < 1e-4
    assert residual.mean(0).abs().max() < 1e-4


def test_a_constant_feature_does_no_harm_and_the_penalty_is_chosen_by_what_is_held_out() -> None:
    features, labels = rows()
    features = torch.cat([features, torch.ones(60, 1)], dim=1)
    assert (fit(features, labels, 3, 1e-3).logits(features).argmax(1) == labels).all()
    # A feature that tells each training sample its label, and the held-out ones nothing, wants a strong one.
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(60, 40, generator=g)
    both = torch.cat([rows(noise=4.0)[0], noise], dim=1)
    assert chosen(both, labels, 3, (1.0, 1e-6)) == 1.0


@pytest.fixture
def folders(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(int(c) for c in np.add(colour, generator.integers(-15, 16, 3)))
                Image.new("RGB", (10, 10), shade).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_a_model_is_measured_and_stays_as_it_was(folders) -> None:
    model = tiny_mae.mae().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = LabelledPictures(LabelledSource(path=str(folders / "train")))
    data = LabelledPictures(LabelledSource(path=str(folders / "test")), labels=train.labels)
    found = measure(model, train, data, batch_size=4).result
    assert found["top1"] == 100.0
    assert found["n_train"] == 18
    assert (found["n"], found["n_classes"], found["width"]) == (9, 3, 24)
    assert found["majority"] == pytest.approx(100 / 3)
    assert found["shuffled"]["top1"] < 70
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    model.eval()
    (folders / "train/red/bad.png").write_bytes(b"no picture")
    train = LabelledPictures(LabelledSource(path=str(folders / "train")))
    assert measure(model, train, data, batch_size=4).skipped == {"not_an_image (training)": 1}
    assert not any(part.training for part in model.modules())
    (folders / "few/red").mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(folders / "few/red/0.png")
    few = LabelledPictures(LabelledSource(path=str(folders / "few")))
    with pytest.raises(UserError, match="give more"):
        measure(model, few, data)
    with torch.no_grad():
        model.image_tower.norm.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite: its weights are broken"):
        measure(model, train, data)


def test_what_stands_for_a_picture() -> None:
    model, image = tiny_mae.mae(), tiny_mae.pictures().image
    tokens = model.image_tower(image)
    assert pooled(model, image).equal(tokens[:, 0])
    assert pooled(model, image, "mean").equal(tokens[:, 1:].mean(1))
    vqkd = tiny_beit.vqkd()
    assert pooled(vqkd, image).shape == (len(image), 24)

    both = tiny_beit3.beit3()[0]
    picture = tiny_beit3.streams().image
    assert pooled(both, picture, "cls").equal(both.look(picture)[:, 0])

    class Bare(System):
        def __init__(self):
            super().__init__()
            self.image_tower = tiny_beit.Tower()

    assert pooled(Bare(), image).shape == (len(image), 7)
    with pytest.raises(UserError, match="no class token"):
        pooled(Bare(), image, "cls")


def test_no_token_of_a_coca_s_tower_stands_for_a_picture() -> None:
    """Its poolers read them all."""
    model, image = tiny_coca.coca().eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(pooled(model, image), pooled(model, image, "mean"))


def test_the_command(folders, capsys) -> None:
    multiway.save(tiny_mae.mae(), folders / "model")
    argv = ["evaluate", "probe", "--model", str(folders / "model"), "--train", str(folders / "train")]
    argv += ["--data", str(folders / "test"), "--pool", "mean"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] > 80
    assert main(argv) == 0
    assert f"{found['top1']:.1f}" in capsys.readouterr().out


def test_a_vilts_picture_is_seen_as_its_tasks_see_it() -> None:
    model, image = tiny_vilt.vilt().eval(), tiny_vilt.pictures(4)
    for pool in ("own", "mean"):
        together = pooled(model, image, pool)
        for row, (down, across) in enumerate(tiny_vilt.GRIDS[:4]):
            alone = pooled(model, image[row : row + 1, :, : 8 * down, : 8 * across], pool)
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
    assert _Looking(model, "own").kept_shape == model.kept_shape


def test_who_has_no_tower_is_not_probed() -> None:
    with pytest.raises(UserError, match="VQVAE has no image tower"):
        pooled(tiny_generalist.vqvae(), torch.zeros(1, 3, 32, 32))
