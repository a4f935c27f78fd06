"""Every way to list pictures gives the same samples; what can't be read is one sentence."""

import json

import pytest

from multiway.data.annotations import read_annotations
from multiway.data.dataset import Dataset, Source
from multiway.data.sample import BadSample
from multiway.errors import UserError

TEXTS = {"a.jpg": ["a cat", "the cat"], "b.jpg": ["a dog"], "sub/c.png": ["two birds, a bee"]}


@pytest.fixture
def folder(tmp_path, make_picture):
    (tmp_path / "pictures/sub").mkdir(parents=True)
    for name in TEXTS:
        (tmp_path / "pictures" / name).write_bytes(
            make_picture(format="PNG" if name.endswith("png") else "JPEG")
        )
    return tmp_path / "pictures"


def table(kind):
    pairs = [(name, text) for name, texts in TEXTS.items() for text in texts]
    if kind == "csv":
        return "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in pairs)
    if kind == "tsv":
        return "filepath\ttitle\n" + "".join(f"{name}\t{text}\n" for name, text in pairs)
    if kind == "jsonl":
        return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)
    if kind == "token":  # Flickr30k's results_20130124.token
        return "".join(
            f"{name}#{n}\t{text}\n" for name, texts in TEXTS.items() for n, text in enumerate(texts)
        )
    if kind == "hub.csv":  # Flickr30k's on the hub: lists inside a csv
        rows = ["raw,split,filename"]
        for name, texts in TEXTS.items():
            inner = json.dumps(texts).replace('"', '""')
            rows.append(f'"{inner}",{"val" if name == "b.jpg" else "train"},{name}')
        return "\n".join(rows) + "\n"
    if kind == "nocaps.json":
        read = json.loads(table("coco.json"))
        for image in read["images"]:
            image |= {"domain": "near-domain", "open_images_id": "0013ea2087020901"}
        return json.dumps(read)
    if kind == "albef.json":
        return json.dumps([{"image": name, "caption": texts} for name, texts in TEXTS.items()])
    if kind == "coco.json":
        names = list(TEXTS)
        return json.dumps(
            {
                "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(names)],
                "annotations": [{"image_id": 7 + names.index(name), "caption": text} for name, text in pairs],
            }
        )
    return json.dumps(
        {
            "images": [
                {
                    "split": "val" if name == "b.jpg" else "train",
                    "filename": name.split("/")[-1],
                    "filepath": "/".join(name.split("/")[:-1]),
                    "sentences": [{"raw": text} for text in texts],
                }
                for name, texts in TEXTS.items()
            ]
        }
    )


KINDS = ["csv", "tsv", "jsonl", "albef.json", "coco.json", "karpathy.json"]
KINDS += ["token", "hub.csv", "nocaps.json"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [True, False])
def test_all_layouts_give_the_same_samples(folder, tmp_path, kind, inside):
    path = (folder if inside else tmp_path) / f"list.{kind}"
    path.write_text("\ufeff" + table(kind) if kind == "csv" else table(kind), encoding="utf-8")
    if inside:
        dataset = Dataset(Source(path=str(folder)))  # the folder's one table is found
    else:
        dataset = Dataset(Source(path=str(path), images=str(folder)))
    assert {dataset.key(i): dataset.texts(i) for i in range(len(dataset))} == TEXTS
    assert dataset.sample(2).image.size == (24, 16)


def test_texts_beside_the_pictures(folder):
    for name, texts in TEXTS.items():
        (folder / name).with_suffix(".txt").write_text("\n".join(texts))
    dataset = Dataset(Source(path=str(folder), texts="first"))
    assert [dataset.texts(i) for i in range(3)] == [["a cat"], ["a dog"], ["two birds, a bee"]]


def test_karpathy_splits(folder):
    path = folder / "dataset.json"
    path.write_text(table("karpathy.json"))
    assert read_annotations(path, split="val").names == ["b.jpg"]
    assert len(read_annotations(path, split="train+val")) == 3
    with pytest.raises(UserError, match="no split test: choose from train, val"):
        read_annotations(path, split="test")


def test_texts_beside_pictures_and_no_splits_of_them(folder, tmp_path):
    (folder / "a.txt").write_bytes("\ufeffone\u2028line\r\nanother\r\n".encode())
    files = read_annotations(folder)
    assert (files.names, files.texts(0)) == (["a.jpg"], ["one\u2028line", "another"])
    with pytest.raises(UserError, match="has no splits"):
        read_annotations(folder, split="train")


