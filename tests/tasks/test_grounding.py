"""Grounding: heat that is where the score comes from, boxes by hand, files, controls, commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_blip
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data import boxes, scenes
from multiway.data.labelled import LabelledSource
from multiway.data.referring import Referring
from multiway.errors import UserError
from multiway.explain import gradcam, overlay, resize_heat
from multiway.metrics.grounding import best_box, iou, points_into
from multiway.systems.towers import BackboneConfig


def test_boxes_by_hand() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (20, 20, 5, 5)) == 0
    heat = np.zeros((10, 20))
    heat[2:5, 3:6] = 1.0
    assert best_box(heat, [(0, 0, 20, 10), (3, 2, 3, 3), (10, 5, 4, 4)]) == (3, 2, 3, 3)
    assert best_box(heat, [(10, 5, 4, 4)]) is None
    assert best_box(heat, [(0, 0, 20, 10), (3, 2, 3, 3)], alpha=0.0) == (0, 0, 20, 10)  # the first of equals
    assert points_into(heat, (3, 2, 1, 1))
    assert not points_into(heat, (4, 2, 1, 1))


@pytest.mark.parametrize("kind", ["albef", "blip"])
def test_heat_is_attention_times_its_gradient(kind: str) -> None:
    """By finite differences: adding to a layer's attention moves the score as the gradient says."""
    model, _ = (tiny.albef if kind == "albef" else tiny_blip.blip)()
    model.eval().requires_grad_(False)  # a frozen model can be explained
    batch = tiny.batch(3)
    pairs = batch.image, *batch.text()
    found = gradcam(model, *pairs)
    assert found.heat.shape == (3, 4, 4)
    assert (found.heat >= 0).all()
    logits, maps = model.match_maps(*pairs)
    torch.testing.assert_close(found.score, logits)
    _, context = model.image_context(batch.image)
    _, hidden = model.text_context(*batch.text())
    torch.testing.assert_close(logits, model.match_pairs(context, hidden, batch.attention_mask))
    real = batch.attention_mask[:, None, :, None]
    by_hand = (found.attention * found.gradient.clamp_min(0) * real)[..., 1:].mean(1).sum(1)
    by_hand = by_hand / batch.attention_mask.sum(1, keepdim=True)
    torch.testing.assert_close(found.heat.flatten(1), by_hand)
    padded = gradcam(model, *pairs, over_padding=True).heat
    shares = batch.attention_mask.float().mean(1)[:, None, None]
    torch.testing.assert_close(padded, found.heat * shares)
    alone = gradcam(model, *(x[:1] for x in pairs))
    torch.testing.assert_close(alone.heat, found.heat[:1])
    itc = gradcam(model, *pairs, by="itc")
    assert itc.heat.shape == (3, 4, 4)
    with pytest.raises(UserError, match="no layer 9"):
        gradcam(model, *pairs, layer=9)
    assert len(maps) == 2


def test_a_convolutional_tower_is_looked_through_by_its_own_grid() -> None:
    tower = BackboneConfig(name="efficientnet_lite0", image_size=(64, 96))
    model, _ = tiny.albef(tiny.albef_config(image=tower))
    batch = tiny.batch(2)
    heat = gradcam(model.eval(), torch.randn(2, 3, 64, 96), *batch.text()).heat
    assert heat.shape == (2, 2, 3)


def test_drawn_worlds_and_files(tmp_path: Path) -> None:
    for path, colours in (("scenes:6:2", scenes.COLOURS), ("boxes:6:2", boxes.COLOURS)):
        data = Referring(LabelledSource(path=path))
        for i in range(6):
            row, picture = data.referred(i), data.image(i)
            assert row.box in row.proposals
            left, top, width, height = row.box
            assert left >= 0
            assert left + width <= picture.width
            assert top + height <= picture.height
            named = colours[row.text.split()[2]]
            inside = picture.crop((int(left), int(top), int(left + width) + 1, int(top + height) + 1))
            assert named in {colour for _, colour in inside.getcolors(10**5)}
            assert row == data.referred(i)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    instances = {
        "annotations": [{"id": 5, "image_id": 7, "bbox": [1, 2, 3, 4]}],
        "images": [{"id": 7, "file_name": "a.jpg"}],
    }
    ref = {
        "ref_id": 9,
        "ann_id": 5,
        "image_id": 7,
        "split": "val",
        "sentences": [{"sent": "left"}, {"sent": "it"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "refs.json").write_text(json.dumps([ref, ref | {"split": "testA"}]))
    (tmp_path / "dets.json").write_text(json.dumps({"7": [[0, 0, 9, 9, 0.5]]}))
    data = Referring(LabelledSource(path=str(tmp_path / "refs.json"), split="val"))
    assert [data.texts(i) for i in range(len(data))] == [["left"], ["it"]]
    assert data.referred(0).box == (1, 2, 3, 4)
    assert data.referred(0).proposals == ((0, 0, 9, 9),)
    (tmp_path / "albef.json").write_text(json.dumps([{"image": "a.jpg", "text": "that", "ref_id": 9}]))
    assert Referring(LabelledSource(path=str(tmp_path / "albef.json"))).referred(0).box == (1, 2, 3, 4)
    (tmp_path / "t.csv").write_text('image,text,box\na.jpg,it,"[1, 2, 3, 4]"\n')
    assert Referring(LabelledSource(path=str(tmp_path / "t.csv"))).referred(0).box == (1, 2, 3, 4)
    (tmp_path / "t.csv").write_text("image,text,box\na.jpg,it,somewhere\n")
    with pytest.raises(UserError, match="left, top, width"):
        Referring(LabelledSource(path=str(tmp_path / "t.csv")))


def test_the_commands(albef, tmp_path: Path, monkeypatch, capsys) -> None:
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    evaluate = ["evaluate", "grounding", "--model", "base", "--data", "scenes:5"]
    assert main([*evaluate, "--data", "boxes:3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 8
    assert 0 < found["chance"]["pointing"] < 20
    assert found["chance"]["accuracy"] > 0
    assert set(found["intervals"]) == {"pointing", "accuracy"}
    assert main([*evaluate, "--by", "itc"]) == 0
    assert "chance" in capsys.readouterr().out
    Image.new("RGB", (40, 30), "blue").save("a.png")
    assert main(["ground", "a.png", "a red dog", "--model", "base", "--out", "heat.png"]) == 0
    assert "of 40 x 30" in capsys.readouterr().out
    with Image.open("heat.png") as written:
        assert written.size == (40, 30)
    heat = resize_heat(torch.eye(2), (8, 8))
    assert overlay(Image.new("RGB", (8, 8), "white"), heat).getpixel((0, 0))[0] > 200
