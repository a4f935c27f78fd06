"""Texts that point to one thing in a picture, with its box: RefCOCO+, tables, and drawn worlds.

Boxes are (left, top, width, height) in pixels, as COCO's.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import boxes, scenes
from multiway.data.labelled import LabelledSource
from multiway.data.listed import ListedPictures
from multiway.data.numbered import NumberedPictures, Pictured
from multiway.data.tables import IMAGE_COLUMNS, check_rows, find_column, picture_folder, read_table
from multiway.errors import UserError

Box = tuple[float, float, float, float]
TEXTS, BOXES = ("text", "sentence", "phrase", "sent", "caption"), ("bbox", "box")


@dataclass(frozen=True, kw_only=True)
class Referred:
    """A text and the box of what it means.

    Attributes:
        picture: names the picture. proposals: boxes to choose from; none where none are known.
        meta: the table's row.
    """

    picture: str
    text: str
    box: Box
    proposals: tuple[Box, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


class Referring(NumberedPictures[LabelledSource, Pictured]):
    """Random access to pictures, in their own sizes, with a text and a box."""

    labels: tuple[str, ...] = ()

    def __init__(self, sources: Sequence[LabelledSource] | LabelledSource):
        """Open the sources.

        Raises:
            UserError: a source is missing or of unknown layout.
        """
        super().__init__(sources, _open)

    def referred(self, i: int) -> Referred:
        """Text and box `i`."""
        return self.row(i)

    def texts(self, i: int) -> list[str]:
        """The text itself."""
        return [self.referred(i).text]


class DrawnScenes:
    """`n` drawn scenes, each with the phrase of one thing; the boxes of all things are proposals."""

    def __init__(self, world: scenes.Scenes):
        self.world, self.problems = world, Counter[str]()

    def __len__(self) -> int:
        return len(self.world)

    def key(self, i: int) -> str:
        return self.world.key(i)

    def row(self, i: int) -> Referred:
        number = self._scene(i)
        scene, side = scenes.make_scene(self.world.seed, number), self.world.image_size
        named = scenes.boxes(scene, side)
        phrase, box = named[i % len(named)]
        found = tuple(_of_corners(*(value * side for value in thing.box)) for thing in scene.things)
        return Referred(picture=self.key(i), text=phrase, box=_of_corners(*box), proposals=found)

    def image(self, i: int) -> Image.Image:
        return scenes.draw_scene(scenes.make_scene(self.world.seed, self._scene(i)), self.world.image_size)

    def _scene(self, i: int) -> int:
        """The i-th stretch's first scene with several things, one of which a phrase names alone."""
        number = i * 1000
        while True:
            scene = scenes.make_scene(self.world.seed, number)
            if len(scene.things) > 1 and scenes.boxes(scene):
                return number
            number += 1


class DrawnStrips:
    """`n` drawn strips of three boxes with scattered items, and the phrase of one that is like no other."""

    def __init__(self, n: int, seed: int = 0):
        self.n, self.seed, self.problems = n, seed, Counter[str]()

    def __len__(self) -> int:
        return self.n

    def key(self, i: int) -> str:
        return f"strip_{self.seed}_{i:08d}"

    def row(self, i: int) -> Referred:
        return replace(_pointed(self.seed, i)[1], picture=self.key(i))

    def image(self, i: int) -> Image.Image:
        side = boxes.SIDE
        picture = Image.new("RGB", (3 * side, side))
        for number, box in enumerate(_pointed(self.seed, i)[0].boxes):
            picture.paste(boxes.draw_box(box), (number * side, 0))
        return picture


@lru_cache(maxsize=1024)  # text and picture are asked for one after the other
def _pointed(seed: int, index: int) -> tuple[boxes.Strip, Referred]:
    draw = random.Random(f"pointing {seed} {index}")
    while True:
        strip = boxes.make_strip(draw, towers=False)
        placed = [(item, number) for number, box in enumerate(strip.boxes) for item in box]
        looks = Counter((item.size, item.colour, item.shape) for item, _ in placed)
        alone = [i for i, (item, _) in enumerate(placed) if looks[item.size, item.colour, item.shape] == 1]
        if alone:
            break
    found = tuple((n * boxes.SIDE + item.x, item.y, item.side, item.side) for item, n in placed)
    chosen = draw.choice(alone)
    item, _ = placed[chosen]
    text = f"the {item.size} {item.colour} {item.shape}"
    return strip, Referred(picture="", text=text, box=found[chosen], proposals=found)


