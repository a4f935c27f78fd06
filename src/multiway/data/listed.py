"""Samples that files list, each with the name of its picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from multiway.data.images import read_file
from multiway.errors import UserError


@runtime_checkable
class Row(Protocol):
    """What is known of a sample: its picture's file, and the row that it comes from."""

    @property
    def picture(self) -> str: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


RowT = TypeVar("RowT", bound=Row)


class ListedPictures(Generic[RowT]):
    """Rows by number, with their pictures.

    Args:
        root: where the pictures' names begin. where: the file of the rows.
        wanted: what a row has to say, for the sentence where there is none.
        problems: rows that could not be used, by reason.

    Raises:
        UserError: there is no row, or not one of the first hundred pictures exists.
    """

    def __init__(
        self,
        root: Path,
        rows: Iterable[RowT],
        where: Path,
        wanted: str,
        problems: Counter[str] | None = None,
    ):
        self.root, self.rows = root, list(rows)
        self.problems: Counter[str] = Counter() if problems is None else problems
        if not self.rows:
            raise UserError(f"No row in {where} can be used: give {wanted}.")
        # unlike Path.exists, it says no to a name that no file can have
        if not any(os.path.exists(root / row.picture) for row in self.rows[:100]):
            raise UserError(f"The pictures of {where} are not under {root}: name their folder with `images`.")

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return f"{self.rows[i].picture} {i}"

    def row(self, i: int) -> RowT:
        return self.rows[i]

    def image(self, i: int) -> bytes:
        return read_file(self.root / self.rows[i].picture)

    def meta(self, i: int) -> dict[str, Any]:
        return dict(self.rows[i].meta)
