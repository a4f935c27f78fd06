"""`multiway embed`: features that a vector database takes, in parts that a second run goes on with."""

from __future__ import annotations

import json

import numpy as np
import pytest

import multiway


def read(out, kind):
    rows = [
        json.loads(line)
        for path in sorted(out.glob(f"{kind}-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return rows, np.concatenate([np.load(path) for path in sorted(out.glob(f"{kind}-*.npy"))])


def test_parts_hold_the_model_s_features_and_are_gone_on_with(cli, model_folder, pictures, tmp_path):
    out, given = tmp_path / "out", ("embed", pictures / "captions.csv", "--model", model_folder)
    given = (*given, "--of", "both", "--out", out, "--part-size", 4, "--batch-size", 3)
    code, said, err = cli(*given)
    assert code == 0, err
    assert "6 images, 6 texts written" in said
    rows, features = read(out, "image")
    model = multiway.load(model_folder)
    names = [str(pictures / row["key"]) for row in rows]
    np.testing.assert_allclose(features, model.encode_image(names).numpy(), atol=1e-5)
    rows, features = read(out, "text")
    wanted = model.encode_text([row["text"] for row in rows]).numpy()
    np.testing.assert_allclose(features, wanted, atol=1e-5)
    first = (out / "image-00000.npy").stat().st_mtime_ns
    (out / "image-00001.npy").unlink()  # as if stopped before it
    code, said, err = cli(*given)
    assert code == 0, err
    assert "2 images written; 4 samples were there already" in said
    assert (out / "image-00000.npy").stat().st_mtime_ns == first
    assert len(read(out, "image")[0]) == 6
    code, _, err = cli(*given[:-1], 3, "--part-size", 5)
    assert code == 2
    assert "another part_size" in err


def test_another_split_of_as_many_samples_is_refused(cli, model_folder, pictures, tmp_path):
    rows = ["image,caption,split", "red.png,red,val", "green.png,green,test"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    given = ("embed", tmp_path / "list.csv", "--images", pictures, "--model", model_folder)
    given = (*given, "--out", tmp_path / "out", "--split")
    assert cli(*given, "val")[0] == 0
    code, _, err = cli(*given, "test")
    assert code == 2
    assert "another source" in err


def test_bad_pictures_are_named(cli, model_folder, pictures, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "good.png").write_bytes((pictures / "red.png").read_bytes())
    code, said, err = cli("embed", folder, "--model", model_folder, "--out", tmp_path / "out")
    assert code == 0, err
    assert "1 images written; skipped not_an_image 1" in said
    assert json.loads((tmp_path / "out" / "skipped.jsonl").read_text())["key"] == "bad.png"


def test_parquet_of_the_same(cli, model_folder, pictures, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    code, _, err = cli(
        "embed", pictures / "captions.csv", "--model", model_folder, "--out", tmp_path / "p", "--of", "both",
        "--format", "parquet",
    )  # fmt: skip
    assert code == 0, err
    found = parquet.read_table(tmp_path / "p" / "text-00000.parquet").to_pydict()
    assert found["text"][0] == "a red picture"
    model = multiway.load(model_folder)
    np.testing.assert_allclose(found["embedding"], model.encode_text(found["text"]).numpy(), atol=1e-5)
