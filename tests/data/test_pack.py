"""`multiway data pack`: files as they were, with source, licence and opt-out."""

import pytest

from multiway.data.dataset import Dataset, Source
from multiway.data.pack import pack
from multiway.data.shards import Shards
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
    found = pack(data, listed / "tars", licence=None, opted_out={"3.png"}, shard_size=1)
    assert found == {
        "written": 2, "opted_out": 2, "without_licence": 1, "tars": 2, "skipped": {"not_an_image": 1}
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
