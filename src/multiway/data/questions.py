"""Questions about pictures with the answers that people gave: VQA v2, Visual Genome, tables, drawn ones."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import scenes
from multiway.data.labelled import LabelledSource
from multiway.data.listed import ListedPictures
from multiway.data.numbered import NumberedPictures, Pictured
from multiway.data.sample import sound
from multiway.data.scene_questions import ask
from multiway.data.tables import (
    IMAGE_COLUMNS,
    TABLES,
    check_rows,
    find_column,
    listed,
    of_split,
    picture_folder,
    read_lines,
    read_table,
    reading,
    refuse_split,
)
from multiway.data.unlabelled import OR_PREDICT, find_label
from multiway.errors import UserError

QUESTIONS, ANSWERS = ("question", "text"), ("answer", "answers", "label")
NUMBERS = ("question_id", "qa_id", "id")


@dataclass(frozen=True)
class Asked:
    """A question about a picture.

    Attributes:
        answers: as given, one an annotator; none where they are not known.
        number: its id in the benchmark's upload format.
        genome: whether it is of Visual Genome, whose answers have a weight of their own.
        meta: the table's row.
    """

    picture: str
    question: str
    answers: tuple[str, ...]
    number: int | str
    genome: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


class Questions(NumberedPictures[LabelledSource, Pictured]):
    """Random access to questions about pictures."""

    labels: tuple[str, ...] = ()

    def __init__(
        self,
        sources: Sequence[LabelledSource] | LabelledSource,
        *,
        min_side: int | None = None,
        unlabelled: bool = False,
    ):
        """Open the sources and read all questions.

        Args:
            min_side: as in `Dataset`.
            unlabelled: questions whose answers are not known are samples too.

        Raises:
            UserError: a source is missing or of unknown layout, or has no question with an answer.
        """
        super().__init__(sources, partial(_open, unlabelled=unlabelled), min_side=min_side)

    def asked(self, i: int) -> Asked:
        """Question `i` with all that is known of it."""
        return self.row(i)

    def texts(self, i: int) -> list[str]:
        """The question itself."""
        return sound([self.asked(i).question])


def _listed(root: Path, rows: Iterable[Asked], where: Path, unlabelled: bool) -> ListedPictures[Asked]:
    problems, kept = Counter[str](), list[Asked]()
    for row in rows:
        known, asks = any(answer.strip() for answer in row.answers), row.question.strip()
        if row.picture and asks and (known or unlabelled):
            kept.append(row if known else replace(row, answers=()))
        else:
            problems["no_image" if not row.picture else "no_question" if not asks else "no_answer"] += 1
    wanted = f"rows of a picture, a question and its answer, {OR_PREDICT}"
    return ListedPictures(root, kept, where, wanted, problems)


class Drawn:
    """`n` drawn scenes with a question each, whose answer is certain."""

    def __init__(self, world: scenes.Scenes):
        self.world, self.problems = world, Counter[str]()

    def __len__(self) -> int:
        return len(self.world)

    def key(self, i: int) -> str:
        return self.world.key(i)

    def row(self, i: int) -> Asked:
        question, answer = ask(self.world.seed, i)
        return Asked(self.key(i), question, (answer,), i)

    def image(self, i: int) -> Image.Image:
        return self.world.image(i)


def _open(source: LabelledSource, *, unlabelled: bool) -> Pictured:
    path = Path(source.path)
    if source.path.startswith("scenes:"):
        refuse_split(source.split, path)
        return Drawn(scenes.parse(source.path))
    if path.is_dir():
        if not (path / "questions.json").is_file():
            raise UserError(f"{path} holds no questions.json: name a file of questions.")
        path = path / "questions.json"
    rows = read_table(path)
    if isinstance(rows, dict) and "questions" in rows:
        return _vqa_v2(rows, path, source, unlabelled)
    if isinstance(rows, list) and rows and isinstance(rows[0], list):
        refuse_split(source.split, path)
        return _easy_vqa(rows, path, source, unlabelled)
    rows = of_split(check_rows(rows, path), source.split, path)
    root = picture_folder(path, source.images)
    if "qas" in rows[0]:
        return _listed(root, _visual_genome(rows, root), path, unlabelled)
    return _listed(root, _table(rows, path, source.label, unlabelled), path, unlabelled)


def _vqa_v2(
    found: Mapping[str, Any], path: Path, source: LabelledSource, unlabelled: bool
) -> ListedPictures[Asked]:
    """The file of questions; that of answers lies beside it, except for the test splits."""
    root = picture_folder(path, source.images)
    part = str(found.get("data_subtype", "")).replace("test-dev", "test")  # whose pictures it asks about
    beside = path.with_name(path.name.replace("OpenEnded_", "").replace("questions", "annotations"))
    answers: dict[int, tuple[str, ...]] = {}
    if beside != path and beside.is_file():
        with reading(beside):
            for row in read_table(beside)["annotations"]:
                answers[row["question_id"]] = tuple(str(a["answer"]) for a in row["answers"])

    def name(row: Mapping[str, Any]) -> str:
        return f"COCO_{part}_{int(row['image_id']):012d}.jpg"

    rows = of_split(check_rows(found["questions"], path), source.split, path)
    folder = _folder(root, (".", part), name(rows[0]))
    numbered = ((row, row["question_id"]) for row in rows)
    asked = (Asked(name(row), str(row["question"]), answers.get(i, ()), i) for row, i in numbered)
    return _listed(root / folder, asked, path, unlabelled)


def _easy_vqa(
    rows: Sequence[Sequence[Any]], path: Path, source: LabelledSource, unlabelled: bool
) -> ListedPictures[Asked]:
    """The package easy-vqa: [question, answer, number of the picture]."""
    root = picture_folder(path, source.images or str(path.parent / "images"))
    asked = (Asked(f"{row[2]}.png", str(row[0]), (str(row[1]),), i) for i, row in enumerate(rows))
    return _listed(root, asked, path, unlabelled)


def _visual_genome(rows: Sequence[Mapping[str, Any]], root: Path) -> Iterator[Asked]:
    """Visual Genome's question_answers.json; its pictures lie in two folders."""
    for row in rows:
        for asked in row["qas"]:
            picture = f"{asked.get('image_id', row.get('id'))}.jpg"
            picture = str(Path(_folder(root, (".", "VG_100K", "VG_100K_2", "image"), picture)) / picture)
            answers = (str(asked["answer"]).rstrip("."),)
            yield Asked(picture, str(asked["question"]), answers, asked["qa_id"], genome=True)


