"""A look at a source: what is good, what is bad and why, spread evenly over it."""

from PIL import Image

from multiway.data.dataset import Dataset, Source
from multiway.data.shards import write_shards
from multiway.tasks.inspect import look


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
