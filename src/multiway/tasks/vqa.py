"""Questions about pictures: ranked, generated or chosen answers, and how far people agree with them.

shuffled   the same with another question's picture: what knows of no picture scores so
majority   always giving the answer that is right most often
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multiway.batch import Batch
from multiway.data.questions import Asked, Questions, count_answers
from multiway.errors import UserError
from multiway.metrics import vqa as metrics
from multiway.metrics.classification import bootstrap, rounded
from multiway.metrics.controls import other
from multiway.systems import NETWORKS
from multiway.systems.answer_tree import Candidates
from multiway.systems.answering import BY_ITSELF, AnswerChoice, Answering, Asking, Inference
from multiway.systems.base import System
from multiway.systems.generalist import Generalist
from multiway.systems.writing import Writing
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.predictions import Measurement, batches, pick
from multiway.tasks.two_stage import Progress, as_array, evaluating, silent
from multiway.tasks.upload import number, write_json


def labels(data: Questions, network: type[System], min_count: int = 1) -> tuple[str, ...]:
    """The answers of training data, the most frequent first: classes, or the list that is ranked.

    Classes are answers as the evaluation compares them, as VLMo's and BEiT-3's; a list keeps their spelling.

    Args:
        network: the class of the network that will answer. min_count: answers given less often are left out.

    Raises:
        UserError: the data has no answers.
    """
    spell = metrics.normalise if issubclass(network, AnswerChoice) else str.strip
    counts = count_answers(data, spell)
    found = sorted((answer for answer, n in counts.items() if n >= min_count), key=lambda a: (-counts[a], a))
    if not found:
        raise UserError(
            f"{data.sources[0].path} has no answer that was given {min_count} times: nothing to learn"
        )
    return tuple(found)


def network_of(base: System, config: Any, inference: Inference | None) -> Any:
    """The config of a network that answers as it shall: `config`, or that of the model as it is.

    Args:
        base: what is fine-tuned. config: of its network for the task. inference: None: as that network does.

    Raises:
        UserError: neither answers so.
    """
    ways = NETWORKS[config.system].network().inferences
    own = base.inferences if isinstance(base, Answering) else ()
    if inference is None or inference in ways:
        return config
    if inference in own:
        return base.config
    known = " or ".join(dict.fromkeys((*ways, *own)))
    raise UserError(f"{type(base).__name__} does not learn to answer by {inference}: choose {known}")


def complete(model: System, data: Questions) -> Callable[[Batch], Batch]:
    """What adds answers to a batch of questions: weighted texts, or a share for each class."""
    model = answering(model)
    return _with_texts(model, data) if "generate" in model.inferences else _with_targets(model, data)


def _with_texts(model: Answering, data: Questions) -> Callable[[Batch], Batch]:
    def add(batch: Batch) -> Batch:
        rows = [_weights(data.asked(i), model.genome_weight) for i in batch.need("ids").tolist()]
        most = max(1, *map(len, rows))
        texts = [text for row in rows for text in [*row, *[""] * (most - len(row))]]
        weights = torch.tensor([[*row.values(), *[0.0] * (most - len(row))] for row in rows])
        ids, mask = (x.cpu().view(len(rows), most, -1) for x in model.answer_ids(texts))
        mask = mask * (weights > 0)[..., None]
        return replace(batch, answer_ids=ids * mask, answer_mask=mask, answer_weights=weights)

    return add


def _weights(asked: Asked, genome: float) -> dict[str, float]:
    """Each answer's share of the annotators (dataset/vqa_dataset.py); one of Visual Genome weighs less.

    What an annotator left blank is no text to learn.
    """
    shares = {text: n / len(asked.answers) for text, n in Counter(asked.answers).items() if text.strip()}
    return dict.fromkeys(shares, genome) if asked.genome else shares


def _with_targets(model: Answering, data: Questions) -> Callable[[Batch], Batch]:
    number = {answer: i for i, answer in enumerate(model.config.labels)}

    def add(batch: Batch) -> Batch:
        targets = torch.zeros(len(batch), len(number))
        for b, i in enumerate(batch.need("ids").tolist()):
            counts = Counter(metrics.normalise(answer) for answer in data.asked(i).answers)
            for answer, count in counts.items():
                if answer in number:
                    targets[b, number[answer]] = metrics.soft_target(count, counts.total())
        return replace(batch, targets=targets)

    return add


def answering(model: System) -> Answering:
    """The model as one that answers questions.

    Raises:
        UserError: it does not.
    """
    if isinstance(model, Generalist):
        raise UserError(f"{type(model).__name__} answers questions as prompts: use `multiway ask`")
    if not isinstance(model, Answering):
        raise UserError(
            f"{type(model).__name__} does not answer questions: fine-tune it with `multiway finetune vqa`"
        )
    return model


@dataclass(frozen=True, kw_only=True)
class Said:
    """A model's answers to the questions that could be used; `probabilities` as the model gives them."""

    numbers: list[int]
    answers: list[str]
    probabilities: list[float]
    skipped: dict[str, int] = field(default_factory=dict)


