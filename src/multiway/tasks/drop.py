"""Samples leave: shards, feature files and indexes are written anew without them, aside, then renamed.

tars            KEY.* of the keys go; the tar's index beside it too
embed's folder  rows of the keys go from npy and jsonl, or parquet
search index    entries of the keys go
feature caches  of frozen towers: one that holds a dropped picture is deleted, and made again when needed
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.data.tar_index import forget_index, split_name
from multiway.errors import UserError
from multiway.search.index import Index
from multiway.tasks.embed import arrow_modules
from multiway.train import features


def read_keys(path: Path) -> set[str]:
    """The keys of a file, one a line.

    Raises:
        UserError: it can't be read, or holds none.
    """
    try:
        keys = {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as a list of keys ({error}): give a text file") from None
    if not keys:
        raise UserError(f"{path} holds no key: write one a line")
    return keys


def drop(keys: AbstractSet[str], places: Sequence[str]) -> dict[str, Any]:
    """Remove the samples from every place, and their features from the caches.

    Args:
        places: tars (as everywhere: a folder, a glob), folders of `multiway embed`, search indexes.

    Returns:
        `removed`: place -> samples; `caches`: deleted ones; `unknown`: keys that were nowhere.

    Raises:
        UserError: a place is none of these, or lies on another machine.
    """
    removed: dict[str, int] = {}
    found: set[str] = set()
    digests: list[bytes] = []
    for place in places:
        if "://" in place:
            raise UserError(f"{place} can't be rewritten from here: drop from a copy, and upload that")
        path = Path(place)
        if (path / "index.json").is_file():
            gone = _from_index(path, keys)
        elif (path / "embed.json").is_file():
            gone = _from_features(path, keys)
        else:
            gone = []
            for tar in expand(place):
                gone += _from_tar(Path(tar), keys, digests)
        removed[place] = len(gone)
        found.update(gone)
    return {"removed": removed, "caches": features.forget(digests), "unknown": sorted(keys - found)}


def _from_tar(path: Path, keys: AbstractSet[str], digests: list[bytes]) -> list[str]:
    """Rewrite one tar where it holds any of the keys; those that it held. Notes their pictures' hashes."""
    shards = Shards([str(path)], texts=False)
    called = {shards.key(i): _named(shards, i) & keys for i in range(len(shards))}
    for i in range(len(shards)):
        if called[shards.key(i)]:
            with suppress(BadSample):  # no cache holds it then
                digests.append(hashlib.sha256(shards.image(i)).digest())
    aside = path.with_name(f".{path.name}.part")
    gone: set[str] = set()
    try:
        with tarfile.open(path) as old, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as new:
            for member in old:
                key, _ = split_name(member.name)
                names = called.get(key) or {key} & keys  # without a picture it is no sample, and goes too
                gone |= names
                if not names:
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
        if gone:
            _flush(aside)
            os.replace(aside, path)
            forget_index(str(path))
    except tarfile.TarError as error:
        raise UserError(f"{path} is damaged ({error}): pack it anew, and drop from that") from None
    finally:
        aside.unlink(missing_ok=True)
    return sorted(gone)


def _named(shards: Shards, i: int) -> set[str]:
    """What a sample is called: its key in the tar, and the key that its source had (`multiway data pack`)."""
    try:
        own = shards.meta(i).get("key")
    except BadSample:
        own = None
    return {shards.key(i)} | ({own} if isinstance(own, str) else set())


def _from_index(folder: Path, keys: AbstractSet[str]) -> list[str]:
    index = Index.load(folder)
    kept = [row for row, entry in enumerate(index.entries) if entry.key not in keys]
    gone = [entry.key for entry in index.entries if entry.key in keys]
    if gone:
        entries = [index.entries[row] for row in kept]
        replace(index, entries=entries, features=np.asarray(index.features)[kept]).save(folder)
    return gone


def _from_features(folder: Path, keys: AbstractSet[str]) -> list[str]:
    gone: list[str] = []
    for path in sorted(folder.glob("*.npy")):
        listed, features = path.with_suffix(".jsonl"), np.load(path)
        aside, fewer = (p.with_name(f".{p.name}.drop") for p in (path, listed))
        if fewer.exists():  # killed: either neither was renamed, or the features alone were
            if len(_lines(fewer)) == len(features):
                os.replace(fewer, listed)
            fewer.unlink(missing_ok=True)
        lines = _lines(listed)
        named = [json.loads(line)["key"] for line in lines]
        kept = [row for row, key in enumerate(named) if key not in keys]
        if len(kept) < len(named):
            gone += [key for key in named if key in keys]
            with open(aside, "wb") as file:
                np.save(file, features[kept])
            fewer.write_text("".join(lines[row] for row in kept), encoding="utf-8")
            os.replace(aside, path)
            os.replace(fewer, listed)
    for path in sorted(folder.glob("*.parquet")):
        arrow, parquet = arrow_modules()
        table = parquet.read_table(path)
        named = table.column("key").to_pylist()
        if keys & set(named):
            gone += [key for key in named if key in keys]
            aside = path.with_name(f".{path.name}.part")
            parquet.write_table(table.filter(arrow.array([key not in keys for key in named])), aside)
            os.replace(aside, path)
    return sorted(set(gone))


def _lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8") as file:  # str.splitlines would also split at U+2028 in a text
        return list(file)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
