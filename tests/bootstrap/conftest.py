"""Web shards of plain pictures, with right and wrong texts, and a run of CapFilt over them."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multiway.bootstrap.config import BootstrapConfig
from multiway.data.shards import write_shards

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

COLOURS = ("red", "green", "blue")


def jpeg(seed: int, size: int = 24) -> tuple[bytes, str]:
    """A noisy picture that is mostly one colour, and that colour."""
    draw = np.random.default_rng(seed)
    channel = int(draw.integers(3))
    pixels = draw.integers(0, 120, (size, size, 3))
    pixels[..., channel] += 120
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue(), COLOURS[channel]


@pytest.fixture
def web(tmp_path):
    """web(n, ...) -> a folder of tars; every third text names a wrong colour."""

    def make(n: int = 20, *, shard_size: int = 8, name: str = "web", replace=None, first: int = 0) -> str:
        samples = []
        for i in range(first, first + n):
            picture, colour = jpeg(i)
            said = colour if i % 3 else COLOURS[(COLOURS.index(colour) + 1) % 3]
            meta = {"url": f"https://example.org/{i}", "license": "CC0", "width": 24}
            sample = {"__key__": f"{i:06d}", "jpg": picture, "txt": f"web {said} {i}", "json": meta}
            samples.append({**sample, **(replace or {}).get(i, {})})
        write_shards(tmp_path / name, samples, shard_size=shard_size)
        return str(tmp_path / name)

    return make


@pytest.fixture
def config():
    """config(data, **changes) -> a run by the fakes, four pictures a batch."""

    def make(*data: str, **changes) -> BootstrapConfig:
        settings = {"captioner": "fakes:caption", "filter": "fakes:score", "batch_size": 4, **changes}
        return BootstrapConfig(data=data, **settings)

    return make


@pytest.fixture
def contents():
    """contents(out) -> the name and SHA-256 of every shard and manifest in a folder."""

    def read(out: Path) -> dict[str, str]:
        files = sorted([*out.glob("*.tar"), *out.glob("[0-9h]*.json")])
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return read
