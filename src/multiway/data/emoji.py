"""The bundled real sample: 5,054 drawings of Noto, Twemoji and Fluent with their names and tags.

Provenance and licences lie beside the drawings (`emoji/LICENCES.md`); `scripts/build_emoji.py` rebuilds them.
The protocol: train on `train` (Noto and Twemoji); `combination` holds names never trained on whose words are
all seen in other names; `style` holds Fluent's drawings, an unseen style, of trained names. Line 1 of a text
is the name, line 2, where there is one, its tags.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from multiway.data.shards import Shards
from multiway.errors import UserError

FOLDER = Path(__file__).with_name("emoji")
SPLITS = ("train", "combination", "style", "all")


class Split:
    """The drawings of one split, in the protocol's order."""

    def __init__(self, shards: Shards, rows: list[int]):
        self.shards = shards
        self.rows = rows
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return self.shards.key(self.rows[i])

    def texts(self, i: int) -> list[str]:
        return self.shards.texts(self.rows[i])

    def image(self, i: int) -> bytes:
        return self.shards.image(self.rows[i])

    def meta(self, i: int) -> dict[str, Any]:
        """Vendor, code points, name, group, skin tone and licence."""
        return read_meta()[self.key(i)]


def open_split(split: str = "all") -> Split:
    """The drawings of `train`, `combination`, `style`, or `all` (the sample whole, in the tars' order).

    Raises:
        UserError: no such split.
    """
    if split not in SPLITS:
        raise UserError(f"The emoji sample has no split {split}: choose from {', '.join(SPLITS)}.")
    shards = _shards()
    if split == "all":
        return Split(shards, list(range(len(shards))))
    row = {shards.key(i): i for i in range(len(shards))}
    return Split(shards, [row[key] for key in read_protocol()[split]])


@cache
def _shards() -> Shards:
    return Shards(str(path) for path in sorted(FOLDER.glob("*.tar")))


@cache
def read_protocol() -> dict[str, list[str]]:
    """The keys of each split, from protocol.json."""
    read = json.loads((FOLDER / "protocol.json").read_text(encoding="utf-8"))
    return {split: keys for split, keys in read.items() if isinstance(keys, list)}


@cache
def read_meta() -> dict[str, dict[str, Any]]:
    """key -> vendor, hexcode, label, group, subgroup, tone, licence of every drawing."""
    rows = (json.loads(line) for line in (FOLDER / "meta.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["key"]: row for row in rows}


@cache
def read_concepts() -> tuple[dict[str, Any], ...]:
    """hexcode, label, tags, group and the labels in nine more languages of the 1,514 concepts."""
    lines = (FOLDER / "concepts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)
