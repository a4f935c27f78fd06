"""The tasks that a model is fine-tuned for: their data, their measures, and what says which model is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multiway.batch import Batch
from multiway.data.dataset import Dataset
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.data.questions import Questions
from multiway.data.sentences import Sentences
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks import caption, classify, entailment, nlvr2, retrieval, vqa
from multiway.tasks.pretrain import RERANKED

Data = PicturePairs | LabelledPictures | Questions | Sentences
Sources = Sequence[LabelledSource]


def _labels_of_data(data: Data, network: type[System], min_count: int) -> tuple[str, ...]:
    return data.labels


@dataclass(frozen=True)
class Task:
    """A task: its data, its measure, and the figure by which the best model is kept.

    Attributes:
        about: what it is, for `--help`.
        open: sources, the model's labels (none: those of the data) and the least side -> samples; with
            `unlabelled`, those whose label is not known too.
        evaluate: a model and samples -> figures of a validation. measure: the same with controls.
        metric: the figure of a validation that decides which model is best.
        labels: data, the class of the network and the least count -> classes, or answers to choose from.
        complete: a model and samples -> what is added to a batch of them (`Loader`).
        pairs: it learns from pictures with their captions, which a `DataConfig` names.
    """

    about: str
    open: Callable[..., Any]
    evaluate: Callable[..., dict[str, Any]]
    measure: Callable[..., Any]
    metric: str
    labels: Callable[[Any, type[System], int], tuple[str, ...]] = _labels_of_data
    complete: Callable[[System, Any], Callable[[Batch], Batch]] | None = None
    pairs: bool = False


def _open_pairs(
    sources: Sources, labels: tuple[str, ...], min_side: int | None, *, unlabelled: bool = False
) -> PicturePairs:
    return PicturePairs(sources, min_side=min_side, unlabelled=unlabelled)


def _open_classes(
    sources: Sources, labels: tuple[str, ...], min_side: int | None, *, unlabelled: bool = False
) -> LabelledPictures:
    return LabelledPictures(sources, labels=labels, min_side=min_side, unlabelled=unlabelled)


def _open_questions(
    sources: Sources, labels: tuple[str, ...], min_side: int | None, *, unlabelled: bool = False
) -> Questions:
    return Questions(sources, min_side=min_side, unlabelled=unlabelled)


def _open_captions(sources: Sequence[Any], labels: tuple[str, ...], min_side: int | None) -> Dataset:
    return Dataset(sources, min_side=min_side)


def _no_labels(data: Dataset, network: type[System], min_count: int) -> tuple[str, ...]:
    return ()


def _retrieve(system: System, samples: Dataset) -> dict[str, Any]:
    """Both stages, and `r1`: the mean of both ways' R@1, re-ranked where there is a matching head."""
    found = retrieval.evaluate(system, samples, k=RERANKED)
    last = found["itm"] or found["itc"]
    return found | {"r1": (last["tr_r1"] + last["ir_r1"]) / 2}


def _open_sentences(
    sources: Sources, labels: tuple[str, ...], min_side: int | None, *, unlabelled: bool = False
) -> Sentences:
    return Sentences(sources, min_side=min_side, unlabelled=unlabelled)


TASKS: dict[str, Task] = {
    "nlvr2": Task(
        "is a sentence true of two pictures?", _open_pairs, nlvr2.evaluate, nlvr2.measure, "accuracy"
    ),
    "classify": Task(
        "which class is a picture of?", _open_classes, classify.evaluate, classify.measure, "top1"
    ),
    "entailment": Task(
        "is a sentence true of a picture?",
        _open_sentences,
        entailment.evaluate,
        entailment.measure,
        "accuracy",
    ),
    "vqa": Task(
        "what is the answer to a question about a picture?",
        _open_questions,
        vqa.evaluate,
        vqa.measure,
        "accuracy",
        labels=vqa.labels,
        complete=vqa.complete,
    ),
    "retrieval": Task(
        "which texts belong to a picture, and which pictures to a text?",
        _open_captions,
        _retrieve,
        retrieval.measure,
        "r1",
        labels=_no_labels,
        pairs=True,
    ),
    "caption": Task(
        "what does a picture show, in words?",
        _open_captions,
        caption.evaluate,
        caption.measure,
        "cider",
        labels=_no_labels,
        pairs=True,
    ),
}


def task_of(name: str) -> Task:
    """The task called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}: choose from {', '.join(TASKS)}")
    return TASKS[name]


def labels_of(config: Any) -> tuple[str, ...]:
    """The classes that a network's config names; none where its task has fixed ones."""
    return tuple(getattr(config, "labels", ()))
