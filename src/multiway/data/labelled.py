"""Samples with a label: what tasks are fine-tuned and measured on, and pictures with the name of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from multiway.data.augment import Augment
from multiway.data.classes import Listed, open_labelled
from multiway.data.images import decode
from multiway.data.mixing import Mixing
from multiway.data.numbered import Numbered
from multiway.data.unlabelled import UNKNOWN
from multiway.errors import UserError, refuse_negative


@dataclass(frozen=True, kw_only=True)
class LabelledSource:
    """One source of samples with a label.

    Attributes:
        path: for classes: a folder with a folder of pictures a class, a csv, tsv, jsonl or json list, tars
            with .cls or .json, `emoji`. For two pictures: see `two_pictures`.
        images: the folder of the pictures that an annotation file names.
        label: the column or the field of the .json that holds the class; of `emoji`: group or subgroup.
        split: of the emoji protocol (train, combination, style, all); of a table, by its column `split`.
        weight: how often each of its samples is seen in an epoch.
    """

    path: str
    images: str | None = None
    label: str | None = None
    split: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What a fine-tuning learns from and is validated on; pictures are as large as the model takes them.

    Attributes:
        train: sources to learn from. val: sources to validate on.
        augment: what is done to training pictures; the defaults are mild, and change no colour or count.
        mixing: mixup and cutmix, for classes alone.
        max_bad_share: above this share of bad samples a run stops.
        workers: processes that load; 0 loads in the training process.
        seed: of the order and the augmentation.
    """

    train: tuple[LabelledSource, ...]
    val: tuple[LabelledSource, ...] = ()
    augment: Augment = field(
        default_factory=lambda: Augment(crop_scale=None, flip=0.5, rand_n=0, brightness=0.1, contrast=0.1)
    )
    mixing: Mixing = Mixing()
    max_bad_share: float = 0.05
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_negative("data", workers=self.workers, seed=self.seed)


class LabelledPictures(Numbered[LabelledSource, Listed]):
    """Random access to pictures with the name of a class.

    Attributes:
        labels: the names of the classes, in the order of their numbers.
    """

    def __init__(
        self,
        sources: Sequence[LabelledSource] | LabelledSource,
        *,
        labels: Sequence[str] = (),
        min_side: int | None = None,
        unlabelled: bool = False,
    ):
        """Open the sources and read all labels.

        Args:
            labels: the classes that a model knows; none: those of the data, in order.
            min_side: as in `Dataset`.
            unlabelled: pictures without a class are samples too.

        Raises:
            UserError: a source is missing or of unknown layout, holds a class that is not in `labels`, or
                neither it nor `labels` names a class.
        """
        super().__init__(sources, partial(open_labelled, unlabelled=unlabelled))
        self.min_side = min_side
        names = [store.label(i) for store in self._stores for i in range(len(store))]
        self.labels = tuple(labels) or tuple(sorted({*names} - {""}, key=_in_order))
        if not self.labels:
            raise UserError(
                f"Neither {self.sources[0].path} nor the model names a class: give labelled data."
            )
        number = {"": UNKNOWN, **{name: n for n, name in enumerate(self.labels)}}
        unknown = next((name for name in names if name not in number), None)
        if unknown is not None:
            known = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
            raise UserError(
                f"{self.sources[0].path} has the class {unknown!r}, which is none of the model's"
                f" {len(self.labels)} ({known}): evaluate on data with its classes, or fine-tune on these."
            )
        self._numbers = [number[name] for name in names]

    def label(self, i: int) -> int:
        """The number of sample `i`'s class, -1 where it is not known."""
        return self._numbers[i]

    def texts(self, i: int) -> list[str]:
        """The name of sample `i`'s class; none where it is not known."""
        number = self.label(i)
        return [] if number == UNKNOWN else [self.labels[number]]

    def image(self, i: int) -> Image.Image:
        """The picture of sample `i`.

        Raises:
            BadSample: it can't be read or decoded.
        """
        _, store, inside = self._place(i)
        return decode(store.image(inside), min_side=self.min_side)


def _in_order(name: str) -> tuple[int, float, str]:
    """Numbers by their size, before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
