"""Which splits a source has, and whether two of them share pictures by their names alone."""

from __future__ import annotations

import os
from pathlib import Path

from multiway.data import emoji
from multiway.data.tables import TABLES, find_table, read_table


def has_split(path: str, name: str) -> bool:
    """Whether the source at `path` has the split `name`: of emoji's protocol (`style`, `style:de`), or, of a
    json, csv or other table, what its rows say under `split`; several are joined by "+".

    Raises:
        UserError: the file is missing or damaged.
    """
    if path == "emoji":
        return name.partition(":")[0] in (*emoji.SPLITS, "transfer")
    table = _table(path)
    if table is None:
        return False
    rows = read_table(table)
    rows = rows.get("images") if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        return False
    known = {str(row["split"]) for row in rows if isinstance(row, dict) and "split" in row}
    return bool(known) and set(name.split("+")) <= known


def overlap(path: str, first: str | None, second: str | None) -> bool:
    """Whether two splits of a source hold the same samples, in part or whole; None is the source whole.

    The same drawings of emoji under names of another language are the same samples.
    """
    if path == "emoji":
        names = {"all" if name is None else name.partition(":")[0] for name in (first, second)}
        return len(names) == 1 or "all" in names
    return first is None or second is None or bool(set(first.split("+")) & set(second.split("+")))


def _table(path: str) -> Path | None:
    """The file whose rows a source lists; None where it is none."""
    if "://" in path:
        return None
    if os.path.isdir(path):
        return None if any(name.endswith(".tar") for name in os.listdir(path)) else find_table(Path(path))
    return Path(path) if Path(path).suffix.lower() in TABLES else None
