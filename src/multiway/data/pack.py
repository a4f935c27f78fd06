"""Any source into img2dataset tars whose json says where a sample is from, and on what terms.

    {"caption": ..., "source": ..., "licence": ..., "opt_out": false, and whatever else the source said}

A sample whose source says that it is opted out, or that a list of keys names, is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from multiway.data.dataset import Dataset
from multiway.data.images import decode, extension
from multiway.data.licences import NAMES, OPT_OUTS, opts_out, stated
from multiway.data.sample import BadSample
from multiway.data.shards import write_shards
from multiway.data.tables import lines_of
from multiway.errors import UserError

SOURCES = ("source", "url", "original_url", "flickr_url", "coco_url")


def pack(
    dataset: Dataset,
    out: Path,
    *,
    source: str | None = None,
    licence: str | None = None,
    opted_out: AbstractSet[str] = frozenset(),
    shard_size: int = 10_000,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write the tars; picture files are copied as they are.

    Args:
        source, licence: of samples whose own source says nothing of it.
        opted_out: keys to leave out.
        progress: called as progress("samples", done, total).

    Returns:
        `written`, `tars`, `opted_out`, `without_licence`, `skipped` (reason -> samples), and `unknown`: keys
        of `opted_out` that no sample has.

    Raises:
        UserError: `out` holds tars already, or no sample is left.
    """
    if any(out.glob("*.tar")):
        raise UserError(f"{out} holds tars already: choose another --out")
    counts: Counter[str] = Counter()
    skipped = Counter(dataset.problems)
    unknown = set(opted_out)

    def samples() -> Iterator[dict[str, Any]]:
        for i in range(len(dataset)):
            progress("samples", i + 1, len(dataset))
            unknown.discard(dataset.key(i))
            try:
                content, texts = dataset.file(i), dataset.texts(i)
                decode(content, min_side=8)
                meta = dataset.meta(i)
            except BadSample as bad:
                skipped[bad.reason] += 1
                continue
            if dataset.key(i) in opted_out or opts_out(meta):
                counts["opted_out"] += 1
                continue
            terms = stated(meta, NAMES) or licence
            counts["without_licence"] += terms is None
            counts["written"] += 1
            told = {name: _plain(v) for name, v in meta.items() if name.lower() not in (*OPT_OUTS, "path")}
            lines = [" ".join(lines_of(text)) for text in texts]  # a line of the .txt is a text of its own
            about = {
                **told,
                "key": dataset.key(i),
                "caption": lines[0],
                "source": stated(meta, SOURCES) or source or dataset.source(i),
                "licence": terms,
                "opt_out": False,
            }
            key = f"{counts['written'] - 1:09d}"  # a key of a tar has no folder and no dot
            yield {"__key__": key, extension(content): content, "txt": "\n".join(lines), "json": about}

    tars = write_shards(out, samples(), shard_size=shard_size)
    if not tars:
        why = ", ".join(f"{reason} {n:,}" for reason, n in skipped.items()) or "all are opted out"
        raise UserError(f"no sample is left to write ({why})")
    named = {name: counts[name] for name in ("written", "opted_out", "without_licence")}
    return {**named, "tars": len(tars), "skipped": dict(skipped), "unknown": sorted(unknown)}


def _plain(value: Any) -> Any:
    """As JSON holds it: what is known of a drawn scene is a dataclass."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
