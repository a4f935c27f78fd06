"""Fine-tuning from end to end, tiny: the network is asked for, labels are kept, controls are real."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_all
import tiny_beit
import tiny_beit3
import tiny_mae
import torch
from PIL import Image
from torch import nn

import multiway
from multiway.cli.main import main
from multiway.data.augment import Augment
from multiway.data.labelled import LabelledPictures, LabelledSource, TaskData
from multiway.data.mixing import Mixing
from multiway.data.sample import BadSample
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.mae_heads import tower_classifier
from multiway.systems.towers import BackboneConfig
from multiway.tasks import classify, nlvr2
from multiway.tasks.finetune import TRAIN, build, finetune, plan, task_of
from multiway.tasks.predictions import predict
from multiway.train.parallel import Ranks

PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)


def scenes(count: int, seed: int = 0) -> PicturePairs:
    return PicturePairs(LabelledSource(path=f"scenes:{count}:{seed}"))


class Looks(System):
    """Answers by the pictures alone: true where the first one is the brighter."""

    image_size, image_mean, image_std = 16, (0.5,) * 3, (0.5,) * 3

    def __init__(self, reads):
        super().__init__()
        self.nothing, self.reads = nn.Parameter(torch.zeros(1)), reads

    def tokenize(self, texts):
        ids = torch.tensor([[len(text)] for text in texts])
        return ids, torch.ones_like(ids)

    def predict(self, batch):
        if not self.reads:  # a picture's colour is its class
            return batch.image.mean((2, 3))
        light = batch.image.mean((2, 3, 4))
        return torch.stack([light[:, 1], light[:, 0]], dim=1)


class Bright(PicturePairs):
    """Pairs whose truth is which picture is the brighter; the third can't be read."""

    def __init__(self):
        super().__init__(LabelledSource(path="scenes:9"))

    def image(self, i):
        if i == 3:
            raise BadSample("undecodable")
        from PIL import Image

        dark, light = (Image.new("RGB", (8, 8), (v, v, v)) for v in (10 + i, 200 + i))
        return (light, dark) if i % 2 else (dark, light)

    def label(self, i):
        return i % 2


def test_controls_of_two_pictures_see_other_pictures():
    found = nlvr2.measure(Looks(True), Bright(), batch_size=4)
    assert found.result["accuracy"] == 100.0
    assert found.result["n"] == 8
    assert found.skipped == {"undecodable": 1}
    assert found.result["majority"] == 100 * 5 / 8
    assert found.result["shuffled"]["accuracy"] < 100
    low, high = found.result["interval"]
    assert low < 100.0 == pytest.approx(high, abs=0.01)
    assert "8 samples" in found.sentence()


def test_classes_by_colour(tmp_path):
    from PIL import Image

    for number, name in enumerate("rgb"):
        (tmp_path / name).mkdir()
        for i in range(4):
            colour = tuple(200 + i if c == number else 10 for c in range(3))
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{i}.png")
    data = LabelledPictures(LabelledSource(path=str(tmp_path)), labels=("r", "g", "b"))
    found = classify.measure(Looks(False), data).result
    assert found["top1"] == found["top5"] == found["balanced"] == 100.0
    assert found["n_classes"] == 3
    assert found["majority"] == pytest.approx(100 / 3)
    assert found["shuffled"]["top1"] < 70
    rows = predict(Looks(False), data, numbers=[0, 4, 8], pictures=[4, 8, 0])
    assert rows.logits.argmax(1).tolist() == [1, 0, 2]  # folders are in order: b, g, r
    assert rows.labels.tolist() == [2, 1, 0]


def test_a_model_learns_goes_on_where_it_was_and_is_loaded_again(albef, tmp_path, monkeypatch):
    base = multiway.create("albef", **{
        name: getattr(albef.config, name) for name in ("image", "text", "embed_dim")
    }, momentum=None)  # fmt: skip
    multiway.save(base, tmp_path / "base")
    data = TaskData(
        train=(LabelledSource(path="scenes:32"),), val=(LabelledSource(path="scenes:8:5"),), augment=PLAIN
    )
    train = replace(TRAIN, epochs=None, steps=4, batch_size=8, save_every=2)
    run = plan("nlvr2", tmp_path / "base", data, train=train)
    assert run.system.system == "albef_nlvr2"
    assert run.train.best_metric == "accuracy"
    result = finetune("nlvr2", run, tmp_path / "out")
    assert set(result.validation) >= {"accuracy", "n", "consistency"}
    model = multiway.load(tmp_path / "out/model")
    assert model.config == run.system
    whole = model.state_dict()

    shorter = replace(run, train=replace(run.train, steps=2))
    finetune("nlvr2", shorter, tmp_path / "again")
    finetune("nlvr2", run, tmp_path / "again")
    again = multiway.load(tmp_path / "again/model").state_dict()
    close = all(torch.allclose(whole[name], again[name]) for name in whole)
    assert close or run.train.schedule == "cosine"  # the cosine ends elsewhere in a shorter run
    card = (tmp_path / "out/model/README.md").read_text()
    assert "scenes:32" in card
    assert "nlvr2" in card


def test_tasks_and_heads_that_there_are_not(albef, tmp_path):
    with pytest.raises(UserError, match="choose from nlvr2, classify"):
        task_of("dance")
    multiway.save(tiny_mae.mae(), tmp_path / "mae")
    with pytest.raises(UserError, match="no network for the task nlvr2"):
        plan("nlvr2", tmp_path / "mae", TaskData(train=(LabelledSource(path="scenes:8"),)))
    with pytest.raises(UserError, match="predicts no classes"):
        predict(albef, scenes(4))


