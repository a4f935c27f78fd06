"""Predictions in the formats that benchmarks take, of data with labels and of test splits without."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_captioner import FakeCaptioner
from PIL import Image
from torch import nn

import multiway
from multiway.cli.main import main
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.data.referring import Referring
from multiway.data.sentences import Sentences
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks import classify, entailment, grounding, nlvr2
from multiway.tasks.upload import name_of, number

COLOURS = {"red": "entailment", "green": "neutral", "blue": "contradiction"}


class Looks(System):
    """Chooses the class by a picture's strongest channel; of two pictures, whether the first is redder."""

    image_size, image_mean, image_std = 16, (0.0,) * 3, (1.0,) * 3

    def __init__(self):
        super().__init__()
        self.nothing, self.config = nn.Parameter(torch.zeros(1)), SimpleNamespace()

    def tokenize(self, texts, *, clean=True):
        ids = torch.ones(len(texts), 1, dtype=torch.long)
        return ids, ids

    def predict(self, batch):
        means = batch.image.mean((-2, -1))
        return means.flip(1) if means.ndim == 2 else means[:, :, 0].flip(1)  # labels: blue 0, green 1, red 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in COLOURS:
        Image.new("RGB", (20, 10), "lime" if name == "green" else name).save(tmp_path / f"{name}.jpg")
    return tmp_path


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def pairs_of(folder: Path, labels: list[str | None]) -> str:
    rows = []
    for i, label in enumerate(labels):
        sides = ("red.jpg", "blue.jpg") if i % 2 == 0 else ("blue.jpg", "red.jpg")
        for n, name in enumerate(sides):
            Image.open(folder / name).save(folder / f"test1-{i}-0-img{n}.png")
        row = {"identifier": f"test1-{i}-0-1", "sentence": "the left is red"}
        rows.append(row if label is None else row | {"label": label})
    return write(folder / "test1.json", rows)


def test_nlvr2_has_identifiers_and_only_known_labels_count(folder: Path) -> None:
    path, out = pairs_of(folder, ["True", "False", "True", "-"]), folder / "out.csv"
    data = PicturePairs(LabelledSource(path=path), unlabelled=True)
    assert [data.label(i) for i in range(4)] == [1, 0, 1, -1]
    found = nlvr2.measure(Looks(), data, predictions=out)
    assert read_csv(out) == [[f"test1-{i}-0-1", str(i % 2 == 0)] for i in range(4)]
    assert (found.result["n"], found.result["accuracy"]) == (3, 100.0)
    assert len(PicturePairs(LabelledSource(path=path))) == 3  # who learns from it has no use for the fourth
    drawn = PicturePairs(LabelledSource(path="scenes:2"))
    nlvr2.measure(Looks(), drawn, predictions=out)
    assert [row[0] for row in read_csv(out)] == [drawn.key(0), drawn.key(1)]


