"""A fine-tuned network's logits for labelled samples, with their own pictures or with other samples'."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from multiway.batch import Batch
from multiway.data.collate import stacked
from multiway.data.labelled import LabelledPictures
from multiway.data.sample import BadSample
from multiway.data.two_pictures import PairTransform, PicturePairs
from multiway.data.unlabelled import UNKNOWN
from multiway.errors import UserError
from multiway.metrics.classification import majority
from multiway.metrics.controls import other
from multiway.systems.base import System
from multiway.systems.pictures import transform_of
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.two_stage import Progress, as_array, evaluating, silent


@runtime_checkable
class Samples(Protocol):
    """Pictures with a text each, of which a task knows more."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def image(self, i: int) -> Any: ...
    def texts(self, i: int) -> list[str]: ...


@runtime_checkable
class Labelled(Samples, Protocol):
    """Samples with a label: `LabelledPictures`, `PicturePairs` or `Sentences`."""

    def label(self, i: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Logits of the samples that could be used.

    Attributes:
        numbers: which samples these are. labels: their classes; -1 where that is not known.
        skipped: reason -> samples that could not be used.
    """

    numbers: Int[np.ndarray, " N"]
    logits: Float[np.ndarray, "N K"]
    labels: Int[np.ndarray, " N"]
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def right(self) -> np.ndarray:
        """`[N]` bool, where the class with the highest logit is the sample's."""
        return self.logits.argmax(1) == self.labels

    @property
    def known(self) -> Predictions:
        """Those of samples whose class is known."""
        rows = self.labels != UNKNOWN
        return replace(self, numbers=self.numbers[rows], logits=self.logits[rows], labels=self.labels[rows])

    @property
    def choices(self) -> list[tuple[int, int]]:
        """(number of the sample, class with the highest logit) of each."""
        return list(zip(self.numbers.tolist(), self.logits.argmax(1).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What `measure` of a task returns: the numbers, and what it took to get them.

    Attributes:
        outcomes: what became of each sample, for intervals, slices, comparisons and the sheet of errors.
    """

    result: dict[str, Any]
    seconds: float
    skipped: dict[str, int]
    outcomes: Outcomes | None = None

    def sentence(self) -> str:
        """Size, speed and losses in one line."""
        count = self.result["n"]
        line = f"{count:,} samples in {self.seconds:.1f} s ({count / max(self.seconds, 1e-9):.1f} a second)"
        if self.skipped:
            line += "; skipped " + ", ".join(f"{reason} {n:,}" for reason, n in self.skipped.items())
        return line


def predict(
    model: System,
    data: Labelled,
    *,
    numbers: Sequence[int] | None = None,
    pictures: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Predictions:
    """The logits of every sample that can be used.

    Args:
        numbers: the samples to take; None: all.
        pictures: for each of them the sample whose picture it is shown with; None: its own.

    Raises:
        UserError: no sample can be used, or the model predicts no classes.
        FloatingPointError: its logits are not finite.
    """
    skipped: Counter[str] = Counter()
    options = {"numbers": numbers, "pictures": pictures, "skipped": skipped, "progress": progress}
    used: list[int] = []
    logits: list[np.ndarray] = []
    with evaluating(model):
        for rows, batch in batches(model, data, batch_size=batch_size, **options):
            logits.append(as_array(model.predict(batch), "samples"))
            used += rows
    return Predictions(
        numbers=np.array(used),
        logits=np.concatenate(logits),
        labels=np.array([data.label(i) for i in used]),
        skipped=dict(skipped),
    )


def batches(
    model: System,
    data: Samples,
    *,
    batch_size: int,
    skipped: Counter[str],
    numbers: Sequence[int] | None = None,
    pictures: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[list[int], Batch]]:
    """The samples that can be used, in batches as the model takes them, and which these are.

    Args:
        skipped: counts what can't be used, by reason.
        numbers, pictures: as in `predict`.

    Raises:
        UserError: no sample can be used.
    """
    wanted = range(len(data)) if numbers is None else numbers
    shown = wanted if pictures is None else pictures
    single = transform_of(model)
    pair, generator = PairTransform(single), np.random.default_rng(0)  # nothing is drawn in evaluation
    two, reads = isinstance(data, PicturePairs), not isinstance(data, LabelledPictures)
    rows: list[int] = []
    images: list[torch.Tensor] = []
    texts: list[str] = []
    used = 0
    for done, (number, picture_of) in enumerate(zip(wanted, shown, strict=True), 1):
        try:
            picture, text = data.image(picture_of), data.texts(number)[0] if reads else ""
        except BadSample as bad:
            skipped[bad.reason] += 1
        else:
            images.append(pair(picture, "", generator) if two else single(picture))
            rows.append(number)
            texts.append(text)
        if len(rows) == batch_size or (rows and done == len(wanted)):
            ids, mask = model.tokenize(texts) if reads else (None, None)
            image = stacked(images).to(model.device)
            yield rows, Batch(image=image, input_ids=ids, attention_mask=mask)
            progress("samples", done, len(wanted))
            used += len(rows)
            rows, images, texts = [], [], []
    if not used:
        why = ", ".join(f"{reason} {n:,}" for reason, n in skipped.items()) or "it is empty"
        raise UserError(f"no sample of the data can be used ({why}): give pictures with labels")


def predict_own(
    model: System, data: Labelled, *, batch_size: int = 32, progress: Progress = silent
) -> tuple[Predictions, float]:
    """Predictions with each sample's own picture, and the seconds they took."""
    began = time.perf_counter()
    found = predict(model, data, batch_size=batch_size, progress=progress)
    return found, time.perf_counter() - began


def predict_shuffled(
    model: System,
    data: Labelled,
    own: Predictions,
    groups: Iterable[object],
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Predictions | None:
    """Predictions for the samples of `own`, each with the picture of another group; None of one group."""
    order = other(groups)
    if order is None:
        return None
    dealt = own.numbers[order].tolist()
    return predict(
        model, data, numbers=own.numbers.tolist(), pictures=dealt, batch_size=batch_size, progress=progress
    )


def measured(
    model: System,
    data: Any,
    *,
    scores: Callable[[Predictions], dict[str, Any]],
    outcomes: Callable[[Predictions], Outcomes],
    upload: Callable[[Predictions, Any, str | Path], None],
    main: str,
    predictions: str | Path | None,
    batch_size: int,
    progress: Progress,
) -> Measurement:
    """What the `measure` of every task with labels does: own pictures, `majority`, others' under `shuffled`.

    Args:
        scores, outcomes: of predictions whose labels are known. main: the score that has an `interval`.
        upload: writes predictions of all samples to the file `predictions`, where that is given.

    Raises:
        UserError: no sample can be used, the model predicts no classes, or no label is known and no
            predictions are to be written.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    said, seconds = predict_own(model, data, **options)
    if predictions is not None:
        upload(said, data, predictions)
    known = said.known
    if not len(known.numbers):
        return without_labels(said, seconds, predictions)
    found = outcomes(known)
    groups = range(len(found)) if found.groups is None else found.groups
    blind = predict_shuffled(model, data, known, groups, **options)
    result = scores(known) | {"majority": 100 * majority(known.labels)}
    result["shuffled"] = None if blind is None else pick(scores(blind), main)
    return Measurement(result=result, seconds=seconds, skipped=said.skipped, outcomes=found)


def pick(scores: Mapping[str, Any], main: str) -> dict[str, Any]:
    """What is told of a control: its main score and the interval."""
    return {name: scores[name] for name in (main, "interval")}


def without_labels(own: Predictions, seconds: float, written: object | None) -> Measurement:
    """The measurement of samples of which no label is known: their number `n`.

    Args:
        written: the file that the predictions went to.

    Raises:
        UserError: None, so that nothing would come of them.
    """
    if written is None:
        raise UserError(
            "the data has no labels to compare with: write the model's predictions with --predictions"
        )
    return Measurement(result={"n": len(own.numbers)}, seconds=seconds, skipped=own.skipped)