def _table(
    rows: Sequence[dict[str, Any]], path: Path, label: str | None, unlabelled: bool
) -> Iterator[Asked]:
    """ALBEF's and BLIP's json, or any table with a picture, a question, and an answer or several."""
    image, question = (find_column(rows[0], names, path) for names in (IMAGE_COLUMNS, QUESTIONS))
    numbers = find_label(rows[0], None, NUMBERS, path, unlabelled=True)
    answer = find_label(rows[0], label, ANSWERS, path, unlabelled=unlabelled)
    for i, row in enumerate(rows):
        number = None if numbers is None else row.get(numbers)
        yield Asked(
            str(row.get(image) or "").strip(),
            str(row.get(question) or ""),
            () if answer is None else tuple(listed(row.get(answer))),
            i if number in (None, "") else number,
            genome=row.get("dataset") == "vg",
            meta=row,
        )


def _folder(root: Path, folders: Sequence[str], name: str) -> str:
    """The first of these folders under `root` that has the file, else the first."""
    return next((folder for folder in folders if os.path.exists(root / folder / name)), folders[0])


def count_answers(data: Questions, spell: Callable[[str], str]) -> Counter[str]:
    """How often each answer was given, spelled by `spell`; one annotator one vote."""
    found: Counter[str] = Counter()
    for i in range(len(data)):
        found.update(spell(answer) for answer in data.asked(i).answers)
    found.pop("", None)
    return found


def read_answers(path: str | Path) -> tuple[str, ...]:
    """A list of answers: one a line, a json list, a json object whose keys they are (ans2label), or the
    column `answer` of a table (BEiT-3's answer2label.txt too, an object a line).

    Raises:
        UserError: there is no such file, it is damaged, or no answer is in it.
    """
    path = Path(path)
    found = read_table(path) if path.suffix.lower() in TABLES else read_lines(path, "answer")
    with reading(path):
        if path.suffix.lower() not in TABLES and all(line.startswith("{") for line in found):
            found = [json.loads(line) for line in found]
        if isinstance(found, list) and found and isinstance(found[0], dict):
            column = find_column(found[0], ANSWERS, path)
            found = [row[column] for row in found]
        answers = tuple(dict.fromkeys(listed(list(found))))
    if not answers:
        raise UserError(f"{path} lists no answers: write one a line, or a json list")
    return answers
