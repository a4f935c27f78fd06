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
import re
import tarfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.data.tables import read_lines
from multiway.data.tar_index import forget_index, split_name
from multiway.errors import UserError
from multiway.search.index import Entry, Index
from multiway.tasks.embed import arrow_modules
from multiway.train import features

KeysOf = Literal["either", "tar", "source"]


def read_keys(path: Path) -> set[str]:
    """The keys of a file, one a line.

    Raises:
        UserError: it can't be read, or holds none.
    """
    return set(read_lines(path, "key"))


def drop(keys: AbstractSet[str], places: Sequence[str], *, keys_of: KeysOf = "either") -> dict[str, Any]:
    """Remove the samples from every place, and their features from the caches.

    Args:
        places: tars (as everywhere: a folder, a glob), folders of `multiway embed`, search indexes. All are
            looked at before the first is rewritten.
        keys_of: what a key names in a tar: a sample's key there, the one that its source had (`multiway data
            pack` keeps it in the .json), or either of them.

    Returns:
        `removed`: place -> samples; `caches`: deleted ones; `unknown`: keys that were nowhere.

    Raises:
        UserError: a place is none of these, or lies on another machine, or a key is one sample's key in a tar
            and another one's in its source.
    """
    tars: dict[str, list[_Tar]] = {}
    for place in places:
        if "://" in place:
            raise UserError(f"{place} can't be rewritten from here: drop from a copy, and upload that")
        if not any((Path(place) / name).is_file() for name in ("index.json", "embed.json")):
            tars[place] = [_Tar(Path(tar), keys, keys_of) for tar in expand(place)]
    _refuse_two_meanings([tar for found in tars.values() for tar in found])
    removed: dict[str, int] = {}
    found: set[str] = set()
    digests: list[bytes] = []
    for place in places:
        path = Path(place)
        if place in tars:
            removed[place] = sum(tar.rewrite(digests) for tar in tars[place])
            found.update(name for tar in tars[place] for name in tar.found)
            continue
        gone = (_from_index if (path / "index.json").is_file() else _from_features)(path, keys)
        removed[place] = len(gone)
        found.update(gone)
    return {"removed": removed, "caches": features.forget(digests), "unknown": sorted(keys - found)}


class _Tar:
    """One tar, and which of the keys name what in it.

    Attributes:
        by_tar, by_source: a sample's key in the tar -> those of the keys that it has there, or in its source.
        found: the keys that named something.
    """

    def __init__(self, path: Path, keys: AbstractSet[str], keys_of: KeysOf):
        self.path, self.shards = path, Shards([str(path)], texts=False)
        self.keys = keys if keys_of != "source" else frozenset()
        self.by_tar: dict[str, set[str]] = {}
        self.by_source: dict[str, set[str]] = {}
        self.found: set[str] = set()
        for i in range(len(self.shards)):
            key = self.shards.key(i)
            self.by_tar[key] = {key} & self.keys
            self.by_source[key] = _own_key(self.shards, i) & keys if keys_of != "tar" else set()

    def rewrite(self, digests: list[bytes]) -> int:
        """Write the tar anew where it holds any of the keys; returns how many samples went.

        Args:
            digests: receives the hashes of their pictures.
        """
        named = {key: self.by_tar[key] | self.by_source[key] for key in self.by_tar}
        for i in range(len(self.shards)):
            if named[self.shards.key(i)]:
                with suppress(BadSample):  # no cache holds it then
                    digests.append(hashlib.sha256(self.shards.image(i)).digest())
        aside = self.path.with_name(f".{self.path.name}.part")
        gone: set[str] = set()
        try:
            with tarfile.open(self.path) as old, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as new:
                for member in old:
                    key, _ = split_name(member.name)
                    names = named.get(key) or {key} & self.keys  # without a picture it goes too
                    if names:
                        gone.add(key)
                        self.found |= names
                    else:
                        new.addfile(member, old.extractfile(member) if member.isfile() else None)
            if gone:
                _flush(aside)
                os.replace(aside, self.path)
                forget_index(str(self.path))
        except tarfile.TarError as error:
            raise UserError(f"{self.path} is damaged ({error}): pack it anew, and drop from that") from None
        finally:
            aside.unlink(missing_ok=True)
        return len(gone)


def _own_key(shards: Shards, i: int) -> set[str]:
    """The key that a sample's source had, where that is known."""
    try:
        own = shards.meta(i).get("key")
    except BadSample:
        own = None
    return {own} if isinstance(own, str) else set()


def _refuse_two_meanings(tars: Sequence[_Tar]) -> None:
    """Numbers that img2dataset gave are keys of other samples once tars are packed again."""
    meant: tuple[dict[str, set], dict[str, set]] = {}, {}
    for tar in tars:
        for places, called in zip(meant, (tar.by_tar, tar.by_source), strict=True):
            for key, names in called.items():
                for name in names:
                    places.setdefault(name, set()).add((tar.path, key))
    for name in sorted(meant[0].keys() & meant[1].keys()):
        if meant[0][name] != meant[1][name]:
            raise UserError(
                f"{name} is one sample's key in its tar, and another one's in its source: say which is meant "
                "by --keys-of tar or --keys-of source; nothing was removed"
            )


def _from_index(folder: Path, keys: AbstractSet[str]) -> list[str]:
    index = Index.load(folder)
    named = [next((name for name in _names(entry) if name in keys), None) for entry in index.entries]
    kept = [row for row, name in enumerate(named) if name is None]
    gone = [name for name in named if name is not None]
    if gone:
        entries = [index.entries[row] for row in kept]
        replace(index, entries=entries, features=np.asarray(index.features)[kept]).save(folder)
    return gone


def _names(entry: Entry) -> list[str]:
    """An entry's key, and of a key that came again in tars (`k1#2`, see `Tars`) the tar's own."""
    of_tar = not entry.size and not entry.mtime_ns
    return [entry.key, *([re.sub(r"#\d+$", "", entry.key)] if of_tar else [])]


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