@pytest.mark.parametrize("kind", ["albef", "blip", "clip", "flip"])
def test_classes_are_learned_by_the_image_tower_of_a_model_of_pairs(kind, tmp_path):
    model, _, batch = tiny_all.built(kind)
    multiway.save(model, tmp_path / "base")
    data = TaskData(train=(LabelledSource(path="emoji", split="combination"),), augment=PLAIN)
    run = plan("classify", tmp_path / "base", data)
    head, _ = build("classify", run, Ranks(0, 1, torch.device("cpu")))
    seen = model.image_tower.pooled(model.image_tower(batch.image))
    torch.testing.assert_close(head.predict(batch), head.head(seen))
    with pytest.raises(UserError, match="efficientnet_lite0 is no ViT"):
        tower_classifier(BackboneConfig(name="efficientnet_lite0"), ("a", "b"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["finetune", "dance"], "no command 'dance'"),
        (["finetune", "nlvr2", "--model", "nowhere", "--data", "scenes:8", "--out", "x"], "nowhere"),
        (["finetune", "nlvr2", "--data", "scenes:8", "--out", "x"], "--model"),
        (["evaluate", "nlvr2", "--model", "BASE", "--data", "scenes:none"], "names no drawn scenes"),
        (["evaluate", "classify", "--model", "BASE", "--data", "nowhere"], "no file or folder nowhere"),
        (["finetune", "nlvr2", "--model", "BASE", "--data", "scenes:8", "--out", "x", "--lrr", "1"], "--lrr"),
        (
            ["finetune", "nlvr2", "--model", "BASE", "--data", "scenes:8", "--out", "x", "--init.gain", "2"],
            "init.gain is 2.0",
        ),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(albef, tmp_path, monkeypatch, capsys, argv, said):
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path / "base") if word == "BASE" else word for word in argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_commands(albef, tmp_path, monkeypatch, capsys):
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "base", "--data", "scenes:16", "--data", "boxes:16", "--out", "out"]
    short = ["--steps", "2", "--batch-size", "8", "--system.momentum", "None"]
    assert main(["finetune", "nlvr2", *flags, *short, "--dry-run"]) == 0
    assert "albef_nlvr2" in capsys.readouterr().out
    assert main(["finetune", "nlvr2", *flags, *short]) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["run"]["train"]["steps"] == 2
    capsys.readouterr()
    assert main(["evaluate", "nlvr2", "--model", "out/model", "--data", "scenes:12:3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 12
    assert 0 <= found["interval"][0] <= found["accuracy"] <= found["interval"][1] <= 100
    assert main(["evaluate", "nlvr2", "--model", "out/model", "--data", "scenes:12:3"]) == 0
    assert f"{found['accuracy']:.1f}" in capsys.readouterr().out
    assert np.isfinite(found["shuffled"]["accuracy"])
    Image.new("RGB", (16, 16)).save("red.png")
    assert main(["classify", "red.png", "--model", "out/model"]) == 2
    assert "`multiway evaluate nlvr2`" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["mae", "beit", "beit3"])
def test_mixed_pictures_are_learned_by_their_shares(base, tmp_path):
    from PIL import Image

    for name, level in (("dark", 20), ("light", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (level + i,) * 3).save(tmp_path / "data" / name / f"{i}.png")
    make = {"mae": tiny_mae.mae, "beit": tiny_beit.beit, "beit3": lambda: tiny_beit3.beit3()[0]}
    multiway.save(make[base](), tmp_path / "base")
    data = TaskData(
        train=(LabelledSource(path=str(tmp_path / "data")),),
        augment=PLAIN,
        mixing=Mixing(mixup=0.8, cutmix=1.0),
    )
    run = plan("classify", tmp_path / "base", data, train=replace(TRAIN, epochs=None, steps=1, batch_size=4))
    system, loader = build("classify", run, Ranks(0, 1, torch.device("cpu")))
    batch = next(iter(loader.iterate(0)))
    assert ((batch.targets > 0) & (batch.targets < 1)).any()
    mixed = system.losses(batch, system.init_state())["loss"]
    plain = system.losses(replace(batch, targets=None), system.init_state())["loss"]
    assert torch.isfinite(mixed)
    assert not torch.equal(mixed, plain)


def test_pictures_of_texts_are_not_mixed(albef, tmp_path):
    multiway.save(albef, tmp_path / "base")
    data = TaskData(train=(LabelledSource(path="scenes:8"),), mixing=Mixing(mixup=0.8))
    run = plan("nlvr2", tmp_path / "base", data, train=replace(TRAIN, batch_size=4))
    with pytest.raises(UserError, match=r"leave data\.mixing out"):
        build("nlvr2", run, Ranks(0, 1, torch.device("cpu")))


def test_a_text_that_can_not_be_read_is_left_out_and_counted(albef, tmp_path):
    for name in "ab":
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    pair = {"images": ["a.png", "b.png"], "label": "True"}
    rows = [{**pair, "sentence": sentence} for sentence in ("one", "two \ud83d", "three")]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    model = NETWORKS[albef.fine_tuning("nlvr2").system].network()(albef.fine_tuning("nlvr2"))
    model.tokenizer = albef.tokenizer
    found = nlvr2.measure(model, PicturePairs(LabelledSource(path=str(tmp_path / "pairs.json"))))
    assert found.result["n"] == 2
    assert found.skipped == {"bad_text": 1}
