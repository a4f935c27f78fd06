"""Files of predictions, as benchmarks take them; each task fills in the rows.

Files are written aside, then renamed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multiway.data import files


def name_of(about: Mapping[str, Any], columns: Sequence[str], key: str) -> int | str:
    """What a benchmark calls a sample: the first of these columns that says something, else its key."""
    said = (str(about[column]).strip() for column in columns if about.get(column) is not None)
    found = next(filter(None, said), None)
    return key if found is None else number(found)


def number(name: int | str) -> int | str:
    """An id as servers take it: one that is a number is no string, as a csv has it."""
    return int(name) if isinstance(name, str) and name.isdecimal() else name


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """A line a row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write(Path(path), text.getvalue())


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One list of objects."""
    files.write(Path(path), json.dumps(rows, ensure_ascii=False))


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A .csv with a header, or an object a line where the file is called something else."""
    if Path(path).suffix.lower() == ".csv":
        write_csv(path, [list(rows[0]), *(list(row.values()) for row in rows)])
    else:
        files.write(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
