"""Features of an image tower's frozen prefix on disk, keyed by weights, preprocessing and pictures."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from multiway.batch import Batch
from multiway.data.augment import says_side, train_transform
from multiway.data.dataset import DataConfig, Dataset
from multiway.data.loader import Loader
from multiway.data.order import keyed_generator
from multiway.data.sample import BadSample, Tally
from multiway.errors import UserError
from multiway.systems.base import System

BATCH = 64
DIGITS = 16  # of a picture's digest, in the list of the pictures that a cache holds


def cache_folder() -> Path:
    """`$MULTIWAY_CACHE/features`, or `~/.cache/multiway/features`; what is in it may be deleted."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("MULTIWAY_CACHE") or Path(home) / "multiway") / "features"


def forget(digests: Sequence[bytes]) -> int:
    """Delete the caches that hold one of these pictures, or do not say what they hold; how many.

    Args:
        digests: SHA-256 of picture files.
    """
    wanted, gone = {digest.hex()[:DIGITS] for digest in digests}, 0
    for listed in cache_folder().glob("*.json") if wanted else ():
        held = json.loads(listed.read_text()).get("pictures")
        if held is None or wanted & set(held):
            listed.with_suffix(".npy").unlink(missing_ok=True)
            listed.unlink()
            gone += 1
    return gone


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


def check_frozen(system: System) -> None:
    """Refuse to cache the features of a tower that learns from its first block on.

    Raises:
        UserError: the tower has no frozen prefix.
    """
    if not system.image_tower.frozen:
        raise UserError(
            "data.cache_views needs a frozen prefix: set system.image.frozen_blocks, or cache_views to 0"
        )


def cached_dataset(
    system: System, dataset: Dataset, config: DataConfig, *, say: Callable[[str], None] = print
) -> CachedDataset:
    """`dataset` with `config.cache_views` augmented views of each picture, seen through the frozen prefix.

    In half precision, made once and kept in `cache_folder()`; written aside and renamed, so that a run that
    is killed or stopped leaves no half cache. Of several processes (ranks, or runs of one machine) that want
    the same features, one makes them, and the others wait.

    Raises:
        UserError: the tower has no frozen prefix.
    """
    check_frozen(system)
    digests = [dataset.digest(number) for number in range(len(dataset))]
    members: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        members.setdefault(digest, []).append(number)
    place = {digest: row for row, digest in enumerate(members)}
    captions = [_caption(dataset, numbers, config) for numbers in members.values()]
    key = _key(system, digests, captions, config)
    path, listed = cache_folder() / f"{key}.npy", cache_folder() / f"{key}.json"
    first = [numbers[0] for numbers in members.values()]
    with _alone(path):
        if not (path.is_file() and listed.is_file()):
            aside, said = (file.with_name(f".{file.name}.new") for file in (path, listed))
            try:
                bad = _write(aside, system, dataset, first, captions, config, say)
                shown = [digest.hex()[:DIGITS] for digest in members]
                said.write_text(json.dumps({"bad": bad, "pictures": shown}))
                os.replace(said, listed)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
                said.unlink(missing_ok=True)
    bad = {int(row): reason for row, reason in json.loads(listed.read_text())["bad"].items()}
    rows = [place[digest] for digest in digests]
    return CachedDataset(dataset, rows, np.load(path, mmap_mode="r"), bad)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process of this machine is in here before `path` exists; a process that dies leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)  # flock's own waiting would keep signals from us
        yield
        Path(lock.name).unlink(missing_ok=True)


def _key(system: System, digests: Sequence[bytes], captions: Sequence[str], config: DataConfig) -> str:
    """All that the features depend on: weights, preprocessing, pictures, and which of them may be flipped."""
    digest = hashlib.sha256()
    parts = (
        asdict(config.augment),
        config.image_size,
        config.seed,
        config.cache_views,
        system.image_tower.frozen,
        asdict(system.config.image),  # heads and activation have no weights
    )
    digest.update(json.dumps([*parts, system.image_mean, system.image_std], default=str).encode())
    for name, tensor in sorted(system.image_tower.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for picture in digests:
        digest.update(picture)
    if config.augment.flip:
        digest.update(bytes(says_side(caption) for caption in captions))
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _write(
    file: Path,
    system: System,
    dataset: Dataset,
    numbers: Sequence[int],
    captions: Sequence[str],
    config: DataConfig,
    say: Callable[[str], None],
) -> dict[int, str]:
    """Features of each different picture, by a sample that shows it and what is said of it; the bad rows."""
    transform = train_transform(config.image_size, config.augment, system.image_mean, system.image_std)
    tower, views = system.image_tower.eval(), config.cache_views
    bad: dict[int, str] = {}
    out: np.memmap | None = None
    say(f"caching {views} view(s) of {len(numbers):,} pictures through the frozen part of the image tower")
    for first in range(0, len(numbers), BATCH):
        rows, pixels = [], []
        for row in range(first, min(first + BATCH, len(numbers))):
            try:
                image = dataset.image(numbers[row])
            except BadSample as error:
                bad[row] = error.reason
                continue
            rows.append(row)
            for view in range(views):  # the first is drawn as the others: a step draws which one it sees
                pixels.append(transform(image, captions[row], keyed_generator(config.seed, 7, row, view)))
        if not rows:
            continue
        features = tower.prefix(torch.stack(pixels).to(system.device)).half().cpu().numpy()
        if out is None:
            shape = (len(numbers), views, *features.shape[1:])
            out = open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        out[rows] = features.reshape(len(rows), views, *features.shape[1:])
    if out is None:
        raise UserError(
            "no picture could be read, so there is nothing to cache: look at the data with `data inspect`"
        )
    out.flush()
    return bad


def _caption(dataset: Dataset, numbers: Sequence[int], config: DataConfig) -> str:
    """All that is said of a picture, where that decides whether it may be flipped."""
    texts: list[str] = []
    if config.augment.flip:
        for number in numbers:
            with suppress(BadSample):  # it is bad by itself, not its picture
                texts += dataset.texts(number)
    return " ".join(texts)
