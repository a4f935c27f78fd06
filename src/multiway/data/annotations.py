"""Pictures listed in a file or lying in a folder: csv, tsv, jsonl, json lists, COCO captions, Karpathy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data.images import EXTENSIONS, read_file
from multiway.data.licences import opts_out
from multiway.data.pictures import is_hidden
from multiway.data.sample import BadSample
from multiway.data.shards import split_lines
from multiway.data.tables import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    check_rows,
    find_column,
    find_table,
    listed,
    of_split,
    picture_folder,
    read_table,
    refuse_split,
)
from multiway.data.unlabelled import OR_PREDICT, find_label
from multiway.errors import UserError

#: A picture file, its texts, and what else its row says.
Row = tuple[str, list[Any], dict[str, Any]]


class Files:
    """Random access to pictures that are files of their own.

    Attributes:
        problems: rows that could not be used, by reason: `empty_caption`, `no_image`, `no_text`, `bad_row`.
    """

    def __init__(
        self,
        root: str | Path,
        rows: Iterable[Row],
        *,
        where: str,
        unlabelled: bool = False,
        read: Callable[[Path], bytes | Image.Image] = read_file,
    ):
        """Gather rows of (picture file, texts, other columns); rows of the same picture become one sample
        with several texts and the first row's columns, or those of the first row that opts out.

        Args:
            root: the folder that relative file names start from.
            where: the annotation file's or folder's name, for messages.
            unlabelled: pictures without a caption are samples too.
            read: what a picture's file holds.

        Raises:
            UserError: no row is left, or not one of the first hundred pictures exists.
        """
        self.root, self._read = Path(root), read
        self.problems: Counter[str] = Counter()
        texts: dict[str, list[str]] = {}
        about: dict[str, dict[str, Any]] = {}
        for name, captions, columns in rows:
            if not name:
                self.problems["no_image"] += 1
                continue
            texts.setdefault(name, []).extend(listed(captions))
            if columns and (name not in about or (opts_out(columns) and not opts_out(about[name]))):
                about[name] = columns
        used = {name: captions for name, captions in texts.items() if captions or unlabelled}
        self.problems["empty_caption"] += len(texts) - len(used)
        self.problems += Counter()  # drops the zeros
        self.names, self._texts = list(used), list(used.values())
        self._about = about
        if not self.names:
            raise UserError(f"No picture with a caption in {where}: give captions, {OR_PREDICT}.")
        # unlike Path.exists, it says no to a name that no file can have
        if not any(os.path.exists(self._path(i)) for i in range(min(len(self), 100))):
            raise UserError(
                f"The pictures of {where} are not under {self.root}: name their folder with `images`."
            )

    def __len__(self) -> int:
        return len(self.names)

    def _path(self, i: int) -> Path:
        return self.root / self.names[i]

    def key(self, i: int) -> str:
        """The file name as the annotations write it."""
        return self.names[i]

    def texts(self, i: int) -> list[str]:
        """The captions of picture `i`."""
        return self._texts[i]

    def image(self, i: int) -> bytes | Image.Image:
        """The picture file, or what `read` makes of it."""
        return self._read(self._path(i))

    def meta(self, i: int) -> dict[str, Any]:
        """The path of the file, and the other columns of its first row."""
        return {"path": str(self._path(i)), **self._about.get(self.names[i], {})}


def read_annotations(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    unlabelled: bool = False,
    columns: Sequence[str] = IMAGE_COLUMNS,
    read: Callable[[Path], bytes | Image.Image] = read_file,
) -> Files:
    """The pairs that a file or folder names.

    - a folder: its one table (csv, tsv, jsonl, json), or pictures with a .txt of the same name beside them;
    - csv and tsv with a header, jsonl: a picture column (`image`, `file_name`, `filepath`, ...) and a text
      column (`caption`, `text`, ...), one row a pair or a list of texts a row;
    - json: a list of such rows (ALBEF's own layout), COCO captions (NoCaps' too), or Karpathy's
      `dataset_*.json`;
    - .token: Flickr8k's and Flickr30k's own list.

    Args:
        images: the pictures' folder; the annotation file's own by default.
        split: Karpathy's `train`, `restval`, `val` or `test`; several joined by "+" (`train+restval`); of
            any table with a column `split` likewise.
        unlabelled: pictures without a caption are samples too, as NoCaps' test split has them.
        columns: what the column of pictures may be called. read: what a picture's file holds.

    Raises:
        UserError: missing, unknown layout, no such column or split.
    """
    path = Path(path)
    if path.is_dir():
        table = find_table(path)
        if table is None:
            refuse_split(split, path)
            if not (pairs := list(_pictures_with_texts(path))):
                _name_folders_of_tars(path)
            return Files(images or path, pairs, where=str(path), unlabelled=unlabelled, read=read)
        path, images = table, images or path
    if not path.exists():
        raise UserError(f"There is no file or folder {path}: check the path.")
    root = picture_folder(path, None if images is None else str(images))
    rows = _read_rows(path, root, split, unlabelled, columns)
    return Files(root, rows, where=str(path), unlabelled=unlabelled, read=read)


def _name_folders_of_tars(folder: Path) -> None:
    held = sorted({str(tar.parent.relative_to(folder)) for tar in folder.glob("*/*.tar")})
    if held:
        raise UserError(
            f"{folder} holds no picture, but folders of tars: give one of {', '.join(held)} in it."
        )


def _pictures_with_texts(folder: Path) -> Iterator[Row]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.suffix.lower().lstrip(".") in EXTENSIONS and not is_hidden(name):
            beside = file.with_suffix(".txt")
            try:
                texts = split_lines(beside.read_bytes()) if beside.exists() else []
            except BadSample:
                texts = []
            yield str(name), texts, {}


def _read_rows(
    path: Path, root: Path, split: str | None, unlabelled: bool, columns: Sequence[str]
) -> Iterator[Row]:
    read = read_table(path)
    if isinstance(read, dict) and isinstance(read.get("images"), list):
        pictures = check_rows(read["images"], path)
        of_test = not any("sentences" in image for image in pictures)  # NoCaps' test split
        if isinstance(read.get("annotations"), list) or of_test:
            refuse_split(split, path)
            return _coco({"annotations": [], **read})
        return _karpathy(of_split(pictures, split, path), root)
    if isinstance(read, list):
        return _table(of_split(check_rows(read, path), split, path), path, unlabelled, columns)
    raise UserError(
        f"{path} is of no known layout: give tars, csv, tsv, jsonl, a json list, COCO or Karpathy json."
    )


def _table(rows: list[dict[str, Any]], path: Path, unlabelled: bool, columns: Sequence[str]) -> Iterator[Row]:
    image = find_column(rows[0], columns, path)
    text = find_label(rows[0], None, TEXT_COLUMNS, path, unlabelled=unlabelled)
    return (
        (
            str(row.get(image) or "").strip(),
            [] if text is None else listed(row.get(text)),
            _others(row, image, text or ""),
        )
        for row in rows
    )


def _others(row: dict[str, Any], *used: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used}


def _coco(read: dict[str, Any]) -> Iterator[Row]:
    names = {image["id"]: image["file_name"] for image in read["images"]}
    # the id by which the benchmark's results name a picture
    about = {
        image["id"]: {"image_id": image["id"], **_others(image, "id", "file_name")}
        for image in read["images"]
    }
    captions: dict[Any, list[Any]] = {number: [] for number in names}
    for annotation in read["annotations"]:
        if annotation["image_id"] in captions:
            captions[annotation["image_id"]].append(annotation["caption"])
    return ((names[number], texts, about[number]) for number, texts in captions.items())


def _karpathy(images: list[dict[str, Any]], root: Path) -> Iterator[Row]:
    for image in images:
        # COCO's pictures lie in train2014 and val2014, Flickr30k's in one folder
        inside = os.path.join(image.get("filepath") or "", image["filename"])
        name = inside if os.path.exists(root / inside) else image["filename"]
        texts = [sentence["raw"] for sentence in image["sentences"]]
        yield name, texts, _others(image, "filename", "sentences", "sentids")
