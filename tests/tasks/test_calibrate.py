"""`multiway calibrate` from a gold file to what `match` says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data.gold import GoldPairs
from multiway.errors import UserError
from multiway.tasks.calibrate import calibrate
from multiway.tasks.match import match


@pytest.fixture
def gold(tmp_path):
    rng, rows = np.random.default_rng(0), ["image,text,label"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'a dog' if i % 3 else 'two cats'},{int(i % 2)}")
    (tmp_path / "gold.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "gold.csv"


def test_is_kept_in_the_folder_and_used_by_match(albef, gold, tmp_path, capsys):
    folder = tmp_path / "model"
    multiway.save(albef, folder)
    picture = str(tmp_path / "0.png")
    [raw] = match(multiway.load(folder), [picture], ["a dog"])
    assert raw.probability == pytest.approx(1 / (1 + np.exp(-raw.margin)), abs=1e-6)
    code = main(["calibrate", "--model", str(folder), "--data", str(gold), "--json"])
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 24
    assert found["score"] == "itm"
    model = multiway.load(folder)
    [fitted] = match(model, [picture], ["a dog"])
    expected = 1 / (1 + np.exp(-(found["scale"] * raw.margin + found["bias"])))
    assert fitted.margin == pytest.approx(raw.margin)
    assert fitted.probability == pytest.approx(expected, abs=1e-6)
    assert model.match(picture, "a dog").item() == pytest.approx(expected, abs=1e-5)
    again = calibrate(model, GoldPairs(str(gold)), batch_size=5)  # the old fit does not count
    assert again.scale == pytest.approx(found["scale"], rel=1e-3)
    multiway.save(model, tmp_path / "copy")
    assert multiway.load(tmp_path / "copy").calibration == model.calibration


def test_too_few_labels_and_damaged_files_are_refused(albef, gold, tmp_path):
    lines = gold.read_text().splitlines()
    gold.write_text("\n".join(lines[:6]) + "\n")
    with pytest.raises(UserError, match="at least 10"):
        calibrate(albef, GoldPairs(str(gold)))
    lines = [lines[0], *(line.replace(line.split(",")[0], "0.png", 1) for line in lines[1:])]
    gold.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"too few pictures \(1\)"):
        calibrate(albef, GoldPairs(str(gold)))
    multiway.save(albef, tmp_path / "model")
    (tmp_path / "model" / "calibration.json").write_text('{"scale": 1}')
    with pytest.raises(UserError, match="multiway calibrate"):
        multiway.load(tmp_path / "model")
