"""A picture and a sentence that it makes true, false, or neither: visual entailment (SNLI-VE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import scenes
from multiway.data.labelled import LabelledSource
from multiway.data.listed import ListedPictures
from multiway.data.numbered import NumberedPictures, Pictured
from multiway.data.sample import sound
from multiway.data.scene_claims import TRUTHS, draw_claim, make_claim
from multiway.data.tables import (
    IMAGE_COLUMNS,
    check_rows,
    find_column,
    of_split,
    picture_folder,
    read_table,
    refuse_split,
)
from multiway.data.unlabelled import OR_PREDICT, UNKNOWN, find_label

IMAGES = (*IMAGE_COLUMNS, "Flickr30K_ID", "Flickr30kID")
SENTENCES = ("sentence2", "sentence", "hypothesis", "text", "caption")
LABEL_COLUMNS = ("gold_label", "label")


@dataclass(frozen=True)
class Said:
    """A sentence about a picture; `label` is its number among `scene_claims.TRUTHS`, -1: not known."""

    picture: str
    sentence: str
    label: int
    meta: Mapping[str, Any] = field(default_factory=dict)


class Sentences(NumberedPictures[LabelledSource, Pictured]):
    """Random access to pictures with a sentence; `labels` are in the order of ALBEF's official head."""

    labels = TRUTHS

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
            unlabelled: sentences whose label is not known are samples too.

        Raises:
            UserError: a source is missing or of unknown layout.
        """
        super().__init__(sources, partial(_open, unlabelled=unlabelled), min_side=min_side)

    def label(self, i: int) -> int:
        """0: the picture makes it false, 1: neither, 2: true; -1: not known."""
        return self.row(i).label

    def picture(self, i: int) -> str:
        """The name of picture `i`, which other sentences may share."""
        return self.row(i).picture

    def texts(self, i: int) -> list[str]:
        """The sentence about picture `i`."""
        return sound([self.row(i).sentence])


class Drawn:
    """`n` drawn scenes, some with a covered half."""

    def __init__(self, world: scenes.Scenes):
        self.world, self.problems = world, Counter[str]()

    def __len__(self) -> int:
        return len(self.world)

    def key(self, i: int) -> str:
        return f"claim_{self.world.seed}_{i:08d}"

    def row(self, i: int) -> Said:
        _, _, sentence, truth = make_claim(self.world.seed, i)
        return Said(self.key(i), sentence, TRUTHS.index(truth))

    def image(self, i: int) -> Image.Image:
        return draw_claim(self.world.seed, i, self.world.image_size)


def _listed(source: LabelledSource, *, unlabelled: bool) -> ListedPictures[Said]:
    """Pictures and sentences of SNLI-VE's own files, ALBEF's json, or a table."""
    path, label = Path(source.path), source.label
    root = picture_folder(path, source.images)
    rows = of_split(check_rows(read_table(path), path), source.split, path)
    image, sentence = (find_column(rows[0], names, path) for names in (IMAGES, SENTENCES))
    column = find_label(rows[0], label, LABEL_COLUMNS, path, unlabelled=unlabelled)
    problems, kept = Counter[str](), list[Said]()
    for row in rows:
        name, text = str(row.get(image) or "").strip(), str(row.get(sentence) or "").strip()
        said = "" if column is None else str(row.get(column)).strip().lower()
        if (said in TRUTHS or unlabelled) and name and text:
            if image.lower().startswith("flickr30k") and "." not in name:
                name = f"{name}.jpg"
            kept.append(Said(name, text, TRUTHS.index(said) if said in TRUTHS else UNKNOWN, row))
        else:  # SNLI's "-": annotators did not agree
            problems["no_label" if said not in TRUTHS else "no_image" if not name else "no_text"] += 1
    wanted = f"rows labelled {', '.join(TRUTHS)}, {OR_PREDICT}"
    return ListedPictures(root, kept, path, wanted, problems)


def _open(source: LabelledSource, *, unlabelled: bool) -> Pictured:
    if source.path.startswith("scenes:"):
        refuse_split(source.split, source.path)
        return Drawn(scenes.parse(source.path))
    return _listed(source, unlabelled=unlabelled)
