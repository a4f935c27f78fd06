"""Two pictures, a sentence about both, and whether it is true: drawn, listed as NLVR2's, or NLVR1's strips.

A strip of NLVR1 shows three boxes side by side, 400 by 100 pixels. Its first two boxes become the first
picture and its last one the second; any other picture of a tar is cut in halves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from multiway.data import box_pairs, boxes, scenes
from multiway.data.augment import EvalTransform, TrainTransform
from multiway.data.collate import stacked
from multiway.data.images import decode, read_file
from multiway.data.labelled import LabelledSource
from multiway.data.numbered import Keyed, Numbered
from multiway.data.sample import BadSample, sound
from multiway.data.scene_text import make_picture_pair
from multiway.data.shards import Shards, expand
from multiway.data.tables import (
    TABLES,
    check_rows,
    find_column,
    of_split,
    picture_folder,
    read_table,
    refuse_split,
    truth,
)
from multiway.data.unlabelled import OR_PREDICT, UNKNOWN, find_label
from multiway.errors import UserError

SENTENCES = ("sentence", "text", "caption", "statement")
FIRST = ("image0", "left", "image_0", "image1", "left_url")
SECOND = ("image1", "right", "image_1", "image2", "right_url")
LABELS = ("False", "True")

TwoPictures = tuple[Image.Image, Image.Image]


@runtime_checkable
class Store(Keyed, Protocol):
    """An opened source of two pictures, a sentence and its truth."""

    def sentence(self, i: int) -> str: ...
    def label(self, i: int) -> int: ...
    def pictures(self, i: int) -> tuple[Image.Image | bytes, Image.Image | bytes]: ...


class PicturePairs(Numbered[LabelledSource, Store]):
    """Random access to pairs of pictures with a sentence that is true (1) or false (0) of them."""

    labels = LABELS

    def __init__(
        self,
        sources: Sequence[LabelledSource] | LabelledSource,
        *,
        min_side: int | None = None,
        unlabelled: bool = False,
    ):
        """Open the sources.

        Args:
            min_side: as in `Dataset`.
            unlabelled: pairs whose truth is not known are samples too.

        Raises:
            UserError: a source is missing or of unknown layout.
        """
        super().__init__(sources, partial(_open, unlabelled=unlabelled))
        self.min_side = min_side

    def label(self, i: int) -> int:
        """1 where the sentence is true, 0 where it is false, -1 where that is not known."""
        _, store, inside = self._place(i)
        return store.label(inside)

    def texts(self, i: int) -> list[str]:
        """The sentence of pair `i`.

        Raises:
            BadSample: it has none that can be read.
        """
        _, store, inside = self._place(i)
        return sound([store.sentence(inside)])

    def image(self, i: int) -> TwoPictures:
        """Both pictures of pair `i`.

        Raises:
            BadSample: one can't be read or decoded.
        """
        _, store, inside = self._place(i)
        first, second = store.pictures(inside)
        return self._decode(first), self._decode(second)

    def _decode(self, picture: Image.Image | bytes) -> Image.Image:
        return decode(picture, min_side=self.min_side) if isinstance(picture, bytes) else picture


@dataclass(frozen=True)
class PairTransform:
    """A transform of one picture, for both pictures in turn."""

    one: TrainTransform | EvalTransform

    def __call__(
        self, pictures: TwoPictures, caption: str, generator: np.random.Generator
    ) -> Float[Tensor, "2 3 H W"]:
        return stacked([self.one(picture, caption, generator) for picture in pictures])


def _open(source: LabelledSource, *, unlabelled: bool) -> Store:
    path = source.path
    if "://" not in path and Path(path).suffix.lower() in TABLES:
        return ListedPairs(Path(path), source.images, source.label, source.split, unlabelled=unlabelled)
    refuse_split(source.split, path)
    if path.startswith("scenes:"):
        return DrawnPairs(scenes.parse(path))
    if path.startswith("boxes:"):
        return box_pairs.parse(path)
    return Strips(Shards(expand(path)), path, unlabelled=unlabelled)


class DrawnPairs:
    """`n` pairs of drawn scenes."""

    def __init__(self, world: scenes.Scenes):
        self.world = world
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.world)

    def key(self, i: int) -> str:
        return f"pair_{self.world.seed}_{i:08d}"

    def sentence(self, i: int) -> str:
        return make_picture_pair(self.world.seed, i).sentence

    def label(self, i: int) -> int:
        return int(make_picture_pair(self.world.seed, i).label)

    def pictures(self, i: int) -> TwoPictures:
        pair, side = make_picture_pair(self.world.seed, i), self.world.image_size
        return scenes.draw_scene(pair.left, side), scenes.draw_scene(pair.right, side)


class Strips:
    """NLVR1's tars: a picture of three boxes, a sentence, and 1 or 0 in the .cls."""

    def __init__(self, shards: Shards, where: str, *, unlabelled: bool = False):
        self.shards = shards
        self.problems = Counter(shards.problems)
        self.rows, self.labels = [], []
        for i in range(len(shards)):
            try:
                label = truth(shards.meta(i).get("cls"))
            except BadSample as bad:
                self.problems[bad.reason] += 1
                continue
            if label is None and not unlabelled:
                self.problems["no_label"] += 1
                continue
            self.rows.append(i)
            self.labels.append(UNKNOWN if label is None else int(label))
        if not self.rows:
            raise UserError(
                f"No labelled pair in {where}: give tars of pictures, sentences in .txt, and 1 or 0 in "
                f".cls, {OR_PREDICT}."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return self.shards.key(self.rows[i])

    def sentence(self, i: int) -> str:
        texts = self.shards.texts(self.rows[i])
        if not texts:
            raise BadSample("empty_caption")
        return texts[0]

    def label(self, i: int) -> int:
        return self.labels[i]

    def pictures(self, i: int) -> TwoPictures:
        return cut(decode(self.shards.image(self.rows[i])))

    def meta(self, i: int) -> dict[str, Any]:
        return self.shards.meta(self.rows[i])


def cut(strip: Image.Image) -> TwoPictures:
    """Three boxes of a strip (four times as wide as high) onto two pictures; any other picture in halves."""
    width, side = strip.size
    if width != 4 * side:
        return strip.crop((0, 0, width // 2, side)), strip.crop((width // 2, 0, width, side))
    return boxes.on_two_pictures(
        [strip.crop((left * side // 2, 0, left * side // 2 + side, side)) for left in (0, 3, 6)]
    )


class ListedPairs:
    """Pairs that a file lists: NLVR2's own, ALBEF's, or any table with two columns of pictures."""

    def __init__(
        self,
        path: Path,
        images: str | None,
        label: str | None,
        split: str | None,
        *,
        unlabelled: bool = False,
    ):
        root = picture_folder(path, images)
        rows = of_split(check_rows(read_table(path), path), split, path)
        sentence = find_column(rows[0], SENTENCES, path)
        column = find_label(rows[0], label, ("label",), path, unlabelled=unlabelled)
        names = _names(rows[0], root, path)
        self.problems: Counter[str] = Counter()
        self.root, self.rows, self.about = root, [], []
        for row in rows:
            text, two = str(row.get(sentence) or "").strip(), names(row)
            value = None if column is None else truth(row.get(column))
            if (value is not None or unlabelled) and text and two is not None:
                self.rows.append((two, text, UNKNOWN if value is None else int(value)))
                self.about.append(row)
            else:
                reason = "no_label" if value is None else "no_image" if two is None else "empty_caption"
                self.problems[reason] += 1
        if not self.rows:
            raise UserError(
                f"No labelled pair in {path}: give rows of two pictures, a sentence and a label, "
                f"{OR_PREDICT}."
            )
        if not any(os.path.exists(root / name) for two, *_ in self.rows[:100] for name in two):
            raise UserError(f"The pictures of {path} are not under {root}: name their folder with `images`.")

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        first, second = self.rows[i][0]
        return f"{first} {second}"

    def sentence(self, i: int) -> str:
        return self.rows[i][1]

    def label(self, i: int) -> int:
        return self.rows[i][2]

    def pictures(self, i: int) -> tuple[bytes, bytes]:
        first, second = self.rows[i][0]
        return read_file(self.root / first), read_file(self.root / second)

    def meta(self, i: int) -> dict[str, Any]:
        return self.about[i]


def _names(row: dict[str, Any], root: Path, path: Path) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    """How a row names its two pictures: ALBEF's list, NLVR2's identifier, or two columns."""
    if isinstance(row.get("images"), list):
        return lambda row: tuple(row["images"]) if len(row.get("images") or ()) == 2 else None  # pyrefly: ignore
    if "identifier" in row:
        return lambda row: _by_identifier(row, root)
    first = find_column(row, FIRST, path)
    second = find_column(row, [name for name in SECOND if name != first], path)
    return lambda row: (
        (str(row[first]).strip(), str(row[second]).strip()) if row.get(first) and row.get(second) else None
    )


def _by_identifier(row: dict[str, Any], root: Path) -> tuple[str, str]:
    """NLVR2: `train-10171-0-0` means `train-10171-0-img0.png` and `-img1.png`, in folders by `directory`."""
    stem = str(row["identifier"]).rsplit("-", 1)[0]
    folders = _folders(stem.split("-")[0], row.get("directory"))
    found = next((f for f in folders if os.path.exists(root / f / f"{stem}-img0.png")), ".")
    return str(Path(found) / f"{stem}-img0.png"), str(Path(found) / f"{stem}-img1.png")


def _folders(split: str, directory: Any) -> Iterator[str]:
    """Where NLVR2's pictures of a split may lie under the folder given."""
    yield "."
    if directory is not None:
        yield from (str(directory), f"train/{directory}", f"images/train/{directory}")
    yield from (split, f"images/{split}")
