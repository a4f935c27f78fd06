"""Small real files for the data tests: pictures as bytes, tars of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from multiway.data.shards import write_shards


def picture(mode="RGB", size=(24, 16), format="JPEG", colour=(204, 51, 51), **options):
    """The bytes of a picture of one colour."""
    image = Image.new("RGB", size, colour).convert(mode)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def make_tars(tmp_path):
    """make_tars(n) -> a folder of tars with n samples; sample i is grey i and says "picture i"."""

    def make(n=12, shard_size=5, name="tars", captions=1, replace=None):
        samples = []
        for i in range(n):
            jpg = picture(colour=(i % 256,) * 3)
            lines = [f"picture {i}", *(f"picture {i} again {c}" for c in range(1, captions))]
            sample = {"__key__": f"{i:05d}", "jpg": jpg, "txt": "\n".join(lines)}
            samples.append({**sample, **(replace or {}).get(i, {})})
        write_shards(tmp_path / name, samples, shard_size=shard_size)
        return str(tmp_path / name)

    return make


@pytest.fixture
def encode():
    """A stand-in tokenizer: the code points of each text, padded with 0."""

    def codes(texts):
        length = max(len(text) for text in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.from_numpy(np.array([ord(letter) for letter in text], dtype=np.int64))
        return ids, (ids > 0).long()

    return codes