def test_nlvr2_without_labels_is_written_and_not_measured(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(multiway, "load", lambda *_, **__: Looks())
    path, out = pairs_of(folder, [None] * 3), folder / "out.csv"
    given = ["evaluate", "nlvr2", "--model", "x", "--data", path]
    assert main([*given, "--predictions", str(out)]) == 0
    assert "no labels to compare with" in capsys.readouterr().out
    assert len(read_csv(out)) == 3
    assert main([*given, "--predictions", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 3}
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "no column label" in said
    assert "--predictions FILE" in said
    assert (
        main([*given, "--label", "truth", "--predictions", str(out)]) == 2
    )  # no typo passes for a test split
    assert main([*given, "--predictions", str(folder)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([*given, "--predictions", str(out), "--slice", "identifier"]) == 2
    assert "leave out --slice" in capsys.readouterr().err
    two = ["evaluate", "nlvr2", "--compare", "a", "b", "--data", path, "--predictions", str(out)]
    assert main(two) == 2
    assert "--predictions is for one model" in capsys.readouterr().err
    with pytest.raises(UserError, match="--predictions"):
        nlvr2.measure(Looks(), PicturePairs(LabelledSource(path=path), unlabelled=True))


@pytest.mark.parametrize("known", [True, False])
def test_entailment_has_pair_ids(folder: Path, known: bool) -> None:
    rows = [
        {"Flickr30K_ID": name, "pairID": f"{name}.jpg#1r1e", "sentence2": "It is red."}
        | ({"gold_label": label} if known else {})
        for name, label in COLOURS.items()
    ]
    data = Sentences(LabelledSource(path=write(folder / "ve.jsonl", rows)), unlabelled=True)
    found = entailment.measure(Looks(), data, predictions=folder / "out.jsonl")
    wanted = [{"pairID": f"{name}.jpg#1r1e", "label": label} for name, label in COLOURS.items()]
    assert list(map(json.loads, (folder / "out.jsonl").read_text().splitlines())) == wanted
    assert found.result.get("accuracy") == (100.0 if known else None)
    entailment.measure(Looks(), data, predictions=folder / "out.csv")
    assert read_csv(folder / "out.csv") == [["pairID", "label"], *(list(row.values()) for row in wanted)]
    if not known:
        with pytest.raises(UserError, match="--predictions"):
            Sentences(LabelledSource(path=str(folder / "ve.jsonl")))


def test_classes_by_key_of_a_flat_folder_and_of_tables(folder: Path) -> None:
    labels = ("blue", "green", "red")
    flat = LabelledPictures(LabelledSource(path=str(folder)), labels=labels, unlabelled=True)
    assert [flat.texts(i) for i in range(3)] == [[], [], []]
    found = classify.measure(Looks(), flat, predictions=folder / "out" / "p.csv")
    wanted = [["key", "label"], *([f"{name}.jpg", name] for name in labels)]
    assert read_csv(folder / "out" / "p.csv") == wanted
    assert found.result == {"n": 3}
    path = folder / "t.csv"
    path.write_text("image,class\n" + "".join(f"{n}.jpg,{n if n != 'red' else ''}\n" for n in labels))
    table = LabelledPictures(LabelledSource(path=str(path)), unlabelled=True)
    assert (table.labels, [table.label(i) for i in range(3)]) == (("blue", "green"), [0, 1, -1])
    with pytest.raises(UserError, match="nor the model names a class"):
        LabelledPictures(
            LabelledSource(path=write(folder / "t.jsonl", [{"image": "red.jpg"}])), unlabelled=True
        )


def test_captions_by_coco_s_ids_of_nocaps_files(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(multiway, "load", lambda *_, **__: FakeCaptioner())
    images = [{"id": 7 + i, "file_name": f"{name}.jpg", "domain": "in"} for i, name in enumerate(COLOURS)]
    test, val, out = folder / "test.json", folder / "val.json", folder / "out.json"
    test.write_text(json.dumps({"images": images}))
    captioned = [{"image_id": 7 + i, "caption": f"A {name} picture."} for i, name in enumerate(COLOURS)]
    val.write_text(json.dumps({"images": images, "annotations": captioned[:2]}))
    given = ["evaluate", "caption", "--model", "x", "--json", "--data"]
    wanted = [{"image_id": 7 + i, "caption": f"a {name} picture"} for i, name in enumerate(COLOURS)]
    assert main([*given, str(test), "--predictions", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"n_images": 3}
    assert json.loads(out.read_text()) == wanted
    assert main([*given, str(val), "--predictions", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_images"], found["exact"]) == (2, 100.0)
    assert json.loads(out.read_text()) == wanted
    assert main([*given, str(test)]) == 2
    assert "--predictions FILE" in capsys.readouterr().err
    (folder / "own.csv").write_text("image,caption\nred.jpg,a red picture\nblue.jpg,a blue picture\n")
    assert main([*given, str(folder / "own.csv"), "--predictions", str(out)]) == 0
    assert [row["image_id"] for row in json.loads(out.read_text())] == ["red.jpg", "blue.jpg"]
    of_blip = [{"image": "red.jpg", "img_id": 7, "caption": "a red picture"}]
    (folder / "blip.json").write_text(json.dumps(of_blip))
    assert main([*given, str(folder / "blip.json"), "--predictions", str(out)]) == 0
    assert json.loads(out.read_text()) == wanted[:1]


def test_boxes_by_refcoco_s_ids(folder: Path, monkeypatch) -> None:
    instances = {
        "annotations": [{"id": 5, "image_id": 7, "bbox": [1, 2, 3, 4]}],
        "images": [{"id": 7, "file_name": "red.jpg"}],
    }
    sentences = [{"sent": "left", "sent_id": 30}, {"sent": "it", "sent_id": 31}]
    ref = {"ref_id": 9, "ann_id": 5, "split": "val", "sentences": sentences}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs.json").write_text(json.dumps([ref]))
    (folder / "dets.json").write_text(json.dumps({"7": [[0, 0, 20, 10], [12, 4, 3, 2]]}))
    heat = np.zeros((10, 20))
    heat[4:6, 12:15] = 1.0
    monkeypatch.setattr(grounding, "heat_of", lambda model, pictures, *_, **__: [heat] * len(pictures))
    data, out = Referring(LabelledSource(path=str(folder / "refs.json"))), folder / "out.json"
    grounding.measure(Looks(), data, predictions=out)
    box = [12.0, 4.0, 3.0, 2.0]
    assert json.loads(out.read_text()) == [{"ref_id": 9, "sent_id": n, "bbox": box} for n in (30, 31)]
    path = write(folder / "t.jsonl", [{"image": "red.jpg", "text": t, "box": [1, 2, 3, 4]} for t in "ab"])
    plain = Referring(LabelledSource(path=path))
    grounding.measure(Looks(), plain, predictions=out)  # no proposals: the box around the heat
    assert json.loads(out.read_text()) == [{"key": plain.key(i), "bbox": box} for i in range(2)]


def test_a_number_is_no_string_also_of_a_csv() -> None:
    assert name_of({"image_id": " 7 ", "cocoid": 8}, ("image_id", "cocoid"), "00012") == 7
    assert name_of({"image_id": "", "cocoid": 8}, ("image_id", "cocoid"), "00012") == 8
    assert name_of({"image_id": 0}, ("image_id",), "key") == 0
    assert name_of({"pairID": "1.jpg#0r1n"}, ("pairID",), "key") == "1.jpg#0r1n"
    assert name_of({"image_id": None}, ("image_id",), "00012") == "00012"  # a key stays as it is
    assert [number(n) for n in ("42000", 42000, "q1")] == [42000, 42000, "q1"]
