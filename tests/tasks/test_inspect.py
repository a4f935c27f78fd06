"""A look at a source: what is good, what is bad and why, spread evenly over it."""

import numpy as np
from PIL import Image

from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledSource
from multiway.data.shards import write_shards
from multiway.data.two_pictures import PicturePairs
from multiway.tasks.inspect import look, shared, write_contact_sheet


def tars(folder, count, bad=()):
    def jpg(i):
        Image.new("RGB", (24 + i, 16), (9 * i,) * 3).save(folder / "one.jpg")
        return (folder / "one.jpg").read_bytes()

    samples = [{"__key__": f"{i:03d}", "jpg": jpg(i), "txt": f"picture {i}\nagain {i}"} for i in range(count)]
    for i, part in bad:
        samples[i] |= part
    write_shards(folder / "tars", samples, shard_size=5)
    return Dataset(Source(path=str(folder / "tars")))


def test_good_and_bad_samples_are_counted_by_reason(tmp_path):
    spoiled = ((1, {"jpg": b"text"}), (2, {"txt": "\n"}), (3, {"txt": b"\xff\xfe"}))
    seen = look(tars(tmp_path, 6, spoiled), show=2)
    assert seen.tally.sentence() == "3 samples read, 3 skipped (bad_text 1, empty_caption 1, not_an_image 1)"
    assert seen.sizes == [(24, 16), (28, 16), (29, 16)]
    assert seen.texts == [[f"picture {i}", f"again {i}"] for i in (0, 4, 5)]
    assert [sample.key for sample in seen.first] == ["000", "004"]


def test_a_part_is_spread_over_the_whole(tmp_path):
    seen = look(tars(tmp_path, 12), read=4)
    assert [size[0] - 24 for size in seen.sizes] == [0, 3, 6, 9]
    assert seen.first == []


def test_near_duplicates_within_and_between_splits(tmp_path):
    """Of eight pictures, the last two are smaller copies of the first two."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((90, 90)) for _ in range(6)]
    pictures += [picture.resize((60, 60)) for picture in pictures[:2]]
    for name, part in (("all", pictures), ("train", pictures[:6]), ("val", pictures[6:])):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(part):
            picture.save(tmp_path / name / f"{i}.png")
            (tmp_path / name / f"{i}.txt").write_text(f"picture {i}")
    every, train, val = (
        look(Dataset(Source(path=str(tmp_path / name))), mark=True) for name in ("all", "train", "val")
    )
    assert shared(every, []) == [("6.png", "0.png"), ("7.png", "1.png")]
    assert shared(val, [train]) == [("0.png", "0.png"), ("1.png", "1.png")]
    assert shared(train, []) == []


def test_any_task_s_samples_on_a_contact_sheet(tmp_path):
    pairs = PicturePairs(LabelledSource(path="scenes:6"))
    seen = look(pairs, read=4, show=1)
    assert sum(seen.labels.values()) == 4
    assert set(seen.labels) <= {"True", "False"}
    write_contact_sheet(pairs, tmp_path / "sheet.html", "drawn", count=3)
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "3 of 6" in page
