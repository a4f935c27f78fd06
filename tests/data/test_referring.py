"""Own tables of texts and boxes, and RefCOCO's files where they are not whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from multiway.data.labelled import LabelledSource
from multiway.data.referring import Referring
from multiway.errors import UserError

ROW = {"image": "a.jpg", "text": "it", "box": [1, 2, 3, 4]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    return tmp_path


def opened(folder: Path, rows: list[dict[str, Any]], **options) -> Referring:
    (folder / "t.json").write_text(json.dumps(rows))
    return Referring(LabelledSource(path=str(folder / "t.json"), **options))


def test_what_a_row_lacks_is_counted(folder: Path) -> None:
    bad = [{"box": None}, {"box": [1, 2, 0, 4]}, {"box": [1, 2, 3, -4]}, {"text": " "}, {"image": ""}]
    data = opened(folder, [ROW, *({**ROW, **one} for one in bad)])
    assert len(data) == 1
    assert data.problems == {"no_box": 1, "bad_box": 2, "no_text": 1, "no_image": 1}
    data = opened(folder, [{**ROW, "proposals": [[0, 0, 9, 9], [5, 5, 0, 0]]}])
    assert data.referred(0).proposals == ((0, 0, 9, 9),)
    assert data.problems == {"bad_proposal": 1}


def test_a_column_of_splits(folder: Path) -> None:
    rows = [{**ROW, "text": split, "split": split} for split in ("train", "val")]
    assert [opened(folder, rows, split="val").texts(0)] == [["val"]]
    assert len(opened(folder, rows)) == 2
    with pytest.raises(UserError, match="has no splits"):
        opened(folder, [ROW], split="val")
    with pytest.raises(UserError, match="has no splits"):
        Referring(LabelledSource(path="boxes:3", split="val"))


def test_proposals_in_a_csv(folder: Path) -> None:
    for cell, found in (("[[1,1,20,20],[5,5,30,30]]", ((1, 1, 20, 20), (5, 5, 30, 30))), ("", ())):
        with (folder / "t.csv").open("w", newline="") as file:
            names = ["image", "text", "box", "proposals"]
            csv.writer(file).writerows([names, ["a.jpg", "it", "[1, 2, 3, 4]", cell]])
        assert Referring(LabelledSource(path=str(folder / "t.csv"))).referred(0).proposals == found
    for wrong in ("[[1,1,20", 7, "[[1, 2]]"):
        with pytest.raises(UserError, match="write"):
            opened(folder, [{**ROW, "proposals": wrong}])


def test_a_column_of_ids_makes_no_refcoco(folder: Path) -> None:
    assert opened(folder, [{**ROW, "ref_id": 3}]).referred(0).box == (1, 2, 3, 4)
    with pytest.raises(UserError, match=r"no file or folder .*instances\.json"):
        opened(folder, [{"image": "a.jpg", "text": "it", "ref_id": 3}])


def test_refcoco_that_is_not_whole(folder: Path) -> None:
    instances = {"annotations": [], "images": [{"id": 7, "file_name": "a.jpg"}]}
    ref = {"ref_id": 9, "ann_id": 77, "split": "val", "sentences": [{"sent": "left"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(UserError, match=r"t\.json lacks what its layout promises \(KeyError: 77\)"):
        opened(folder, [ref])
    (folder / "instances.json").write_text("{}")
    with pytest.raises(UserError, match=r"instances\.json lacks what its layout promises"):
        opened(folder, [ref])
