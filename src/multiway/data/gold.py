"""Gold pairs: pictures and texts of which a person said whether they match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data.images import decode, read_file
from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.data.tables import (
    IMAGE_COLUMNS,
    TABLES,
    TEXT_COLUMNS,
    check_rows,
    find_column,
    picture_folder,
    read_table,
    truth,
)
from multiway.errors import UserError


class GoldPairs:
    """Pairs by number; pictures are read when they are asked for.

    Attributes:
        keys: of the pictures: the name in the table, or the key in the tar. texts: of the pairs.
        labels: whether they match.
    """

    def __init__(self, path: str, *, images: str | None = None):
        """Read a csv, tsv, jsonl or json list with a picture, a text and `label` (1 or 0) a row, or tars
        whose json has a `label` for the whole text.

        Raises:
            UserError: it can't be read, or a row has no label.
        """
        self.path = path
        self.keys: list[str] = []
        self.texts: list[str] = []
        self.labels: list[bool] = []
        self._shards: Shards | None = None
        if Path(path).suffix.lower() in TABLES:
            self.root, rows = (
                picture_folder(Path(path), images),
                check_rows(read_table(Path(path)), Path(path)),
            )
            image, text, label = (
                find_column(rows[0], names, Path(path)) for names in (IMAGE_COLUMNS, TEXT_COLUMNS, ("label",))
            )
            for i, row in enumerate(rows, 1):
                self.keys.append(str(row.get(image) or "").strip())
                self.texts.append(str(row.get(text) or ""))
                self.labels.append(_label(row.get(label), f"{path}, row {i}"))
            return
        self._shards = shards = Shards(expand(path))
        try:
            for i in range(len(shards)):
                self.keys.append(shards.key(i))
                self.texts.append(" ".join(shards.texts(i)))
                self.labels.append(_label(shards.meta(i).get("label"), f"{path}, {shards.key(i)}"))
        except BadSample as bad:
            raise UserError(f"{path} can't be read as gold pairs ({bad}): mend it") from None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Image.Image:
        """The picture of pair `i`.

        Raises:
            UserError: it can't be read: a sample that a person labelled should be whole.
        """
        try:
            if self._shards is not None:
                return decode(self._shards.image(i))
            return decode(read_file(self.root / self.keys[i]))
        except BadSample as bad:
            raise UserError(
                f"{self.path}: the picture of {self.keys[i]} can't be read ({bad}): mend it"
            ) from None


def _label(value: Any, where: str) -> bool:
    label = truth(value)
    if label is None:
        raise UserError(
            f"{where}: label is {str(value).strip()!r}; write 1 where picture and text match, else 0"
        )
    return label
