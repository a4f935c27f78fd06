"""From scored rows to an img2dataset tar and its manifest, both written aside and renamed, the manifest last.

`NAME.tar` holds KEY.jpg (the file's bytes as they were), KEY.txt (the kept texts, one a line) and KEY.json:
the input's own fields, `caption` (the first kept text), `source`, `licence`, and under `capfilt` every text
with its origin and score, kept and dropped, and where the picture came from. `NAME.json`, the manifest, says
that the shard is done, what was decided about its texts, and which pictures were bad.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multiway.data.images import extension
from multiway.data.sample import BadSample
from multiway.data.shards import Shards, write_tar
from multiway.data.tables import encodable

BIN = 0.02  # width of a bar of the score histogram
EXAMPLES = 12  # of each kind and fate, a shard; the report shows fewer
KINDS = ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "avif")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is kept of scored texts.

    Attributes:
        threshold: the lowest score that is kept. captions: how many of the candidates compete for being kept.
        keep: origins that are written. source, licence: where a sample's json names none.
        made_by: captioner and filter, as provenance.
    """

    threshold: float
    captions: int = 1
    best_of: int = 1
    keep: tuple[str, ...] = ("web", "synthetic")
    source: str | None = None
    licence: str | None = None
    made_by: tuple[str, str] = ("", "")

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Text:
    """A text of a picture: where it comes from, its score, and whether it is kept."""

    text: str
    origin: str
    score: float | None
    kept: bool

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        score = {} if self.score is None else {"score": self.score}
        return {"text": self.text, "origin": self.origin, **score}


def select(row: dict[str, Any], selection: Selection) -> list[Text]:
    """The texts of a row, web before synthetic, with their fates; of `best_of` candidates only the best
    count.
    """
    synthetic = row.get("synthetic", [])
    if selection.best_of > 1:
        best = sorted(range(len(synthetic)), key=lambda i: (-synthetic[i][1], i))[: selection.captions]
        synthetic = [synthetic[i] for i in sorted(best)]
    texts = [Text(text, "human", None, True) for text, _ in row.get("human", [])]
    for origin, pairs in (("web", row.get("web", [])), ("synthetic", synthetic)):
        if origin in selection.keep:
            texts += [Text(text, origin, s, s >= selection.threshold) for text, s in pairs]
    return texts


def is_written(out: Path, name: str, selection: Selection) -> bool:
    """Whether the shard `name` is whole, and was selected in this way."""
    manifest = read_manifest(out, name)
    if manifest is None or manifest["selection"] != selection.plain():
        return False
    tar = out / f"{name}.tar"
    return not manifest["written"] or (tar.exists() and tar.stat().st_size == manifest["bytes"])


def read_manifest(out: Path, name: str) -> dict[str, Any] | None:
    """The manifest of a shard; None where it is not written yet."""
    try:
        return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def written(out: Path) -> list[str]:
    """The names of the shards that have a manifest."""
    return sorted(path.stem for pattern in ("[0-9]*.json", "human-*.json") for path in out.glob(pattern))


