"""`multiway data drop`: what was removed is nowhere, and all else is as it was."""

import json
import shutil

import numpy as np
import pytest
import tiny_mae
from PIL import Image

from multiway.data.dataset import Dataset, Source
from multiway.data.shards import Shards, write_shards
from multiway.errors import UserError
from multiway.search.index import Index, build
from multiway.tasks.drop import drop, read_keys
from multiway.tasks.embed import embed
from multiway.train import features


@pytest.fixture
def tars(tmp_path):
    samples = []
    for i in range(7):
        Image.new("RGB", (24, 16), (30 * i,) * 3).save(tmp_path / "one.png")
        content = (tmp_path / "one.png").read_bytes()
        about = {"key": f"was/{i}.png", "licence": "CC0"}
        samples.append({"__key__": f"{i:03d}", "png": content, "txt": f"picture {i}", "json": about})
    write_shards(tmp_path / "tars", samples, shard_size=3)
    return tmp_path / "tars"


def test_from_tars_by_either_key(tars):
    before = {path.name: path.read_bytes() for path in tars.glob("*.tar")}
    found = drop({"001", "was/2.png", "nowhere"}, [str(tars)])
    assert found["removed"] == {str(tars): 2}
    assert found["unknown"] == ["nowhere"]
    left = Shards(sorted(map(str, tars.glob("*.tar"))))
    assert [left.key(i) for i in range(len(left))] == ["000", "003", "004", "005", "006"]
    assert left.texts(0) == ["picture 0"]
    assert left.meta(1)["key"] == "was/3.png"
    assert (tars / "00001.tar").read_bytes() == before["00001.tar"]  # untouched
    assert not [path for path in tars.iterdir() if path.suffix != ".tar"]


