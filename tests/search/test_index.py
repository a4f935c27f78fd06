"""An index follows its folder, encodes only what is new, and is never half written."""

import copy
import io
import json
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from multiway.errors import UserError
from multiway.search import index as module
from multiway.search.index import Index, build, fingerprint

KEYS = ["C.PNG", "a.png", "b.jpg", "deep/d.webp", "deep/er/e f.png", "g.png", "h.png"]


def test_features_are_the_models(albef, folder, tmp_path):
    report = build(albef, folder, tmp_path / "index", batch_size=3)
    assert (report.encoded, report.kept, report.removed, report.skipped) == (7, 0, 0, {})
    index = Index.load(tmp_path / "index")
    assert [entry.key for entry in index.entries] == KEYS
    albef.eval()
    want = albef.encode_image([folder / key for key in KEYS]).numpy()
    albef.train()
    np.testing.assert_allclose(index.features, want, atol=1e-5)


def test_unchanged_pictures_are_not_encoded_again(albef, folder, tmp_path, encoded):
    build(albef, folder, tmp_path / "index")
    assert sum(encoded) == 7
    before = Index.load(tmp_path / "index")
    report = build(albef, folder, tmp_path / "index")
    assert (report.encoded, report.kept, sum(encoded)) == (0, 7, 7)

    rng = np.random.default_rng(9)
    for name in ("new.png", "b.jpg"):  # one more, and one with other content
        Image.fromarray(rng.integers(0, 255, (36, 30, 3), np.uint8)).save(folder / name)
    (folder / "g.png").rename(folder / "renamed.png")
    shutil.copy(folder / "a.png", folder / "copy.png")
    os.utime(folder / "h.png")  # touched, not changed
    (folder / "C.PNG").unlink()
    report = build(albef, folder, tmp_path / "index")
    assert (report.encoded, report.kept, report.removed, sum(encoded)) == (2, 6, 2, 9)
    after = Index.load(tmp_path / "index")
    rows = {e.key: f for e, f in zip(after.entries, after.features, strict=True)}
    old = {e.key: f for e, f in zip(before.entries, before.features, strict=True)}
    assert (rows["renamed.png"] == old["g.png"]).all()
    assert (rows["copy.png"] == old["a.png"]).all()
    assert (rows["b.jpg"] != old["b.jpg"]).any()
    assert len(list((tmp_path / "index").iterdir())) == 2  # index.json and the newest features


def test_another_model_starts_anew(albef, folder, tmp_path, encoded):
    build(albef, folder, tmp_path / "index")
    before = fingerprint(albef)
    with torch.no_grad():
        albef.encoders.image_proj.bias[0] += 1
        assert fingerprint(albef) != before
        report = build(albef, folder, tmp_path / "index")
        albef.encoders.image_proj.bias[0] -= 1
    assert (report.encoded, report.kept, sum(encoded)) == (7, 0, 14)


def test_a_model_that_sees_pictures_otherwise_is_another(albef):
    found = {fingerprint(albef)}
    for changes in ({"fit": "crop"}, {"crop_share": 0.5}, {"resample": "bilinear"}):
        image = replace(albef.config.image, **changes)
        seen = copy.copy(albef)
        seen.config = replace(albef.config, image=image)
        found.add(fingerprint(seen))
    assert len(found) == 4


def test_another_source_does_not_replace_an_index(albef, folder, tmp_path):
    build(albef, folder, tmp_path / "index")
    before = (tmp_path / "index" / "index.json").read_bytes()
    shutil.copytree(folder / "deep", tmp_path / "other")
    with pytest.raises(UserError, match=f"holds the index of {folder}"):
        build(albef, tmp_path / "other", tmp_path / "index")
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    assert build(albef, f"{folder}/", tmp_path / "index").kept == 7


def test_bad_pictures_are_named(albef, folder, tmp_path):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("no picture")
    report = build(albef, folder, tmp_path / "index")
    assert report.encoded == 7
    assert sum(report.skipped.values()) == 2
    assert "skipped" in report.sentence()
    assert "not_an_image 1" in report.sentence()


def test_tars(albef, folder, tmp_path, encoded):
    with tarfile.open(tmp_path / "x-000.tar", "w") as tar:
        for number, name in enumerate(["a.png", "g.png", "h.png"]):
            tar.add(folder / name, f"{number:03d}.png")
            info = tarfile.TarInfo(f"{number:03d}.txt")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert build(albef, tmp_path / "x-000.tar", tmp_path / "index").encoded == 3
    assert build(albef, tmp_path / "x-*.tar", tmp_path / "index").kept == 3
    assert sum(encoded) == 3
    assert [e.key for e in Index.load(tmp_path / "index").entries] == ["000", "001", "002"]


def test_an_interrupted_build_goes_on(albef, folder, tmp_path, encoded, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 2)

    def stop(stage, done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(albef, folder, tmp_path / "index", batch_size=2, progress=stop)
    assert len(Index.load(tmp_path / "index").entries) == 2
    assert build(albef, folder, tmp_path / "index", batch_size=2).kept == 2
    assert len(Index.load(tmp_path / "index").entries) == 7


def test_an_interrupted_update_keeps_what_was_there(albef, folder, tmp_path, encoded, monkeypatch):
    build(albef, folder, tmp_path / "index")
    monkeypatch.setattr(module, "SAVE_EVERY", 2)
    for i in range(4):  # they sort before all others
        Image.new("RGB", (36, 30), (60 * i, 0, 9)).save(folder / f"0{i}.png")

    def stop(stage, done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(albef, folder, tmp_path / "index", batch_size=2, progress=stop)
    assert [entry.key for entry in Index.load(tmp_path / "index").entries] == ["00.png", "01.png", *KEYS]
    build(albef, folder, tmp_path / "index", batch_size=2)
    assert len(Index.load(tmp_path / "index").entries) == 11
    assert sum(encoded) == 7 + 4 + 2  # two were encoded and not saved


def test_wrong_sources(albef, tmp_path):
    with pytest.raises(UserError, match="there is no"):
        build(albef, tmp_path / "missing", tmp_path / "index")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in"):
        build(albef, tmp_path / "empty", tmp_path / "index")
    (tmp_path / "empty" / "a.png").write_text("text")
    with pytest.raises(UserError, match="not_an_image 1"):
        build(albef, tmp_path / "empty", tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("damage", ["json", "format", "features", "count"])
def test_damaged_index(albef, folder, tmp_path, damage):
    build(albef, folder, tmp_path / "index")
    head = json.loads((tmp_path / "index" / "index.json").read_text())
    if damage == "json":
        (tmp_path / "index" / "index.json").write_text("{")
    elif damage == "features":
        (tmp_path / "index" / head["features"]).unlink()
    else:
        changed = head | ({"format": 99} if damage == "format" else {"entries": head["entries"][1:]})
        (tmp_path / "index" / "index.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="damaged"):
        Index.load(tmp_path / "index")
    with pytest.raises(UserError, match="holds no index"):
        Index.load(tmp_path)
