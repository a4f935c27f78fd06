"""A picture and a sentence that it makes true, false, or neither: visual entailment (SNLI-VE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from multiway.data import scenes
from multiway.data.images import decode, read_file
from multiway.data.labelled import LabelledSource
from multiway.data.numbered import Keyed, Numbered
from multiway.data.scene_claims import TRUTHS, draw_claim, make_claim
from multiway.data.tables import IMAGE_COLUMNS, check_rows, find_column, picture_folder, read_table
from multiway.errors import UserError

IMAGES = (*IMAGE_COLUMNS, "Flickr30K_ID", "Flickr30kID")
SENTENCES = ("sentence2", "sentence", "hypothesis", "text", "caption")
LABEL_COLUMNS = ("gold_label", "label")


@runtime_checkable
class Store(Keyed, Protocol):
    """An opened source of pictures and sentences."""

    def sentence(self, i: int) -> str: ...
    def label(self, i: int) -> int: ...
    def image(self, i: int) -> Image.Image | bytes: ...


class Sentences(Numbered[LabelledSource, Store]):
    """Random access to pictures with a sentence; `labels` are in the order of ALBEF's official head."""

    labels = TRUTHS

    def __init__(self, sources: Sequence[LabelledSource] | LabelledSource, *, min_side: int | None = None):
        """Open the sources.

        Args:
            min_side: as in `Dataset`.

        Raises:
            UserError: a source is missing or of unknown layout.
        """
        super().__init__(sources, _open)
        self.min_side = min_side

    def label(self, i: int) -> int:
        """0: the picture makes it false, 1: neither, 2: true."""
        _, store, inside = self._place(i)
        return store.label(inside)

    def texts(self, i: int) -> list[str]:
        """The sentence about picture `i`."""
        _, store, inside = self._place(i)
        return [store.sentence(inside)]

    def image(self, i: int) -> Image.Image:
        """Picture `i`.

        Raises:
            BadSample: it can't be read or decoded.
        """
        _, store, inside = self._place(i)
        picture = store.image(inside)
        return decode(picture, min_side=self.min_side) if isinstance(picture, bytes) else picture


class Drawn:
    """`n` drawn scenes, some with a covered half."""

    def __init__(self, world: scenes.Scenes):
        self.world, self.problems = world, Counter[str]()

    def __len__(self) -> int:
        return len(self.world)

    def key(self, i: int) -> str:
        return f"claim_{self.world.seed}_{i:08d}"

    def sentence(self, i: int) -> str:
        return make_claim(self.world.seed, i)[2]

    def label(self, i: int) -> int:
        return TRUTHS.index(make_claim(self.world.seed, i)[3])

    def image(self, i: int) -> Image.Image:
        return draw_claim(self.world.seed, i, self.world.image_size)


class Listed:
    """Pictures and sentences of SNLI-VE's own files, ALBEF's json, or a table."""

    def __init__(self, path: Path, images: str | None, label: str | None):
        self.root, rows = picture_folder(path, images), check_rows(read_table(path), path)
        image, sentence = (find_column(rows[0], names, path) for names in (IMAGES, SENTENCES))
        column = find_column(rows[0], (label,) if label else LABEL_COLUMNS, path)
        self.problems: Counter[str] = Counter()
        self.rows: list[tuple[str, str, int, dict[str, Any]]] = []
        for row in rows:
            name, text = str(row.get(image) or ""), str(row.get(sentence) or "").strip()
            said = str(row.get(column)).strip().lower()
            if said in TRUTHS and name and text:
                if image.lower().startswith("flickr30k") and "." not in name:
                    name = f"{name}.jpg"
                self.rows.append((name, text, TRUTHS.index(said), row))
            else:  # SNLI's "-": annotators did not agree
                self.problems[
                    "no_label" if said not in TRUTHS else "no_image" if not name else "no_text"
                ] += 1
        if not self.rows:
            raise UserError(f"No labelled row in {path}: its label is to be one of {', '.join(TRUTHS)}.")
        if not any((self.root / name).exists() for name, *_ in self.rows[:100]):
            raise UserError(
                f"The pictures of {path} are not under {self.root}: name their folder with `images`."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return self.rows[i][0]

    def sentence(self, i: int) -> str:
        return self.rows[i][1]

    def label(self, i: int) -> int:
        return self.rows[i][2]

    def image(self, i: int) -> bytes:
        return read_file(self.root / self.rows[i][0])

    def meta(self, i: int) -> Mapping[str, Any]:
        return self.rows[i][3]


def _open(source: LabelledSource) -> Store:
    if source.split is not None:
        raise UserError(f"{source.path} has no splits: leave `split` out, or name the file of the split.")
    if source.path.startswith("scenes:"):
        return Drawn(scenes.parse(source.path))
    return Listed(Path(source.path), source.images, source.label)