def test_from_features_and_from_an_index(albef, tars, tmp_path):
    data = Dataset(Source(path=str(tars)))
    embed(albef, data, tmp_path / "out", kinds=("image", "text"), part_size=4)
    build(albef, tars, tmp_path / "index")
    before = np.load(tmp_path / "out" / "image-00000.npy")
    found = drop({"001", "005"}, [str(tmp_path / "out"), str(tmp_path / "index")])
    assert found["removed"] == {str(tmp_path / "out"): 2, str(tmp_path / "index"): 2}
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "image-00000.npy"), before[[0, 2, 3]])
    lines = (tmp_path / "out" / "text-00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["004", "006"]
    index = Index.load(tmp_path / "index")
    assert [entry.key for entry in index.entries] == ["000", "002", "003", "004", "006"]
    assert drop({"001"}, [str(tmp_path / "out")])["unknown"] == ["001"]


def test_a_key_that_comes_again_leaves_an_index_whole(albef, tars, tmp_path):
    index = tmp_path / "index"
    shutil.copy(tars / "00000.tar", tars / "00003.tar")
    for i in (0, 3):  # other pictures of the same keys
        samples = [{"__key__": f"{k:03d}", "png": _png(tmp_path, 9 * i + k), "txt": "x"} for k in range(2)]
        write_shards(tars, samples, name=f"again{i}")
    build(albef, tars, index)
    assert sum(entry.key.startswith("001") for entry in Index.load(index).entries) == 4
    found = drop({"001"}, [str(index)])
    assert found["removed"] == {str(index): 4}
    assert found["unknown"] == []
    assert not [entry.key for entry in Index.load(index).entries if entry.key.startswith("001")]


def _png(folder, grey):
    Image.new("RGB", (24, 16), (grey,) * 3).save(folder / "one.png")
    return (folder / "one.png").read_bytes()


def test_a_kill_between_features_and_keys_is_mended(albef, tars, tmp_path):
    out = tmp_path / "out"
    embed(albef, Dataset(Source(path=str(tars))), out)
    features_, lines = np.load(out / "image-00000.npy"), (out / "image-00000.jsonl").read_text().splitlines()
    np.save(out / "image-00000.npy", features_[1:])
    (out / ".image-00000.jsonl.drop").write_text("\n".join(lines[1:]) + "\n")
    assert drop({"006"}, [str(out)])["removed"] == {str(out): 1}
    assert (
        len(np.load(out / "image-00000.npy"))
        == len((out / "image-00000.jsonl").read_text().splitlines())
        == 5
    )


def test_a_text_may_hold_other_ends_of_lines(tmp_path):
    np.save(tmp_path / "text-00000.npy", np.eye(2))
    rows = [json.dumps({"key": key, "text": "a\u2028b\u0085c"}, ensure_ascii=False) for key in "xy"]
    (tmp_path / "text-00000.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "embed.json").write_text("{}")
    assert drop({"x"}, [str(tmp_path)])["removed"] == {str(tmp_path): 1}
    assert (tmp_path / "text-00000.jsonl").read_text(encoding="utf-8") == rows[1] + "\n"


def test_caches_that_hold_a_picture_go(tars, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIWAY_CACHE", str(tmp_path / "cache"))
    data = Dataset(Source(path=str(tars)))
    held = {
        "held": [data.digest(1).hex()[: features.DIGITS]],
        "other": [data.digest(4).hex()[: features.DIGITS]],
    }
    features.cache_folder().mkdir(parents=True)
    for name, pictures in held.items():
        (features.cache_folder() / f"{name}.npy").write_bytes(b"")
        (features.cache_folder() / f"{name}.json").write_text(json.dumps({"bad": {}, "pictures": pictures}))
    assert drop({"001"}, [str(tars)])["caches"] == 1
    assert sorted(path.name for path in features.cache_folder().iterdir()) == ["other.json", "other.npy"]


def test_a_key_with_two_meanings_is_asked_for(tmp_path):
    Image.new("RGB", (24, 16)).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    samples = [
        {"__key__": f"{i}", "png": content, "txt": "a picture", "json": {"key": f"{i + 1}"}} for i in range(4)
    ]
    for name in ("either", "tar", "source"):
        write_shards(tmp_path / name, samples)
    with pytest.raises(UserError, match="2 is one sample's key in its tar, and another one's"):
        drop({"2"}, [str(tmp_path / "either")])
    assert drop({"2"}, [str(tmp_path / "tar")], keys_of="tar")["removed"] == {str(tmp_path / "tar"): 1}
    found = drop({"2", "4"}, [str(tmp_path / "source")], keys_of="source")
    assert found["removed"] == {str(tmp_path / "source"): 2}
    left = {
        name: [s.key(i) for i in range(len(s))]
        for name in ("either", "tar", "source")
        if (s := Shards([str(p) for p in (tmp_path / name).glob("*.tar")]))
    }
    assert left == {"either": ["0", "1", "2", "3"], "tar": ["0", "1", "3"], "source": ["0", "2"]}


def test_all_places_are_looked_at_before_the_first_is_rewritten(tars, tmp_path):
    with pytest.raises(UserError, match="No tar"):
        drop({"001"}, [str(tars), str(tmp_path / "nowhere.tar")])
    assert drop({"001"}, [str(tars)])["removed"] == {str(tars): 1}


def test_features_of_other_samples_are_refused(albef, tars, tmp_path):
    """As many samples, but others: a finished part would hold one twice, and one would never come."""
    out = tmp_path / "out"
    embed(albef, Dataset(Source(path=str(tars))), out, part_size=4)
    drop({"000"}, [str(tars)])
    write_shards(tars, [{"__key__": "new", "png": _png(tmp_path, 3), "txt": "x"}], name="more")
    with pytest.raises(UserError, match="another set of samples"):
        embed(albef, Dataset(Source(path=str(tars))), out, part_size=4)


def test_lists_of_keys(tmp_path):
    (tmp_path / "keys").write_bytes("\ufeffa\r\nb\u2028c\r\n".encode())
    assert read_keys(tmp_path / "keys") == {"a", "b\u2028c"}
    (tmp_path / "keys").write_text("a\n\n b \n")
    assert read_keys(tmp_path / "keys") == {"a", "b"}
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(UserError, match="holds no key"):
        read_keys(tmp_path / "keys")


def test_a_model_without_features_claims_no_folder(tars, tmp_path):
    with pytest.raises(UserError, match="MAE has no contrastive features"):
        embed(tiny_mae.mae(), Dataset(Source(path=str(tars))), tmp_path / "out")
    assert not (tmp_path / "out").exists()
