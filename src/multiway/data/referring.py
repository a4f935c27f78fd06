"""Texts that point to one thing in a picture, with its box: RefCOCO+, tables, and drawn worlds.

Boxes are (left, top, width, height) in pixels, as COCO's.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import boxes, scenes
from multiway.data.labelled import LabelledSource
from multiway.data.listed import ListedPictures
from multiway.data.numbered import NumberedPictures, Pictured
from multiway.data.sample import sound
from multiway.data.tables import (
    IMAGE_COLUMNS,
    check_rows,
    find_column,
    of_split,
    picture_folder,
    read_table,
    reading,
    refuse_split,
)
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
        return sound([self.referred(i).text])


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
    if source.path.startswith(("scenes:", "boxes:")):
        refuse_split(source.split, path)
    if source.path.startswith("scenes:"):
        return DrawnScenes(scenes.parse(source.path))
    if source.path.startswith("boxes:"):
        numbers = source.path.split(":")[1:]
        if not all(number.isdecimal() for number in numbers) or len(numbers) not in (1, 2):
            raise UserError(f"{path} names no drawn boxes: write boxes:N or boxes:N:SEED, as in boxes:1000.")
        return DrawnStrips(*map(int, numbers))
    root, rows = picture_folder(path, source.images), check_rows(read_table(path), path)
    problems = Counter[str]()
    if _is_refcoco(rows[0], path):
        found = _refcoco(rows, path, source.split)
    else:
        found = _table(of_split(rows, source.split, path), path, problems)
    kept = [row for row in (_usable(row, problems) for row in found) if row is not None]
    return ListedPictures(root, kept, path, "rows of a picture, a text and a box", problems)


def _is_refcoco(row: Mapping[str, Any], path: Path) -> bool:
    """Whether boxes are found by their ids: any table may have such a column, but then a box as well."""
    own_box = any(str(name).strip().lower() in BOXES for name in row)
    return bool({"ann_id", "ref_id"} & set(row)) and (
        not own_box or path.with_name("instances.json").is_file()
    )


def _usable(row: Referred, problems: Counter[str]) -> Referred | None:
    """A row without the proposals that have no area; none where its own box has none. Both are counted."""
    if not _has_area(row.box):
        problems["bad_box"] += 1
        return None
    proposals = tuple(box for box in row.proposals if _has_area(box))
    if len(proposals) == len(row.proposals):
        return row
    problems["bad_proposal"] += len(row.proposals) - len(proposals)
    return replace(row, proposals=proposals)


def _has_area(box: Box) -> bool:
    return all(map(math.isfinite, box)) and min(box[2:]) > 0


def _refcoco(rows: Sequence[dict[str, Any]], path: Path, split: str | None) -> list[Referred]:
    """RefCOCO+'s refs as json, or ALBEF's rows with a `ref_id`; instances, refs and detections lie beside.

    The toolkit's `refs(unc).p` is a pickle, which is not opened: write it as refs.json where it is trusted.
    """
    instances = path.with_name("instances.json")
    with reading(instances):
        read = read_table(instances)
        annotations = {row["id"]: row for row in read["annotations"]}
        names = {row["id"]: row["file_name"] for row in read["images"]}
    beside = path.with_name("dets.json")
    proposals: Mapping[str, Any] = read_table(beside) if beside.is_file() else {}
    if "ann_id" not in rows[0]:  # ALBEF's: a row a text, and the box by its ref
        refs = {row["ref_id"]: row for row in check_rows(read_table(path.with_name("refs.json")), path)}
        own = ({"sentences": [{"sent": row["text"]}], "picture": row.get("image")} for row in rows)
        rows = [{**refs[row["ref_id"]], **more} for row, more in zip(rows, own, strict=True)]
    found = []
    for row in of_split(rows, split, path):
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


def _table(rows: Sequence[dict[str, Any]], path: Path, problems: Counter[str]) -> Iterator[Referred]:
    """A table with a picture, a text, a box, and, if there are any, `proposals`."""
    columns = [find_column(rows[0], names, path) for names in (IMAGE_COLUMNS, TEXTS, BOXES)]
    for row in rows:
        picture, text, box = (row.get(column) for column in columns)
        picture, said = ("" if cell is None else str(cell).strip() for cell in (picture, text))
        if not picture or not said or not box:
            problems["no_image" if not picture else "no_text" if not said else "no_box"] += 1
            continue
        yield Referred(
            picture=picture,
            text=said,
            box=_box(box, path),
            proposals=_boxes(row.get("proposals"), path),
            meta=row,
        )


def _boxes(value: Any, path: Path) -> tuple[Box, ...]:
    """A list of boxes, in a csv as JSON; none where nothing is given."""
    try:
        found = json.loads(value) if isinstance(value, str) and value.strip() else value or ()
        return tuple(_box(box, path) for box in found)
    except (TypeError, ValueError):
        raise UserError(
            f"{path} has the proposals {value!r}: write a list of boxes, [[left, top, width, height], ...]"
        ) from None


def _box(value: Any, path: Path) -> Box:
    numbers = value.strip("[]() ").replace(",", " ").split() if isinstance(value, str) else value
    try:
        left, top, width, height = (float(number) for number in numbers[:4])
    except (TypeError, ValueError):
        raise UserError(
            f"{path} has the box {value!r}: write left, top, width and height in pixels"
        ) from None
    return left, top, width, height
