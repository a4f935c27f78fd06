"""Features of an image tower's frozen prefix on disk, keyed by weights, preprocessing and pictures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor

from multiway.batch import Batch
from multiway.data.augment import train_transform
from multiway.data.dataset import DataConfig, Dataset
from multiway.data.loader import Loader
from multiway.data.order import keyed_generator
from multiway.data.sample import BadSample, Tally
from multiway.errors import UserError
from multiway.systems.base import System

BATCH = 64


def cache_folder() -> Path:
    """`$MULTIWAY_CACHE/features`, or `~/.cache/multiway/features`; what is in it may be deleted."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("MULTIWAY_CACHE") or Path(home) / "multiway") / "features"


class CachedDataset:
    """A dataset whose pictures are `[views, ...]` cached features instead; equal pictures share theirs."""

    def __init__(self, dataset: Dataset, rows: list[int], features: np.ndarray, bad: dict[int, str]):
        self.dataset, self.rows, self.features, self.bad = dataset, rows, features, bad
        self.sources, self.sizes, self.problems = dataset.sources, dataset.sizes, dataset.problems
        self.key, self.texts, self.source = dataset.key, dataset.texts, dataset.source
        self.following = dataset.following

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, i: int) -> np.ndarray:
        """Every view of picture `i`.

        Raises:
            BadSample: the picture was bad when the features were made.
        """
        row = self.rows[i]
        if row in self.bad:
            raise BadSample(self.bad[row])
        return self.features[row]


class PrefixLoader:
    """A loader whose batches carry `image_prefix` in place of `image`."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def tally(self) -> Tally:
        """The count of good and bad samples so far."""
        return self.loader.tally

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """As the loader's."""
        for batch in self.loader.iterate(start_step):
            yield replace(batch, image=None, image_prefix=batch.image)


def one_view(views: np.ndarray, caption: str, generator: np.random.Generator) -> Tensor:
    """One of a picture's cached views, drawn as an augmentation would be."""
    return torch.from_numpy(views[int(generator.integers(len(views)))].astype(np.float32))


def cached_dataset(
    system: System, dataset: Dataset, config: DataConfig, *, say: Callable[[str], None] = print
) -> CachedDataset:
    """`dataset` with `config.cache_views` augmented views of each picture, seen through the frozen prefix.

    In half precision, made once and kept in `cache_folder()`; written aside and renamed, so that a killed run
    leaves no half cache.

    Raises:
        UserError: the tower has no frozen prefix.
    """
    tower = system.image_tower
    if not tower.frozen:
        raise UserError(
            "data.cache_views needs a frozen prefix: set system.image.frozen_blocks, or cache_views to 0"
        )
    digests = [dataset.digest(number) for number in range(len(dataset))]
    members: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        members.setdefault(digest, []).append(number)
    place = {digest: row for row, digest in enumerate(members)}
    key = _key(system, digests, config)
    path, listed = cache_folder() / f"{key}.npy", cache_folder() / f"{key}.json"
    if not (path.is_file() and listed.is_file()):
        _write(system, dataset, list(members.values()), config, path, listed, say)
    bad = {int(i): reason for i, reason in json.loads(listed.read_text())["bad"].items()}
    rows = [place[digest] for digest in digests]
    return CachedDataset(dataset, rows, np.load(path, mmap_mode="r"), bad)


def _key(system: System, digests: Sequence[bytes], config: DataConfig) -> str:
    """Everything that the features depend on: weights, preprocessing, and the pictures themselves."""
    digest = hashlib.sha256()
    parts = (
        asdict(config.augment),
        config.image_size,
        config.seed,
        config.cache_views,
        system.image_tower.frozen,
    )
    digest.update(json.dumps([*parts, system.image_mean, system.image_std], default=str).encode())
    for name, tensor in sorted(system.image_tower.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for picture in digests:
        digest.update(picture)
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _write(
    system: System,
    dataset: Dataset,
    members: Sequence[Sequence[int]],
    config: DataConfig,
    path: Path,
    listed: Path,
    say: Callable[[str], None],
) -> None:
    """Features of each different picture; `members` are the samples that show it."""
    transform = train_transform(config.image_size, config.augment, system.image_mean, system.image_std)
    tower, views = system.image_tower.eval(), config.cache_views
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    bad: dict[int, str] = {}
    out: np.memmap | None = None
    say(f"caching {views} view(s) of {len(members):,} pictures through the frozen part of the image tower")
    for first in range(0, len(members), BATCH):
        rows, pixels = [], []
        for row in range(first, min(first + BATCH, len(members))):
            try:
                image = dataset.image(members[row][0])
            except BadSample as error:
                bad[row] = error.reason
                continue
            rows.append(row)
            texts = " ".join(_texts(dataset, members[row]))
            pixels += [_view(transform, image, texts, config.seed, row, view) for view in range(views)]
        if not rows:
            continue
        features = tower.prefix(torch.stack(pixels).to(system.device)).half().cpu().numpy()
        if out is None:
            shape = (len(members), views, *features.shape[1:])
            out = open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
        out[rows] = features.reshape(len(rows), views, *features.shape[1:])
    if out is None:
        raise UserError(
            "no picture could be read, so there is nothing to cache: look at the data with `data inspect`"
        )
    out.flush()
    _replace(listed, json.dumps({"bad": bad}))
    os.replace(aside, path)


def _texts(dataset: Dataset, numbers: Sequence[int]) -> Iterator[str]:
    for number in numbers:
        with suppress(BadSample):  # it is bad by itself, not its picture
            yield from dataset.texts(number)


def _view(transform: Callable, image: Image.Image, texts: str, seed: int, number: int, view: int) -> Tensor:
    """The first view is drawn like the others: which one a step sees is drawn, too."""
    return transform(image, texts, keyed_generator(seed, 7, number, view))


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)