def say(
    model: System,
    data: Questions,
    *,
    asking: Asking = BY_ITSELF,
    numbers: Sequence[int] | None = None,
    pictures: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Said:
    """The model's answer to every question that can be used.

    Args:
        numbers, pictures: as in `predictions.predict`.

    Raises:
        UserError: no question can be used, or the model can't answer so.
        FloatingPointError: its probabilities are not finite.
    """
    asked = answering(model)
    if isinstance(asked, Writing) and asking.inference != "generate":
        listed = asking.answers or asked.config.labels
        if listed and not isinstance(listed, Candidates):  # a tree once, not with every batch
            asking = replace(asking, answers=asked.candidates(listed))
    skipped: Counter[str] = Counter()
    used: list[int] = []
    said: list[tuple[str, float]] = []
    shown = {"numbers": numbers, "pictures": pictures, "skipped": skipped, "progress": progress}
    with evaluating(model):
        for rows, batch in batches(model, data, batch_size=batch_size, **shown):
            said += [best[0] for best in asked.reply(batch.need("image"), *batch.text(), asking)]
            used += rows
    texts, probabilities = zip(*said, strict=True)
    as_array(torch.tensor(probabilities), "questions")
    return Said(numbers=used, answers=list(texts), probabilities=list(probabilities), skipped=dict(skipped))


def evaluate(model: System, data: Questions, *, batch_size: int = 32) -> dict[str, Any]:
    """Soft accuracy in percent, without controls: what a validation needs.

    Raises:
        UserError: no question can be used, or the model answers none.
    """
    return _scores(say(model, data, batch_size=batch_size), data)


def measure(
    model: System,
    data: Questions,
    *,
    asking: Asking = BY_ITSELF,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """Soft accuracy in percent, beside the controls.

    Args:
        predictions: the file to write in the benchmark's upload format; then answers may be unknown.

    Returns:
        `n`, `accuracy` with its `interval` (bootstrap over pictures), `by_kind` (yes or no, numbers, others),
        `majority`, and under `shuffled` accuracy and interval with other questions' pictures. Without known
        answers `n` alone.

    Raises:
        UserError: no question can be used, no answer is known, or the model can't answer so.
    """
    options: dict[str, Any] = {"asking": asking, "batch_size": batch_size}
    began = time.perf_counter()
    own = say(model, data, progress=progress, **options)
    seconds = time.perf_counter() - began
    if predictions is not None:
        upload(own, data, predictions)
    known = [i for i in own.numbers if data.asked(i).answers]
    if not known:
        if predictions is None:
            raise UserError(
                f"{data.sources[0].path} has no answers to compare with: write the model's with --predictions"
            )
        return Measurement(result={"n": len(own.numbers)}, seconds=seconds, skipped=own.skipped)
    result = _scores(own, data)
    result["majority"] = _majority(data, known)
    order, result["shuffled"] = other(data.asked(i).picture for i in own.numbers), None
    if order is not None:
        dealt = [own.numbers[i] for i in order.tolist()]
        shuffled = say(model, data, numbers=own.numbers, pictures=dealt, progress=progress, **options)
        result["shuffled"] = pick(_scores(shuffled, data), "accuracy")
    return Measurement(result=result, seconds=seconds, skipped=own.skipped, outcomes=_outcomes(own, data))


def upload(said: Said, data: Questions, path: str | Path) -> None:
    """Write answers as the VQA challenge takes them: a list of `question_id` and `answer`."""
    rows = [
        {"question_id": number(data.asked(i).number), "answer": answer}
        for i, answer in zip(said.numbers, said.answers, strict=True)
    ]
    write_json(path, rows)


def _scores(said: Said, data: Questions) -> dict[str, Any]:
    rows = [(a, data.asked(i)) for i, a in zip(said.numbers, said.answers, strict=True)]
    rows = [(answer, asked) for answer, asked in rows if asked.answers]
    right = np.array([metrics.soft_accuracy(answer, asked.answers) for answer, asked in rows])
    kinds = np.array([_kind(asked) for _, asked in rows])
    return {
        "n": len(rows),
        "accuracy": 100 * float(right.mean()),
        "interval": rounded(bootstrap(right, [asked.picture for _, asked in rows])),
        "by_kind": {kind: 100 * float(right[kinds == kind].mean()) for kind in sorted(set(kinds.tolist()))},
    }


def _outcomes(said: Said, data: Questions) -> Outcomes:
    """What became of every question whose answer is known."""
    rows = [(i, answer, data.asked(i)) for i, answer in zip(said.numbers, said.answers, strict=True)]
    rows = [row for row in rows if row[2].answers]
    right = np.array([metrics.soft_accuracy(answer, asked.answers) for _, answer, asked in rows])
    return Outcomes(
        numbers=np.array([i for i, *_ in rows]),
        keys=[data.key(i) for i, *_ in rows],
        columns={"accuracy": right, "n": np.ones(len(rows))},
        main="accuracy",
        groups=[asked.picture for *_, asked in rows],
        score=right,
        wrong=right < 1,
        asked=[asked.question for *_, asked in rows],
        expected=[
            ", ".join(f"{a} {n}" for a, n in Counter(asked.answers).most_common(3)) for *_, asked in rows
        ],
        said=[answer for _, answer, _ in rows],
    )


def by_question(train: Questions, test: Questions) -> float:
    """Percent that is right when each question gets the answer that training most often gave to it, or, where
    it was never asked there, the most frequent of all: a guess that knows no picture.
    """
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in map(train.asked, range(len(train))):
        given[asked.question].update(asked.answers)
    often = count_answers(train, str)
    rows = list(map(test.asked, range(len(test))))
    said = [(given.get(row.question) or often).most_common(1)[0][0] for row in rows]
    right = [metrics.soft_accuracy(answer, row.answers) for answer, row in zip(said, rows, strict=True)]
    return 100 * sum(right) / len(right)


def _kind(asked: Asked) -> str:
    """VQA v2's three kinds of answers, by the most frequent one."""
    answer = Counter(map(metrics.normalise, asked.answers)).most_common(1)[0][0]
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdecimal() else "other"


def _majority(data: Questions, numbers: Sequence[int]) -> float:
    """Percent that one answer to all questions reaches; of the ten that are given most often.

    As they are written: where all annotators agree they are compared so, and elsewhere normalised anyway.
    """
    given = [data.asked(i).answers for i in numbers]
    counts = Counter(answer for answers in given for answer in set(answers))
    shares = (
        np.mean([metrics.soft_accuracy(answer, answers) for answers in given])
        for answer, _ in counts.most_common(10)
    )
    return 100 * float(max(shares))