def test_rows_that_say_nothing_are_counted(folder):
    path = folder / "x.jsonl"
    rows = [
        {"image": "a.jpg", "caption": " "},
        {"image": "b.jpg", "caption": "b"},
        {"image": None, "caption": "?"},
        {"image": "gone.jpg", "caption": "gone"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    files = read_annotations(path)
    assert files.names == ["b.jpg", "gone.jpg"]
    assert files.problems == {"empty_caption": 1, "no_image": 1}
    with pytest.raises(BadSample, match="missing"):
        files.image(1)


def test_captions_that_are_no_text(folder):
    read = json.loads(table("coco.json"))
    read["annotations"] = [{"image_id": 7, "caption": 1984}, {"image_id": 8, "caption": None}]
    (folder / "x.json").write_text(json.dumps(read))
    files = read_annotations(folder / "x.json")
    assert [files.texts(i) for i in range(len(files))] == [["1984"]]
    assert files.problems == {"empty_caption": 2}  # b.jpg's is null, c.png has none
    (folder / "x.json").write_text(json.dumps([{"image": "a.jpg", "caption": [None, "a cat"]}]))
    assert read_annotations(folder / "x.json").texts(0) == ["a cat"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "name,words\na.jpg,cat\n", "no column image"),
        ("x.csv", "", "no rows"),
        ("x.jsonl", '{"image": "a.jpg", "caption"\n', "can't be read as jsonl"),
        ("x.json", '{"what": 1}', "no known layout"),
        ("x.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}', "lacks what"),
        ("x.json", '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 2}]}', "lacks what"),
        ("x.json", '{"images": [{"split": "val", "filename": "a.jpg"}]}', "lacks what"),
        ("x.jsonl", '\n{"image": "a.jpg"}\n\n{"image"}\n', "line 4, column 9: Expecting ':'"),
        ("x.jsonl", "[" * 200_000, "can't be read as jsonl: line 1"),
        ("x.json", "[" * 200_000, "can't be read as json"),
        ("x.jsonl", '{"image": "nowhere.jpg", "caption": "x"}', "name their folder"),
        ("x.jsonl", '{"image": "a.jpg", "caption": ""}', "No picture with a caption"),
    ],
)
def test_wrong_files_are_one_sentence(folder, name, content, says):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        Dataset(Source(path=str(folder / name)))
    assert "\n" not in str(caught.value)


def test_missing_paths(tmp_path, folder):
    with pytest.raises(UserError, match="no file or folder"):
        read_annotations(tmp_path / "none.csv")
    (folder / "a.csv").write_text(table("csv"))
    with pytest.raises(UserError, match="no folder of pictures"):
        read_annotations(folder / "a.csv", images=tmp_path / "none")
    (folder / "b.csv").write_text(table("csv"))
    with pytest.raises(UserError, match="several annotation files"):
        read_annotations(folder)
    with pytest.raises(UserError, match="has no splits"):
        read_annotations(folder / "a.csv", split="train")


def test_folders_of_tars_are_named(tmp_path):
    for name in ("val", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000.tar").touch()
    with pytest.raises(UserError, match="give one of train, val in it"):
        read_annotations(tmp_path)


def test_a_column_of_splits_and_other_columns(folder, tmp_path):
    path = tmp_path / "list.hub.csv"
    path.write_text(table("hub.csv"))
    val = Dataset(Source(path=str(path), images=str(folder), split="val"))
    assert [val.key(i) for i in range(len(val))] == ["b.jpg"]
    assert val.meta(0)["split"] == "val"
    with pytest.raises(UserError, match="no split test: choose from train, val"):
        Dataset(Source(path=str(path), images=str(folder), split="test"))
    (tmp_path / "nocaps.json").write_text(table("nocaps.json"))
    found = Dataset(Source(path=str(tmp_path / "nocaps.json"), images=str(folder)))
    assert found.meta(1)["domain"] == "near-domain"


def test_names_that_no_file_can_have(folder):
    rows = [{"image": name, "caption": "[" * 200_000} for name in ("x" * 300, "nul\0", "a.jpg")]
    (folder / "x.json").write_text(json.dumps(rows))
    files = read_annotations(folder / "x.json")
    for i in range(2):
        with pytest.raises(BadSample, match="unreadable"):
            files.image(i)
    assert files.image(2)


def test_what_programs_hide_is_no_picture(folder, tmp_path, make_picture):
    (folder / ".thumbs").mkdir()
    for name in ("._a.jpg", ".thumbs/a.jpg"):
        (folder / name).write_bytes(make_picture())
        (folder / name).with_suffix(".txt").write_text("hidden")
    (folder / "a.txt").write_text("a")
    files = read_annotations(folder)
    assert [files.texts(i) for i in range(len(files))] == [["a"]]
    assert files.problems["empty_caption"] == len(TEXTS) - 1