def _of_corners(left: float, top: float, right: float, bottom: float) -> Box:
    return left, top, right - left, bottom - top


def _open(source: LabelledSource) -> Pictured:
    path = Path(source.path)
    if source.path.startswith("scenes:"):
        return DrawnScenes(scenes.parse(source.path))
    if source.path.startswith("boxes:"):
        numbers = source.path.split(":")[1:]
        if not all(number.isdecimal() for number in numbers) or len(numbers) not in (1, 2):
            raise UserError(f"{path} names no drawn boxes: write boxes:N or boxes:N:SEED, as in boxes:1000.")
        return DrawnStrips(*map(int, numbers))
    root, rows = picture_folder(path, source.images), check_rows(read_table(path), path)
    if "ann_id" in rows[0] or "ref_id" in rows[0]:
        found = _refcoco(rows, path, source.split)
    else:
        found = _table(rows, path, source.split)
    return ListedPictures(root, found, path, "rows of a picture, a text and a box")


def _refcoco(rows: Sequence[Mapping[str, Any]], path: Path, split: str | None) -> list[Referred]:
    """RefCOCO+'s refs as json, or ALBEF's rows with a `ref_id`; instances, refs and detections lie beside.

    The toolkit's `refs(unc).p` is a pickle, which is not opened: write it as refs.json where it is trusted.
    """
    instances = read_table(path.with_name("instances.json"))
    annotations = {row["id"]: row for row in instances["annotations"]}
    names = {row["id"]: row["file_name"] for row in instances["images"]}
    beside = path.with_name("dets.json")
    proposals: Mapping[str, Any] = read_table(beside) if beside.is_file() else {}
    if "ann_id" not in rows[0]:  # ALBEF's: a row a text, and the box by its ref
        refs = {row["ref_id"]: row for row in check_rows(read_table(path.with_name("refs.json")), path)}
        own = ({"sentences": [{"sent": row["text"]}], "picture": row.get("image")} for row in rows)
        rows = [{**refs[row["ref_id"]], **more} for row, more in zip(rows, own, strict=True)]
    found = []
    for row in rows:
        if split is not None and row.get("split") not in split.split("+"):
            continue
        annotation = annotations[row["ann_id"]]
        image = annotation["image_id"]
        boxes_there = tuple(tuple(map(float, box[:4])) for box in proposals.get(str(image), ()))
        for sentence in row["sentences"]:
            found.append(
                Referred(
                    picture=str(row.get("picture") or names[image]),
                    text=str(sentence["sent"]),
                    box=_box(annotation["bbox"], path),
                    proposals=boxes_there,  # pyrefly: ignore[bad-argument-type]  # four numbers each
                    meta={n: of[n] for of in (row, sentence) for n in ("ref_id", "sent_id") if n in of},
                )
            )
    return found


def _table(rows: Sequence[dict[str, Any]], path: Path, split: str | None) -> list[Referred]:
    """A table with a picture, a text, a box, and, if there are any, `proposals`."""
    wanted = None if split is None else split.split("+")
    image, text, box = (find_column(rows[0], names, path) for names in (IMAGE_COLUMNS, TEXTS, BOXES))
    return [
        Referred(
            picture=str(row[image]),
            text=str(row[text]),
            box=_box(row[box], path),
            proposals=tuple(_box(other, path) for other in row.get("proposals") or ()),
            meta=row,
        )
        for row in rows
        if row.get(image) and row.get(text) and row.get(box)
        if wanted is None or row.get("split") in wanted
    ]


def _box(value: Any, path: Path) -> Box:
    numbers = value.strip("[]() ").replace(",", " ").split() if isinstance(value, str) else value
    try:
        left, top, width, height = (float(number) for number in numbers[:4])
    except (TypeError, ValueError):
        raise UserError(
            f"{path} has the box {value!r}: write left, top, width and height in pixels"
        ) from None
    return left, top, width, height
