"""Features of many pictures and texts on disk, for a vector database that exists already.

    out/embed.json              model, source, kind, length: a second run with others is refused
    out/image-00000.npy         [N, E] float32, normalised; row i belongs to line i of image-00000.jsonl
    out/image-00000.jsonl       {"key": ...}; of texts {"key": ..., "text": ...}
    out/image-00000.parquet     instead of both, where parquet is asked for: key, text, embedding
    out/skipped.jsonl           what could not be used, and why

A part holds the samples of one range. It is written aside and renamed, and a finished one is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiway.data import files
from multiway.data.dataset import Dataset
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.search.index import fingerprint
from multiway.systems.base import System
from multiway.tasks.two_stage import Progress, as_array, encode_texts, evaluating, silent

Format = Literal["npy", "parquet"]
Kind = Literal["image", "text"]
Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did: rows that it wrote by kind, samples in parts that were there, samples skipped."""

    written: dict[str, int]
    kept: int
    skipped: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """One line."""
        said = ", ".join(f"{count:,} {kind}s" for kind, count in self.written.items()) + " written"
        said += f"; {self.kept:,} samples were there already" if self.kept else ""
        why = ", ".join(f"{reason} {count:,}" for reason, count in self.skipped.items())
        return f"{said}; skipped {why}" if why else said


def embed(
    model: System,
    samples: Dataset,
    out: Path,
    *,
    kinds: Sequence[Kind] = ("image",),
    format: Format = "npy",
    part_size: int = 10_000,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Report:
    """Write the features of all samples that can be used, and go on where an earlier run was stopped.

    Args:
        kinds: of their pictures, their texts, or both.
        part_size: samples in a file.
        progress: called as progress("samples", done, total).

    Raises:
        UserError: `out` holds other features, the model has none, or pyarrow is missing for parquet.
    """
    if format == "parquet":
        arrow_modules()
    if part_size < 1 or batch_size < 1:
        raise UserError(f"part size {part_size} and batch size {batch_size}: give at least 1")
    if not model.has_itc:  # before the folder is this model's
        raise UserError(f"{type(model).__name__} has no contrastive features: take a model trained with ITC")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out / "embed.json", model, samples, {"format": format, "part_size": part_size})
    written, kept, skipped = Counter[str](), 0, Counter(samples.problems)
    for number, first in enumerate(range(0, len(samples), part_size)):
        part = range(first, min(first + part_size, len(samples)))
        todo = [kind for kind in kinds if not (out / f"{kind}-{number:05d}.{format}").exists()]
        kept += len(part) if not todo else 0
        for kind in todo:
            rows, features, bad = _of(kind, model, samples, part, batch_size, progress)
            if len(rows):
                _write(out / f"{kind}-{number:05d}", rows, features, format)
            if bad:
                with open(out / "skipped.jsonl", "a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
            written[kind] += len(rows)
            skipped.update(row["reason"] for row in bad)
        progress("samples", part.stop, len(samples))
    return Report(written=dict(written), kept=kept, skipped=dict(skipped))


def _claim(path: Path, model: System, samples: Dataset, settings: dict[str, Any]) -> None:
    """Say what the folder holds; refuse one that holds something else."""
    mine = {
        "model": fingerprint(model),
        "source": [asdict(source) for source in samples.sources],
        "samples": len(samples),
        "keys": _digest(samples.key(i) for i in range(len(samples))),
        **settings,
    }
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            there = {}
        differ = [name for name, value in mine.items() if there.get(name) != value]
        if differ:
            what = {"samples": "number of samples", "keys": "set of samples"}.get(differ[0], differ[0])
            raise UserError(f"{path.parent} holds features of another {what}: choose another --out")
        return
    files.write(path, json.dumps(mine, indent=1))


def _digest(keys: Iterable[str]) -> str:
    """SHA-256 over the keys in their order: a part of another range of them must not be taken for done."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


def _of(
    kind: Kind, model: System, samples: Dataset, part: range, batch_size: int, progress: Progress
) -> tuple[list[Row], np.ndarray, list[Row]]:
    """Rows and features of one kind, and what could not be used."""
    rows: list[Row] = []
    bad: list[Row] = []
    found: list[np.ndarray] = []
    waiting: list[Any] = []

    def flush() -> None:
        if waiting:
            found.append(as_array(model.image_context(model.prepare(waiting))[0], "pictures"))
            waiting.clear()

    with evaluating(model):
        for i in part:
            try:
                if kind == "text":
                    rows += [{"key": samples.key(i), "text": text} for text in samples.texts(i)]
                else:
                    waiting.append(samples.image(i))
                    rows.append({"key": samples.key(i)})
            except BadSample as error:
                bad.append({"key": samples.key(i), "kind": kind, "reason": error.reason})
            if len(waiting) == batch_size:
                flush()
                progress("samples", i, len(samples))
        flush()
        if kind == "text" and rows:
            texts = [row["text"] for row in rows]
            found.append(encode_texts(model, *model.tokenize(texts), batch_size=batch_size).features)
    return rows, np.concatenate(found) if found else np.empty((0, 0), np.float32), bad


def _write(stem: Path, rows: Sequence[Row], features: np.ndarray, format: Format) -> None:
    """The keys first: where the features are there, the part is whole."""
    features = np.ascontiguousarray(features, np.float32)
    path = stem.with_name(f"{stem.name}.{format}")
    aside = path.with_name(f".{path.name}.part")
    if format == "npy":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.write(stem.with_name(f"{stem.name}.jsonl"), lines)
        with open(aside, "wb") as file:
            np.save(file, features)
    else:
        arrow, parquet = arrow_modules()
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        flat = arrow.array(features.reshape(-1))
        columns["embedding"] = arrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
        parquet.write_table(arrow.table(columns), aside)
    os.replace(aside, path)


def arrow_modules() -> tuple[Any, Any]:
    """pyarrow and its parquet module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "parquet needs pyarrow: pip install 'multiway[parquet]', or take --format npy"
        ) from None
    return pyarrow, pyarrow.parquet
