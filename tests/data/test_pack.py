"""`multiway data pack`: files as they were, with source, licence and opt-out."""

import json

import pytest
from PIL import Image

from multiway.data.dataset import Dataset, Source
from multiway.data.pack import pack
from multiway.data.shards import Shards, write_shards
from multiway.errors import UserError


@pytest.fixture
def listed(tmp_path, make_picture):
    rows = ["image,caption,license,url,noai,colour"]
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(make_picture(format="PNG"))
        licence = "" if i == 2 else "CC0"
        rows.append(f"{i}.png,picture {i},{licence},https://e.org/{i},{'yes' if i == 1 else ''},c{i}")
    (tmp_path / "4.png").write_bytes(b"no picture")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_terms_travel_and_opted_out_samples_stay_behind(listed):
    data = Dataset(Source(path=str(listed / "list.csv")))
    found = pack(data, listed / "tars", licence=None, opted_out={"3.png", "6.png"}, shard_size=1)
    assert found == {
        "written": 2, "opted_out": 2, "without_licence": 1, "tars": 2, "skipped": {"not_an_image": 1},
        "unknown": ["6.png"],
    }  # fmt: skip
    shards = Shards(sorted(map(str, (listed / "tars").glob("*.tar"))))
    assert shards.image(0) == (listed / "0.png").read_bytes()
    assert shards.texts(1) == ["picture 2"]
    first = shards.meta(0)
    assert {name: first[name] for name in ("key", "caption", "source", "licence", "opt_out", "colour")} == {
        "key": "0.png", "caption": "picture 0", "source": "https://e.org/0", "licence": "CC0",
        "opt_out": False, "colour": "c0",
    }  # fmt: skip
    assert shards.meta(1)["licence"] is None
    with pytest.raises(UserError, match="holds tars already"):
        pack(data, listed / "tars")


def test_drawn_pictures_become_files(tmp_path):
    found = pack(Dataset(Source(path="scenes:3")), tmp_path, source="drawn", licence="Apache-2.0")
    assert found["written"] == 3
    again = Dataset(Source(path=str(tmp_path)))
    assert again.meta(0)["source"] == "drawn"
    assert again.texts(1) == Dataset(Source(path="scenes:3")).texts(1)


def test_an_opt_out_of_any_row_and_however_it_is_capitalised(tmp_path, make_picture):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(make_picture(format="PNG"))
    rows = ["image,caption,NoAI,License", "a.png,one,,CC0", "a.png,two,1,CC0", "b.png,three,true,"]
    (tmp_path / "list.csv").write_text("\n".join([*rows, "c.png,four,no,CC-BY", "d.png,,,"]) + "\n")
    found = pack(Dataset(Source(path=str(tmp_path / "list.csv"))), tmp_path / "tars")
    assert (found["written"], found["opted_out"], found["without_licence"]) == (1, 2, 0)
    assert found["skipped"] == {"empty_caption": 1}
    assert Dataset(Source(path=str(tmp_path / "tars"))).meta(0)["licence"] == "CC-BY"


def test_a_caption_of_two_lines_stays_one(tmp_path, make_picture):
    (tmp_path / "a.png").write_bytes(make_picture(format="PNG"))
    (tmp_path / "list.csv").write_text('image,caption\na.png,"line one\nline\u2028two"\na.png,other\n')
    pack(Dataset(Source(path=str(tmp_path / "list.csv"))), tmp_path / "tars")
    again = Dataset(Source(path=str(tmp_path / "tars")))
    assert again.texts(0) == ["line one line\u2028two", "other"]
    assert again.meta(0)["caption"] == "line one line\u2028two"


def test_half_an_emoji_is_skipped_and_counted(tmp_path, make_picture):
    rows = [("a", "nice \ud83d", ""), ("b", "good", "of \ud83d")]
    for name, *_ in rows:
        (tmp_path / f"{name}.png").write_bytes(make_picture(format="PNG"))
    lines = [json.dumps({"image": f"{n}.png", "caption": text, "note": note}) for n, text, note in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    found = pack(Dataset(Source(path=str(tmp_path / "list.jsonl"))), tmp_path / "tars")
    assert (found["written"], found["skipped"]) == (1, {"bad_text": 1})
    assert Dataset(Source(path=str(tmp_path / "tars"))).meta(0)["note"] == "of \ud83d"


def test_a_prompt_keeps_the_tab_that_asks_for_its_picture(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    asks = "draw a red square\t"
    (tmp_path / "pairs.csv").write_text(f'image,caption\na.png,"{asks}"\n')
    row = {"image": "a.png", "caption": [asks, " \t", f" {asks} "]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    picture = (tmp_path / "a.png").read_bytes()
    samples = [
        {"__key__": "k", "png": picture, "txt": f"{asks}\r\n"},
        {"__key__": "l", "png": picture, "json": {"caption": asks}},
    ]
    write_shards(tmp_path / "tars", samples)
    pack(Dataset(Source(path=str(tmp_path / "tars"))), tmp_path / "packed")
    for name in ("pairs.csv", "pairs.jsonl", "tars", "packed"):
        data = Dataset(Source(path=str(tmp_path / name)))
        found = {text for i in range(len(data)) for text in data.texts(i)}
        assert found == {asks}, name
