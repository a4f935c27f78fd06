"""The index of a collection of pictures: their ITC features and what tells whether a picture has changed.

    index/
      index.json            source, model's fingerprint, an entry a picture; written last, names the features
      features-<sha>.npy    [N, E] float32, row i belongs to entry i

Building again encodes only what is new: a picture is known by its content, so that a renamed or copied file
is not encoded again, and an unchanged file is not even read. Another model starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from multiway.data.images import decode
from multiway.data.pictures import Folder, Tars, open_pictures
from multiway.data.sample import BadSample
from multiway.data.shards import expand
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.pictures import transform_of
from multiway.tasks.two_stage import Progress, as_array, evaluating, silent

FORMAT = 1
SAVE_EVERY = 2000  # pictures encoded; an interrupted build goes on from the last save


@dataclass(frozen=True)
class Entry:
    """One picture: its key, the SHA-256 of its file, and the file's size and time of change (0 in tars)."""

    key: str
    digest: str
    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True)
class Index:
    """Entries and their features `[N, E]`, row by row."""

    source: str
    fingerprint: str
    entries: list[Entry]
    features: np.ndarray

    def save(self, folder: Path) -> None:
        """Write the features under a new name, then index.json in one step, then drop older features."""
        folder.mkdir(parents=True, exist_ok=True)
        features = np.ascontiguousarray(self.features, np.float32)
        name = f"features-{hashlib.sha256(features.tobytes()).hexdigest()[:16]}.npy"
        with open(folder / (name + ".tmp"), "wb") as file:
            np.save(file, features)
        os.replace(folder / (name + ".tmp"), folder / name)
        head = {"format": FORMAT, "source": self.source, "fingerprint": self.fingerprint, "features": name}
        text = json.dumps({**head, "entries": [asdict(entry) for entry in self.entries]}, ensure_ascii=False)
        (folder / "index.json.tmp").write_text(text, encoding="utf-8")
        os.replace(folder / "index.json.tmp", folder / "index.json")
        for old in folder.glob("features-*.npy"):
            if old.name != name:
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read an index.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not (folder / "index.json").is_file():
            raise UserError(f"{folder} holds no index: make one with `multiway search index`")
        try:
            head = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if head["format"] != FORMAT:
                raise ValueError(f"format {head['format']}")
            entries = [Entry(**entry) for entry in head["entries"]]
            features = np.load(folder / head["features"], mmap_mode="r", allow_pickle=False)
            if features.ndim != 2 or len(features) != len(entries):
                raise ValueError("features and entries differ in number")
            return cls(head["source"], head["fingerprint"], entries, features)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"the index in {folder} is damaged ({error}): delete it and index again"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a build did, in numbers of pictures; `skipped` by reason."""

    encoded: int
    kept: int
    removed: int
    skipped: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """One line."""
        line = f"{self.encoded:,} pictures encoded, {self.kept:,} unchanged, {self.removed:,} gone"
        why = ", ".join(f"{reason} {count:,}" for reason, count in self.skipped.items())
        return f"{line}; skipped {why}" if why else line


def build(
    model: System,
    source: str | Path,
    folder: str | Path,
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Report:
    """Index the pictures at `source` into `folder`, or bring the index there up to date.

    Args:
        source: a folder of pictures (folders within count), or tars.
        progress: called as progress("pictures", done, total).

    Raises:
        UserError: there are no pictures, none can be used, the index there is damaged or of another source,
            or the model has no contrastive features.
    """
    folder, source = Path(folder), os.path.abspath(source) if "://" not in str(source) else str(source)
    pictures = open_pictures(source)
    mark = fingerprint(model)
    known: dict[str, np.ndarray] = {}
    before: dict[str, Entry] = {}
    if (folder / "index.json").is_file():
        old = Index.load(folder)
        if not _same_source(old.source, source, pictures):
            raise UserError(
                f"{folder} holds the index of {old.source}: choose another folder for that of {source}, or "
                "delete it"
            )
        if old.fingerprint == mark:
            known = {
                entry.digest: row for entry, row in zip(old.entries, np.asarray(old.features), strict=True)
            }
            before = {entry.key: entry for entry in old.entries} if old.source == source else {}
    entries: list[Entry] = []
    skipped: Counter[str] = Counter()
    waiting, encoded, kept, saved = {}, 0, 0, 0

    def flush() -> int:
        images = list(waiting.values())
        for digest, row in zip(waiting, _features(model, images), strict=True) if images else ():
            known[digest] = row
        waiting.clear()
        return len(images)

    def state(*, midway: bool) -> Index:
        met = {entry.key for entry in entries}
        # What the old index knows of pictures whose turn has not come would have to be encoded again.
        held = entries + [entry for key, entry in before.items() if midway and key not in met]
        return Index(source, mark, held, np.stack([known[entry.digest] for entry in held]))

    for i, key in enumerate(pictures.keys):
        stamp, last = pictures.stamp(i), before.get(key)
        if last is not None and stamp == (last.size, last.mtime_ns):
            entries.append(last)
            kept += 1
        else:
            try:
                entry, new = _look(pictures, i, stamp, known, waiting)
            except BadSample as bad:
                skipped[bad.reason] += 1
            else:
                entries.append(entry)
                kept += not new
        if len(waiting) == batch_size or i == len(pictures.keys) - 1:
            encoded += flush()
            progress("pictures", i + 1, len(pictures.keys))
            if encoded - saved >= SAVE_EVERY:
                state(midway=True).save(folder)
                saved = encoded
    if not entries:
        why = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items())
        raise UserError(f"no picture in {source} can be used ({why})")
    state(midway=False).save(folder)
    removed = len(before.keys() - {entry.key for entry in entries})
    return Report(encoded=encoded, kept=kept, removed=removed, skipped=dict(skipped))


def _same_source(old: str, new: str, pictures: Folder | Tars) -> bool:
    """Whether an index of the old source goes on with the new one: the same, or more tars beside its own."""
    if old == new:
        return True
    try:
        return isinstance(pictures, Tars) and set(expand(old)) <= set(pictures.files)
    except UserError:  # the old one is no tars, or they have gone
        return False


def _look(
    pictures: Folder | Tars, i: int, stamp: tuple[int, int] | None, known: dict, waiting: dict
) -> tuple[Entry, bool]:
    """The entry of picture i, and whether its content is new; new content is decoded and put in `waiting`."""
    content = pictures.read(i)
    digest = hashlib.sha256(content).hexdigest()
    new = digest not in known and digest not in waiting
    if new:
        waiting[digest] = decode(content)
    return Entry(pictures.keys[i], digest, *(stamp or (0, 0))), new


def _features(model: System, images: list) -> np.ndarray:
    with evaluating(model):
        return as_array(model.image_context(model.prepare(images))[0], "pictures")


def fingerprint(model: System) -> str:
    """SHA-256 over the names and values of all weights, and how pictures and texts are prepared."""
    digest = hashlib.sha256()
    config = getattr(model.tokenizer, "config", None)
    digest.update(repr((model.image_size, model.image_mean, model.image_std, config)).encode())
    how = transform_of(model)
    fit = model.image_fit if how.crop_share == 1 else f"{model.image_fit} {how.crop_share}"
    fit += "" if how.resample == "bicubic" else f" {how.resample}"
    if fit != "squash":  # indexes from before there was another fit stay valid
        digest.update(fit.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
