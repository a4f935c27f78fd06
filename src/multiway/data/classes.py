"""Pictures with the name of a class: a folder a class, a table, tars, or the bundled drawings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from multiway.data import emoji
from multiway.data.images import EXTENSIONS, read_file
from multiway.data.pictures import is_hidden
from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.data.tables import (
    IMAGE_COLUMNS,
    TABLES,
    check_rows,
    find_column,
    find_table,
    of_split,
    picture_folder,
    read_table,
    refuse_split,
)
from multiway.data.unlabelled import OR_PREDICT, find_label
from multiway.errors import UserError

LABEL_COLUMNS = ("label", "class", "category", "cls")
EMOJI_LABELS = ("group", "subgroup")


@runtime_checkable
class _Described(Protocol):
    """What `labelled.LabelledSource` says."""

    @property
    def path(self) -> str: ...
    @property
    def images(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...


def open_labelled(source: _Described, *, unlabelled: bool = False) -> Listed:
    """The pictures of a source with their classes.

    Args:
        unlabelled: pictures without a class are samples too, of the class "".

    Raises:
        UserError: it is missing, of unknown layout, or names no classes.
    """
    if source.path == "emoji":
        return _emoji(source)
    path = Path(source.path)
    if "://" not in source.path:
        if not path.exists() and not set("*?[{") & set(source.path):
            raise UserError(f"There is no file or folder {path}: check the path.")
        if path.is_dir() and not any(name.endswith(".tar") for name in os.listdir(path)):
            table = find_table(path)
            if table is not None:
                return _by_table(table, source.images or str(path), source, unlabelled=unlabelled)
            refuse_split(source.split, path)
            return _by_folder(path, unlabelled=unlabelled)
        if path.suffix.lower() in TABLES:
            return _by_table(path, source.images, source, unlabelled=unlabelled)
    refuse_split(source.split, source.path)
    return _by_tar(source, unlabelled=unlabelled)


@runtime_checkable
class _Pictures(Protocol):
    def image(self, i: int) -> bytes: ...


class _Paths:
    """Picture files by number."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def image(self, i: int) -> bytes:
        return read_file(self.paths[i])


class Listed:
    """Pictures by their keys, each with the name of its class.

    Args:
        pictures: where the bytes of picture `rows[i]` are read; None: of picture i.
        about: what else is said of each.
    """

    def __init__(
        self,
        keys: list[str],
        labels: list[str],
        pictures: _Pictures,
        *,
        rows: list[int] | None = None,
        problems: Counter[str] | None = None,
        about: list[dict[str, Any]] | None = None,
    ):
        self.keys, self.labels, self.pictures, self.rows = keys, labels, pictures, rows
        self._about = about
        self.problems: Counter[str] = problems or Counter()

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, i: int) -> str:
        return self.keys[i]

    def label(self, i: int) -> str:
        return self.labels[i]

    def image(self, i: int) -> bytes:
        return self.pictures.image(i if self.rows is None else self.rows[i])

    def meta(self, i: int) -> dict[str, Any]:
        return {} if self._about is None else self._about[i]


def _emoji(source: _Described) -> Listed:
    wanted = source.label or "group"
    if wanted not in EMOJI_LABELS:
        raise UserError(f"The emoji sample has no classes {wanted}: choose group or subgroup.")
    drawings, meta = emoji.open_split(source.split or "all"), emoji.read_meta()
    rows = [i for i in range(len(drawings)) if meta[drawings.key(i)].get(wanted)]
    keys = [drawings.key(i) for i in rows]
    about = [meta[key] for key in keys]
    return Listed(keys, [one[wanted] for one in about], drawings, rows=rows, about=about)


def _by_folder(root: Path, *, unlabelled: bool) -> Listed:
    """`root/class/picture`, the layout of torchvision's ImageFolder; pictures of no folder have no class."""
    files = sorted(
        file
        for file in root.glob("**/*" if unlabelled else "*/**/*")
        if file.suffix.lower().lstrip(".") in EXTENSIONS and not is_hidden(file.relative_to(root))
    )
    if not files:
        raise UserError(
            f"No picture in the folders of {root}: give a folder of pictures for each class, {OR_PREDICT}."
        )
    names = [file.relative_to(root) for file in files]
    labels = [name.parts[0] if len(name.parts) > 1 else "" for name in names]
    return Listed([str(name) for name in names], labels, _Paths(files))


def _by_table(path: Path, images: str | None, source: _Described, *, unlabelled: bool) -> Listed:
    root = picture_folder(path, images)
    rows = of_split(check_rows(read_table(path), path), source.split, path)
    image = find_column(rows[0], IMAGE_COLUMNS, path)
    label = find_label(rows[0], source.label, LABEL_COLUMNS, path, unlabelled=unlabelled)
    problems: Counter[str] = Counter()
    keys, labels, about = [], [], []
    for row in rows:
        name, value = ("" if c is None or row.get(c) is None else str(row[c]).strip() for c in (image, label))
        if not name or not (value or unlabelled):
            problems["no_label" if name else "no_image"] += 1
            continue
        keys.append(name)
        labels.append(value)
        about.append(row)
    if not any(os.path.exists(root / name) for name in keys[:100]):
        raise UserError(f"The pictures of {path} are not under {root}: name their folder with `images`.")
    return Listed(keys, labels, _Paths([root / key for key in keys]), problems=problems, about=about)


def _by_tar(source: _Described, *, unlabelled: bool) -> Listed:
    shards, problems = Shards(expand(source.path), texts=False), Counter()
    rows, labels, about = [], [], []
    for i in range(len(shards)):
        try:
            meta = shards.meta(i)
        except BadSample as bad:
            problems[bad.reason] += 1
            continue
        value = meta.get(source.label or next((n for n in ("cls", *LABEL_COLUMNS) if n in meta), "cls"))
        name = "" if value is None else str(value).strip()
        if not (name or unlabelled):
            problems["no_label"] += 1
            continue
        rows.append(i)
        labels.append(name)
        about.append(meta)
    if not rows:
        raise UserError(
            f"No picture with a class in {source.path}: give KEY.cls, or KEY.json with a field `label`, "
            f"{OR_PREDICT}."
        )
    keys = [shards.key(i) for i in rows]
    return Listed(keys, labels, shards, rows=rows, problems=problems + shards.problems, about=about)
