"""`multiway data inspect --against`: another split of the source, another source, never the same samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def splits(tmp_path):
    """Karpathy's layout; the second test picture is a smaller copy of the first one to train on."""
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 255, (9, 9, 3), np.uint8)).resize((90, 90)) for _ in range(4)
    ]
    pictures.append(pictures[0].resize((60, 60)))
    rows = []
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        split = "train" if i < 3 else "test"
        rows.append({"filename": f"{i}.png", "split": split, "sentences": [{"raw": f"picture {i}"}]})
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": rows}))
    boxes = [{"image": r["filename"], "text": "it", "box": [1, 2, 3, 4], "split": r["split"]} for r in rows]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


@pytest.mark.parametrize(("file", "flags"), [("karpathy.json", ()), ("boxes.json", ("--task", "grounding"))])
def test_another_split_of_the_source(cli, splits, file, flags):
    path = splits / file
    code, out, err = cli("data", "inspect", path, *flags, "--split", "test", "--against", "train", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["pictures"] == 2
    pair = [[part.split()[0] for part in pair.values()] for pair in found["near_duplicates"]]
    assert pair == [["4.png", "0.png"]]


def test_the_bundled_drawings(cli):
    given = ("data", "inspect", "emoji", "--read", 20, "--json")
    code, out, err = cli(*given, "--split", "style", "--against", "combination")
    assert code == 0, err
    assert "near_duplicates" in json.loads(out)
    for split, other in (("style", "style:de"), ("train", "transfer:de")):
        code, _, err = cli(*given, "--split", split, "--against", other)
        assert code == 2
        assert "holds the same samples" in err
    code, _, err = cli(*given, "--split", "train:de", "--against", "transfer:de")  # other concepts
    assert code == 0, err


def test_the_same_samples_are_refused(cli, splits):
    path = splits / "karpathy.json"
    for flags in (("--split", "test", "--against", "test"), ("--against", "test")):
        code, _, err = cli("data", "inspect", path, *flags)
        assert code == 2
        assert "holds the same samples" in err
    code, _, err = cli(
        "data", "inspect", path, "--split", "test", "--against", splits / "." / "karpathy.json"
    )
    assert code == 2
    assert "is the source itself" in err


def test_another_source_is_taken_whole(cli, splits):
    (splits / "other.csv").write_text("image,caption\n0.png,one\n1.png,two\n")
    code, out, err = cli(
        "data", "inspect", splits / "karpathy.json", "--split", "test", "--against", splits / "other.csv",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["near_duplicates"] == [{"key": "4.png", "like": "0.png"}]


def test_tasks_by_their_names(cli, splits):
    code, out, err = cli("data", "inspect", splits / "boxes.json", "--task", "grounding")
    assert code == 0, err
    assert "5 pictures" in out
    code, _, err = cli("data", "inspect", splits / "boxes.json", "--task", "pointing")
    assert code == 2
    assert "grounding" in err
