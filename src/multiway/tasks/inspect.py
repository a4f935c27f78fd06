"""What a source holds, what of it can't be used, what it shares with another, and how it looks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from multiway.bootstrap.duplicates import Marks, earlier_twins
from multiway.data.colours import Colours
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledSource
from multiway.data.pages import figure, write_page
from multiway.data.referring import Referring
from multiway.data.sample import BadSample, Sample, Tally
from multiway.data.unlabelled import UNKNOWN
from multiway.errors import UserError
from multiway.tasks.task import TASKS


@runtime_checkable
class Looked(Protocol):
    """What can be looked at: `data.Dataset`, or the samples of any task."""

    @property
    def problems(self) -> Any: ...
    def __len__(self) -> int: ...
    def key(self, i: int) -> str: ...
    def texts(self, i: int) -> list[str]: ...
    def image(self, i: int) -> Any: ...
    def source(self, i: int) -> str: ...
    def meta(self, i: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Look:
    """A look at a source: the count of good and bad samples read, and what the good ones hold.

    Attributes:
        sizes: (width, height) of each picture in pixels. texts: the texts of each.
        first: the first few samples. colours: of the (first) pictures.
        keys: of the good samples. marks: what their (first) pictures look like, where that was asked for.
        labels: class -> samples, where the samples have one.
    """

    tally: Tally
    sizes: list[tuple[int, int]]
    texts: list[list[str]]
    first: list[Sample]
    keys: list[str] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    colours: Colours = field(default_factory=Colours)


def open_source(source: Source, task: str | None = None, label: str | None = None) -> Looked:
    """The samples of a source: pairs, or data of a task.

    Args:
        label: the column of the class.

    Raises:
        UserError: there is no such task, or the source is missing or of unknown layout.
    """
    if task is None or (task in TASKS and TASKS[task].pairs):
        return Dataset(source)
    named = LabelledSource(path=source.path, images=source.images, label=label, split=source.split)
    if task == "grounding":  # nothing is fine-tuned for it, so that it is none of those tasks
        return Referring(named)
    if task not in TASKS:
        raise UserError(f"there is no task {task!r}: choose from {', '.join((*TASKS, 'grounding'))}")
    try:
        return TASKS[task].open((named,), (), None)
    except UserError:  # a test split, whose labels are kept back; if it is not, the sentence is the same
        return TASKS[task].open((named,), (), None, unlabelled=True)


def look(dataset: Looked, *, read: int = 0, show: int = 0, mark: bool = False) -> Look:
    """Read `read` samples spread evenly over the dataset (0: all), and keep the first `show` good ones.

    Args:
        mark: also note what the pictures look like, for `shared`.
    """
    seen = Look(Tally(found=dataset.problems, total=len(dataset)), [], [], [])
    for i in spread(len(dataset), read):
        try:
            texts = dataset.texts(i)
            pictures = dataset.image(i)
            about = dataset.meta(i)
        except BadSample as bad:
            seen.tally.add(i, bad.reason)
            continue
        seen.tally.add(i)
        picture = pictures if isinstance(pictures, Image.Image) else pictures[0]
        name = _label(dataset, i)
        if name is not None:
            seen.labels[name] = seen.labels.get(name, 0) + 1
        seen.sizes.append(picture.size)
        seen.colours.add(picture)
        seen.texts.append(texts)
        seen.keys.append(dataset.key(i))
        if mark:
            seen.marks.append(Marks.of([picture]))
        if len(seen.first) < show:
            named = {"key": dataset.key(i), "source": dataset.source(i)}
            seen.first.append(Sample(image=picture, texts=texts, meta=about, **named))
    return seen


def spread(count: int, read: int) -> list[int]:
    """`read` numbers of `count`, evenly; all for 0."""
    taken = min(read, count) if read > 0 else count
    return [k * count // taken for k in range(taken)]


def shared(looked: Look, others: Sequence[Look]) -> list[tuple[str, str]]:
    """(picture, its near-duplicate) by keys: within a source, or in `others` where those are given."""
    if others:
        marks = Marks.join([mark for other in others for mark in other.marks] + looked.marks)
        keys = [key for other in others for key in other.keys] + looked.keys
        free = len(keys) - len(looked.keys)
        twins = earlier_twins(marks, free=free)
        return [(keys[i], keys[j]) for i, j in twins.items() if j < free]
    return [(looked.keys[i], looked.keys[j]) for i, j in earlier_twins(Marks.join(looked.marks)).items()]


def write_contact_sheet(dataset: Looked, path: Path, title: str, *, count: int = 120) -> None:
    """Pictures spread evenly over a source with their texts and class, in one HTML file."""
    parts = [f"<p>{min(count, len(dataset)):,} of {len(dataset):,}</p><div class=pairs>"]
    for i in spread(len(dataset), count):
        try:
            pictures, texts = dataset.image(i), dataset.texts(i)
        except BadSample as bad:
            parts.append(f"<figure><figcaption class=dropped>{html.escape(str(bad))}</figcaption></figure>")
            continue
        shown = [pictures] if isinstance(pictures, Image.Image) else [*pictures]
        name = _label(dataset, i)
        lines = [html.escape(text) for text in texts]
        lines += [f"<b>{html.escape(name)}</b>"] if name is not None and name not in texts else []
        parts.append(figure(shown, lines, dataset.key(i)))
    write_page(path, title, [*parts, "</div>"])


def _label(dataset: Any, i: int) -> str | None:
    """The name of a sample's class, where it has one."""
    if not (hasattr(dataset, "label") and hasattr(dataset, "labels")) or dataset.label(i) == UNKNOWN:
        return None
    return str(dataset.labels[dataset.label(i)])
