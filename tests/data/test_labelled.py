"""Pictures with a class: folders, tables, tars, the bundled drawings; the label map is the model's."""

import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from multiway.data import emoji
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.data.sample import BadSample
from multiway.data.shards import write_shards
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError

COLOURS = {"a": (255, 0, 0), "b": (0, 0, 255)}


def png(colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


def opened(path, *, labels=(), **options):
    return LabelledPictures(LabelledSource(path=str(path), **options), labels=labels)


def check(data):
    """Every picture has the colour of its class."""
    assert len(data) == 4
    for i in range(len(data)):
        assert data.image(i).getpixel((0, 0)) == COLOURS[data.labels[data.label(i)]]
        assert data.texts(i) == [data.labels[data.label(i)]]
    again = pickle.loads(pickle.dumps(data))  # worker processes may be spawned
    assert again.image(3).tobytes() == data.image(3).tobytes()


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / "tree" / name / "deep").mkdir(parents=True)
        (tmp_path / "tree" / name / "1.png").write_bytes(png(colour))
        (tmp_path / "tree" / name / "deep" / "2.png").write_bytes(png(colour))
    return tmp_path


def test_a_folder_for_each_class(folder):
    check(opened(folder / "tree"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_tables(folder, kind):
    rows = [{"file_name": f"{c}/{f}", "class": c} for c in COLOURS for f in ("1.png", "deep/2.png")]
    text = {
        "csv": "file_name,class\n" + "".join(f"{r['file_name']},{r['class']}\n" for r in rows),
        "jsonl": "\n".join(map(json.dumps, rows)),
        "json": json.dumps(rows),
    }[kind]
    (folder / f"t.{kind}").write_text(text)
    check(opened(folder / f"t.{kind}", images=str(folder / "tree")))
    with pytest.raises(UserError, match="no column kind"):
        opened(folder / f"t.{kind}", images=str(folder / "tree"), label="kind")


def test_a_column_of_splits(folder):
    rows = [f"{c}/{f},{c},{'train' if c == 'a' else 'val'}" for c in COLOURS for f in ("1.png", "deep/2.png")]
    (folder / "tree" / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    for path in (folder / "tree", folder / "tree" / "t.csv"):
        data = opened(path, split="val")
        assert (data.labels, len(data)) == (("b",), 2)
        with pytest.raises(UserError, match="no split test: choose from train, val"):
            opened(path, split="test")


def test_tars_by_cls_and_by_json(tmp_path):
    rows = [(c, i) for i in range(2) for c in COLOURS]
    by_cls = [{"__key__": f"{c}{i}", "png": png(COLOURS[c]), "cls": c} for c, i in rows]
    write_shards(tmp_path / "cls", by_cls)
    check(opened(tmp_path / "cls"))
    by_json = [{"__key__": f"{c}{i}", "png": png(COLOURS[c]), "json": {"kind": c}} for c, i in rows]
    write_shards(tmp_path / "json", by_json)
    check(opened(tmp_path / "json", label="kind"))
    with pytest.raises(UserError, match="No picture with a class"):
        opened(tmp_path / "json", label="nothing")


def test_the_bundled_drawings_by_group():
    data = opened("emoji", split="style")
    meta = emoji.read_meta()
    assert len(data) == len(emoji.open_split("style"))
    assert all(data.labels[data.label(i)] == meta[data.key(i)]["group"] for i in range(0, len(data), 50))
    assert len(opened("emoji", label="subgroup").labels) > len(data.labels)
    with pytest.raises(UserError, match="choose group or subgroup"):
        opened("emoji", label="vendor")


def test_the_models_labels_count(folder):
    data = opened(folder / "tree", labels=("z", "b", "a"))
    assert {data.labels[data.label(i)] for i in range(4)} == {"a", "b"}
    with pytest.raises(UserError, match="none of the model's 1"):
        opened(folder / "tree", labels=("a",))


def test_classes_that_are_numbers_are_in_order(tmp_path):
    for name in ("10", "9", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png("red"))
    assert opened(tmp_path).labels == ("2", "9", "10")


def test_what_is_missing_is_said(tmp_path, folder):
    with pytest.raises(UserError, match="no file or folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder of pictures for each class"):
        opened(tmp_path / "empty")
    with pytest.raises(UserError, match="has no splits"):
        opened(folder / "tree", split="val")
    (folder / "tree/a/1.png").unlink()
    (folder / "tree/a/1.png").write_bytes(b"no picture")
    data = opened(folder / "tree")
    with pytest.raises(BadSample):
        data.image(0)


def test_a_damaged_sample_of_a_tar_is_counted(tmp_path):
    files = {"a.txt": b"fine", "b.json": b"{", "c.txt": b"caf\xe9", "d.txt": b" "}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in files.items():
            for file, held in ((f"{name[0]}.png", png((9, 9, 9))), (name, content), (f"{name[0]}.cls", b"1")):
                info = tarfile.TarInfo(file)
                info.size = len(held)
                tar.addfile(info, io.BytesIO(held))
    data = opened(tmp_path / "x.tar")
    assert (len(data), data.problems) == (3, {"bad_json": 1})
    pairs = PicturePairs(LabelledSource(path=str(tmp_path / "x.tar")))
    assert pairs.texts(0) == ["fine"]
    assert pairs.problems["bad_json"] + pairs.problems["no_text"] == 1
    for i, reason in ((1, "bad_text"), (2, "empty_caption")):
        with pytest.raises(BadSample, match=reason):
            pairs.texts(i)


def test_what_programs_hide_is_no_class(folder):
    (folder / "tree/.ipynb_checkpoints").mkdir()
    (folder / "tree/.ipynb_checkpoints/1.png").write_bytes(png("red"))
    check(opened(folder / "tree"))
