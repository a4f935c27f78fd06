"""Sources of one modality, for objectives that learn from pictures alone and texts alone beside pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiway.data.pictures import open_pictures
from multiway.data.sample import BadSample
from multiway.errors import UserError

#: What of a source's samples is used.
Use = Literal["pairs", "images", "texts"]


class Lines:
    """A text a line of a UTF-8 file; blank lines are none. Only where lines begin is kept in memory."""

    def __init__(self, path: Path):
        self.path, self.problems = path, Counter[str]()
        begins, at = [], 0
        with path.open("rb") as file:
            for line in file:
                if line.decode("utf-8-sig", "replace").strip():
                    begins.append(at)
                at += len(line)
        if not begins:
            raise UserError(f"{path} holds no text: give a file with a text a line")
        self._begins = np.asarray(begins, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._begins)

    def key(self, i: int) -> str:
        return str(i)

    def texts(self, i: int) -> list[str]:
        with self.path.open("rb") as file:
            file.seek(int(self._begins[i]))
            try:
                return [file.readline().decode("utf-8-sig").strip()]
            except UnicodeDecodeError as error:
                raise BadSample("bad_text", str(error)) from error

    def image(self, i: int) -> bytes:
        raise BadSample("no_picture", f"{self.path} holds texts alone")

    def meta(self, i: int) -> dict[str, Any]:
        return {}


def open_lines(path: str) -> Lines:
    """The texts of a file.

    Raises:
        UserError: there is no such file, or no text in it.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no {path}: give a file with a text a line")
    return Lines(Path(path))


class Pictures:
    """Pictures without texts: a folder of files, or tars."""

    def __init__(self, path: str):
        self._store, self.problems = open_pictures(path), Counter[str]()

    def __len__(self) -> int:
        return len(self._store.keys)

    def key(self, i: int) -> str:
        return self._store.keys[i]

    def texts(self, i: int) -> list[str]:
        return []

    def image(self, i: int) -> bytes:
        return self._store.read(i)

    def meta(self, i: int) -> dict[str, Any]:
        return {}
