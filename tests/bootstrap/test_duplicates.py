"""Near-duplicates: what counts as one, and what is then left out."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from conftest import jpeg
from PIL import Image

from multiway.bootstrap.duplicates import Marks, earlier_twins
from multiway.bootstrap.run import bootstrap
from multiway.data import emoji
from multiway.data.images import decode
from multiway.data.scenes import draw_scene, make_scene
from multiway.data.shards import Shards, expand, write_shards


def again(picture: Image.Image, *, quality: int = 70, scale: float = 0.6) -> Image.Image:
    """Smaller, and through JPEG."""
    file = io.BytesIO()
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def pictures():
    drawings = emoji.open_split("train")
    return [decode(drawings.image(i)) for i in range(0, 600, 3)] + [
        draw_scene(make_scene(0, i), 96) for i in range(50)
    ]


def test_copies_are_found_and_others_are_not(pictures):
    copies = [again(picture) for picture in pictures]
    marks = Marks.of(pictures + copies)
    twins, n = earlier_twins(marks), len(pictures)
    found = sum(twins.get(n + i) == i for i in range(n))
    assert found >= 0.97 * n
    wrong = [(i, j) for i, j in twins.items() if i < n or j != i - n]
    # what looks alike to the hash should look alike: the same drawing by name, or nearly the same pixels
    for i, j in wrong:
        a, b = ((pictures + copies)[k].resize((64, 64)) for k in (i, j))
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() < 20


def test_buckets_find_what_comparing_all_finds(pictures):
    marks = Marks.of(pictures + [again(picture, quality=40) for picture in pictures[:60]])
    slow: dict[int, int] = {}
    for i in range(len(marks)):
        for j in (j for j in range(i) if j not in slow):
            if marks.near(i, np.array([j]))[0]:
                slow[i] = j
                break
    assert earlier_twins(marks) == slow
    assert len(slow) >= 50


def test_colour_is_looked_at():
    red, blue = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    for picture, colour in ((red, (200, 30, 30)), (blue, (30, 30, 200))):
        picture.paste(colour, (10, 10, 40, 40))
    assert earlier_twins(Marks.of([red, blue, again(red)])) == {2: 0}


def test_evaluation_pictures_are_kept_out_and_copies_dropped(web, config, tmp_path):
    data = web(12, shard_size=5)
    shards = Shards(expand(data))
    write_shards(tmp_path / "test", [{"__key__": "t", "jpg": shards.image(7), "txt": "secret"}])
    human = [{"__key__": "h", "jpg": shards.image(2), "txt": "a human text"}]
    write_shards(tmp_path / "human", human)
    copy = io.BytesIO()
    decode(shards.image(0)).save(copy, "PNG")
    extra = [{"__key__": "copy", "png": copy.getvalue(), "txt": "a copy"}]
    write_shards(tmp_path / "more", extra)
    settings = config(
        data,
        str(tmp_path / "more"),
        human=(str(tmp_path / "human"),),
        keep_out=(str(tmp_path / "test"),),
        drop_duplicates=True,
        threshold=0.0,
    )
    report = bootstrap(settings, tmp_path / "out", workers=1)
    assert report["skipped"] == {"near-duplicate": 2, "kept out": 1}
    after = Shards(expand(str(tmp_path / "out")))
    keys = {after.key(i) for i in range(len(after))}
    assert keys == {f"{i:06d}" for i in range(12) if i not in (2, 7)} | {"h"}
    only = config(data, keep_out=(str(tmp_path / "test"),), threshold=0.0)
    assert bootstrap(only, tmp_path / "only", workers=1)["skipped"] == {"kept out": 1}


def test_noise_pictures_differ():
    marks = Marks.of([decode(jpeg(i)[0]) for i in range(60)])
    assert not earlier_twins(marks)
    assert all(len(set(pair)) == 2 for pair in itertools.pairwise(map(bytes, marks.bits)))