def write(
    out: Path,
    name: str,
    shard: Shards,
    rows: list[dict[str, Any]],
    selection: Selection,
    of: dict[str, Any],
) -> dict[str, Any]:
    """Write the tar (none where nothing is kept) and then the manifest of one shard; returns the manifest.

    Args:
        of: what the rows are made of, as the journal's first line says it.
    """
    path, tar = shard.paths[0], out / f"{name}.tar"
    out.mkdir(parents=True, exist_ok=True)
    chosen = [(row, select(row, selection)) for row in rows]
    kept = [(row, texts) for row, texts in chosen if any(text.kept for text in texts)]
    manifest: dict[str, Any] = {
        "shard": name,
        "input": os.path.basename(path),
        "path": path if "://" in path else os.path.abspath(path),
        "of": of,
        "selection": selection.plain(),
        "pictures": len(rows),
        "written": len(kept),
        "texts": _counts(text for _, texts in chosen for text in texts),
        "histogram": _histogram(text for _, texts in chosen for text in texts),
        "bad": {row["key"]: row["bad"] for row in rows if "bad" in row},
        "bad_texts": {row["key"]: row["bad_text"] for row in rows if "bad_text" in row},
        "skipped": {row["key"]: row["skipped"] for row in rows if "skipped" in row},
        "indexing": dict(shard.problems),
        "examples": _examples(chosen),
        "bytes": 0,
        "sha256": None,
    }
    (out / f"{name}.json").unlink(missing_ok=True)  # from here until the end the shard is not done
    if kept:
        write_tar(tar, _samples(shard, kept, selection))
        with open(tar, "rb") as file:
            manifest["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        manifest["bytes"] = tar.stat().st_size
    else:
        tar.unlink(missing_ok=True)
    aside = out / f".{name}.json.{os.getpid()}.part"
    aside.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, out / f"{name}.json")
    return manifest


def _samples(
    shard: Shards, kept: list[tuple[dict[str, Any], list[Text]]], selection: Selection
) -> Iterator[dict[str, Any]]:
    for row, texts in kept:
        content, lines = shard.image(row["row"]), [text.text for text in texts if text.kept]
        try:
            meta = json.loads(encodable(json.dumps(shard.meta(row["row"]), ensure_ascii=False)))
        except BadSample:
            meta = {}
        own = {
            **meta,
            "caption": lines[0],
            "source": _known(meta, ("source", "url"), selection.source),
            "licence": _known(meta, ("licence", "license"), selection.licence),
            "capfilt": {
                "kept": [text.plain() for text in texts if text.kept],
                "dropped": [text.plain() for text in texts if not text.kept],
                "threshold": selection.threshold,
                "captioner": selection.made_by[0],
                "filter": selection.made_by[1],
                "shard": os.path.basename(shard.paths[0]),
                "key": row["key"],
            },
        }
        txt = "\n".join(dict.fromkeys(lines))
        yield {"__key__": row["key"], extension(content): content, "txt": txt, "json": own}


def _known(meta: dict[str, Any], names: tuple[str, ...], default: str | None) -> Any:
    """The first of these fields that says something: img2dataset writes null where it knows nothing."""
    return next((meta[name] for name in names if meta.get(name)), default)


def _counts(texts: Iterable[Text]) -> dict[str, dict[str, int]]:
    """origin -> kept and dropped texts."""
    counts = Counter((text.origin, text.kept) for text in texts)
    origins = sorted({origin for origin, _ in counts})
    return {o: {"kept": counts[o, True], "dropped": counts[o, False]} for o in origins}


def _histogram(texts: Iterable[Text]) -> dict[str, dict[str, int]]:
    """origin -> bar -> texts; bar b holds the scores from b * BIN to (b + 1) * BIN."""
    counts: dict[str, Counter[int]] = {}
    for text in texts:
        if text.score is not None:
            counts.setdefault(text.origin, Counter())[math.floor(text.score / BIN)] += 1
    return {origin: {str(b): n for b, n in sorted(bars.items())} for origin, bars in sorted(counts.items())}


def _examples(chosen: list[tuple[dict[str, Any], list[Text]]]) -> list[dict[str, Any]]:
    """A few texts of each origin and fate, drawn by their keys' hash."""
    found: dict[tuple[str, bool], list[tuple[str, dict[str, Any]]]] = {}
    for row, texts in chosen:
        for text in texts:
            mark = hashlib.sha256(f"{row['key']} {text.text}".encode()).hexdigest()
            entry = {
                **text.plain(),
                "kept": text.kept,
                "key": row["key"],
                "row": row["row"],
                "mark": mark[:8],
            }
            found.setdefault((text.origin, text.kept), []).append((mark, entry))
    return [
        entry
        for _, drawn in sorted(found.items())
        for _, entry in sorted(drawn, key=lambda item: item[0])[:EXAMPLES]
    ]
