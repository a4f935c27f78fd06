"""Which splits a source has, and what a look for near-duplicates holds it against."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from multiway.data import emoji
from multiway.data.dataset import Source
from multiway.data.tables import TABLES, find_table, read_table, splits_of
from multiway.errors import UserError


def against(source: Source, name: str) -> Source:
    """Another split of `source` where it has one called `name`, else the source `name`, whole.

    Raises:
        UserError: it holds the same samples as `source`, or the file of splits is missing or damaged.
    """
    if _has_split(source.path, name):
        if overlap(source.path, source.split, name):
            own = "the whole of it" if source.split is None else f"the split {source.split}"
            raise UserError(
                f"--against {name} is compared with {own} of {source.path}, which holds the same samples: "
                "name another split by --split or --against, or look within one by --duplicates"
            )
        return replace(source, split=name)
    same = name == source.path or (
        os.path.exists(name) and os.path.realpath(name) == os.path.realpath(source.path)
    )
    if same:
        raise UserError(
            f"--against {name} is the source itself: name another of its splits, another source, or look "
            "within it by --duplicates"
        )
    return replace(source, path=name, split=None)


def _has_split(path: str, name: str) -> bool:
    """Whether the source at `path` has the split `name`: of emoji's protocol (`style`, `style:de`), or, of a
    json, csv or other table, what its rows say under `split`; several are joined by "+".
    """
    if path == "emoji":
        return name.partition(":")[0] in (*emoji.SPLITS, "transfer")
    table = _table(path)
    if table is None:
        return False
    rows = read_table(table)
    rows = rows.get("images") if isinstance(rows, dict) else rows
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return set(name.split("+")) <= splits_of(listed)


def overlap(path: str, first: str | None, second: str | None) -> bool:
    """Whether two splits of a source hold the same samples, in part or whole; None is the source whole.

    The same drawings of emoji under names of another language are the same samples.
    """
    if path == "emoji":
        one, other = (emoji.open_split(name or "all") for name in (first, second))
        keys = {one.key(i) for i in range(len(one))}
        return any(other.key(i) in keys for i in range(len(other)))
    return first is None or second is None or bool(set(first.split("+")) & set(second.split("+")))


def _table(path: str) -> Path | None:
    """The file whose rows a source lists; None where it is none."""
    if "://" in path:
        return None
    if os.path.isdir(path):
        return None if any(name.endswith(".tar") for name in os.listdir(path)) else find_table(Path(path))
    return Path(path) if Path(path).suffix.lower() in TABLES else None
