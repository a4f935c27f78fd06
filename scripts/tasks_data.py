"""The files that `tasks.py` learns from and is measured on, as a user would write them; each written once."""

from __future__ import annotations

import importlib.util
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from multiway.data import emoji
from multiway.data.dataset import Source
from multiway.data.labelled import LabelledSource
from multiway.data.prompts import ScenePrompts
from multiway.data.questions import Drawn
from multiway.data.referring import Referring
from multiway.data.scene_shards import write_shards
from multiway.data.scenes import Scenes, make_scene
from multiway.recipes.scenes import SIDE
from multiway.text import train_vocabulary

TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark")
WHO, GROUP, TONE = "who drew it?", "which group is it in?", "which skin tone is it?"
EASY_SHAPES = {"circle", "rectangle", "triangle"}
EASY_COLOURS = {"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"}
HELD_OUT = 5  # one name of so many
Part = Literal["train", "test", "style"]
PARTS: tuple[Part, ...] = ("train", "test", "style")
#: What is trained on; what is measured on, by its name.
Sources = tuple[LabelledSource, dict[str, LabelledSource]]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Samples that are drawn; of what there is, `most` (None: all)."""

    scenes: int = 12_000
    questions: int = 16_000
    classes: int = 5_000
    test: int = 1_000
    most: int | None = None


class Missing(Exception):
    """What a row needs is not on this machine."""


class Files:
    """All under one folder."""

    def __init__(self, folder: Path, sizes: Sizes):
        self.folder, self.sizes = folder, sizes

    def scenes(self) -> str:
        """Shards of scenes with captions."""
        folder = self.folder / "scenes"
        if not (folder / "whole").exists():
            write_shards(folder, self.sizes.scenes, seed=11, image_size=SIDE)
            (folder / "whole").touch()
        return str(folder)

    def vocabulary(self) -> Path:
        """vocab.txt of the words that captions and training questions have."""
        path = self.folder / "vocab.txt"
        if not path.exists():
            texts = [make_scene(11, i).caption for i in range(2000)]
            for sources in (self.scene_questions, self.easy_questions, self.drawing_questions):
                try:
                    file = Path(sources()[0].path)
                except Missing:
                    continue
                rows = map(json.loads, file.read_text().splitlines())
                texts += [f"{row['question']} {row['answer']}" for row in rows]
            train_vocabulary(texts, size=600).save(self.folder)
        return path

    # --- what the rows of the table are learned from and measured on

    def scene_questions(self) -> Sources:
        """Drawn scenes, a question each."""

        def rows(folder: Path, count: int, seed: int) -> Iterator[Row]:
            drawn = Drawn(Scenes(count, seed, SIDE))
            for i in range(count):
                drawn.image(i).save(folder / f"{i}.png")
                asked = drawn.row(i)
                yield {"image": f"{i}.png", "question": asked.question, "answer": asked.answers[0]}

        train = self._table("scene-questions", lambda f: rows(f, self.sizes.questions, 41))
        return train, {"": self._table("scene-questions-test", lambda f: rows(f, self.sizes.test, 42))}

    def phrases(self) -> Source:
        """Drawn scenes, each with the phrase of one thing in it; its box is not told."""

        def rows(folder: Path) -> Iterator[Row]:
            drawn = Referring(LabelledSource(path=f"scenes:{self.sizes.classes}:46"))
            for i in range(len(drawn)):
                drawn.image(i).resize((SIDE, SIDE)).save(folder / f"{i}.png")
                yield {"image": f"{i}.png", "text": drawn.texts(i)[0]}

        table = self._table("phrases", rows)
        return Source(path=table.path, images=table.images)

    def scene_classes(self) -> Sources:
        """Drawn scenes of things of one kind, of 64 kinds."""

        def rows(folder: Path, count: int, seed: int) -> Iterator[Row]:
            drawn = ScenePrompts("classify", count, seed, SIDE)
            for i in range(count):
                drawn.image(i).save(folder / f"{i}.png")
                yield {"image": f"{i}.png", "label": drawn.texts(i)[0].split("\t")[1]}

        train = self._table("scene-classes", lambda f: rows(f, self.sizes.classes, 43))
        return train, {"": self._table("scene-classes-test", lambda f: rows(f, self.sizes.test, 44))}

    def easy_questions(self) -> Sources:
        """easy-vqa's questions."""

        def rows(split: str) -> Iterator[Row]:
            for question, answer, number in easy_vqa(split):
                yield {"image": f"{number}.png", "question": question, "answer": answer}

        return self._easy("questions", rows)

    def easy_classes(self) -> Sources:
        """easy-vqa's pictures by colour and shape, which its questions and answers tell."""

        def rows(split: str) -> Iterator[Row]:
            known: dict[int, set[str]] = {}
            for question, answer, number in easy_vqa(split):
                if question.startswith("what"):  # of the only shape in the picture
                    known.setdefault(number, set()).update(question.rstrip("?").split(), [answer])
            for number, words in sorted(known.items()):
                colour, shape = words & EASY_COLOURS, words & EASY_SHAPES
                if colour and shape:
                    yield {"image": f"{number}.png", "label": " ".join([*colour, *shape])}

        return self._easy("classes", rows)

    def drawing_questions(self) -> Sources:
        """Who drew a bundled drawing, its group, and a person's skin tone."""

        def rows(part: Part, *questions: str) -> Iterator[Row]:
            for image, meta in self._drawings(part):
                answers = {WHO: meta["vendor"], GROUP: meta["group"].replace("-", " ")}
                if meta["group"] == "people-body":
                    answers[TONE] = TONES[meta["tone"] or 0]
                for question, answer in answers.items():
                    if question in questions:
                        yield {"image": image, "question": question, "answer": answer}

        asked = {"hand": WHO, "group": GROUP, "skin tone": TONE}
        images = self.folder / "drawings"
        train = self._table("drawing-questions", lambda f: rows("train", *asked.values()), images)
        return train, {
            name: self._table(
                f"drawing-{name}-test".replace(" ", "-"), lambda f, q=q: rows("test", q), images
            )
            for name, q in asked.items()
        }

    def drawing_groups(self) -> Sources:
        """Groups of bundled drawings: of new names, and by a hand that training never saw."""

        def rows(part: Part) -> Iterator[Row]:
            for image, meta in self._drawings(part):
                yield {"image": image, "label": meta["group"]}

        train, new, style = (
            self._table(f"drawing-groups-{part}", lambda f, p=part: rows(p), self.folder / "drawings")
            for part in PARTS
        )
        return train, {"new names": new, "an unseen hand": style}

    def _easy(self, kind: str, rows: Callable[[str], Iterable[Row]]) -> Sources:
        root = easy_vqa_folder()
        train, test = (
            self._table(
                f"easy-{kind}-{split}", lambda f, s=split, n=most: islice(rows(s), n), root / split / "images"
            )
            for split, most in (("train", None), ("test", 2 * self.sizes.test))
        )
        return train, {"": test}

    def _drawings(self, part: Part) -> Iterator[tuple[str, Row]]:
        """(file, what is known) of the protocol's `style`, or of its `train`, whose names are cut in two."""
        split, folder = emoji.open_split("style" if part == "style" else "train"), self.folder / "drawings"
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(len(split)):
            meta = split.meta(i)
            name = meta["label"].split(":")[0]  # what follows is a skin tone or a colour of hair
            if part == "style" or (zlib.crc32(name.encode()) % HELD_OUT == 0) == (part == "test"):
                file = folder / f"{split.key(i)}.png"
                if not file.exists():
                    file.write_bytes(split.image(i))
                yield file.name, meta

    def _table(
        self, name: str, rows: Callable[[Path], Iterable[Row]], images: Path | None = None
    ) -> LabelledSource:
        """A jsonl of rows; their pictures lie in `images`, or are drawn into a folder of its name."""
        images, path = images or self.folder / name, self.folder / f"{name}.jsonl"
        if not path.exists():
            images.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) for row in islice(rows(images), self.sizes.most)]
            path.write_text("\n".join(lines) + "\n")
        return LabelledSource(path=str(path), images=str(images))


def easy_vqa_folder() -> Path:
    """The data of the package easy-vqa.

    Raises:
        Missing: it is not installed.
    """
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise Missing("pip install --no-deps easy-vqa")
    return Path(spec.origin).parent / "data"


def easy_vqa(split: str) -> list[tuple[str, str, int]]:
    """Question, answer and number of the picture."""
    return json.loads((easy_vqa_folder() / split / "questions.json").read_text())
