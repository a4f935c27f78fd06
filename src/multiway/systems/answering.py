"""What networks share that answer questions about pictures; those whose answers are classes.

Answers that are written or ranked are in `systems.writing`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.generation import Generated, GenerationConfig
from multiway.systems.answer_tree import Candidates
from multiway.systems.base import Picture, System

Inference = Literal["rank", "generate", "classify"]


class Reply(NamedTuple):
    """An answer and how sure the model is of it, 0 to 1: among the answers that it compared."""

    text: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are to be answered.

    Attributes:
        inference: rank, generate or classify; None: what the model does by itself.
        answers: the list to rank; None: the model's own, `config.labels`.
        k: answers that are ranked to their end, after their first token. n: answers to return.
        config: how answers are generated; None: beam 3, 10 tokens.
    """

    inference: Inference | None = None
    answers: Sequence[str] | Candidates | None = None
    k: int = 128
    n: int = 1
    config: GenerationConfig | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or self.n < 1:
            raise UserError(f"k is {self.k} and n is {self.n}: give 1 or more of both")
        if isinstance(self.answers, str):
            raise UserError(f"answers is one text, {self.answers!r}: give a list of texts")


BY_ITSELF = Asking()


def paired(
    system: System, images: Picture | Sequence[Picture], questions: str | Sequence[str]
) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Prepared pictures, and token ids and mask of as many questions.

    Raises:
        UserError: numbers of pictures and questions differ, or the model has no tokenizer.
    """
    image, (ids, mask) = system.prepare(images), system.tokenize(questions)
    if len(image) != len(ids):
        raise UserError(f"answer got {len(image)} pictures, {len(ids)} questions: give as many of both")
    return image, ids, mask


class Answering(System, ABC):
    """A network that answers questions.

    Attributes:
        inferences: how it can find an answer, the official way first.
        genome_weight: weight of an answer of Visual Genome in training; VQA v2 has its annotators' share.
    """

    inferences: tuple[Inference, ...] = ()
    genome_weight = 1.0

    @abstractmethod
    def reply(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
        asking: Asking = BY_ITSELF,
    ) -> list[list[Reply]]:
        """The best answers of each pair of picture and question, the best first.

        Raises:
            UserError: the model can't answer so.
        """

    def answer_ids(self, answers: Sequence[str]) -> tuple[Int[Tensor, "A T"], Int[Tensor, "A T"]]:
        """Token ids of answers to write, a start token before and an end token behind, and their mask."""
        return self.tokenize(answers)

    @torch.inference_mode()
    def replies(
        self,
        images: Picture | Sequence[Picture],
        questions: str | Sequence[str],
        asking: Asking = BY_ITSELF,
    ) -> list[list[Reply]]:
        """As `reply`, of pictures and questions as a user has them.

        Raises:
            UserError: numbers of pictures and questions differ, or the model has no tokenizer.
        """
        return self.reply(*paired(self, images, questions), asking)

    def answer(
        self,
        images: Picture | Sequence[Picture],
        questions: str | Sequence[str],
        **options: Any,
    ) -> list[str]:
        """The best answer of each pair of picture and question; options are those of `Asking`."""
        return [best[0].text for best in self.replies(images, questions, Asking(**options))]

    def way(self, inference: Inference | None, default: Inference) -> Inference:
        """The way of inference that is asked for.

        Raises:
            UserError: the model has not learned it.
        """
        if inference is not None and inference not in self.inferences:
            known = " or ".join(self.inferences)
            raise UserError(f"{type(self).__name__} can't answer by {inference}: choose {known}")
        return inference or default


class AnswerChoice(Answering):
    """Answers are classes: `config.labels`, row by row of the head."""

    inferences = ("classify",)

    def losses(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of every answer, summed over answers, mean over questions.

        `batch.targets` is the share of agreement with each answer; without it, `batch.labels` names one.
        """
        logits, targets = self.predict(batch), batch.targets
        if targets is None:
            targets = F.one_hot(batch.need("labels"), logits.shape[1]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, targets) * logits.shape[1]
        return {"loss": loss, "vqa": loss}

    def reply(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
        asking: Asking = BY_ITSELF,
    ) -> list[list[Reply]]:
        """The likeliest answers; every class has a probability of its own (they are trained one by one)."""
        self.way(asking.inference, "classify")
        if asking.answers is not None:
            raise UserError(f"{type(self).__name__} chooses among its own answers: leave the list out")
        if not self.config.labels:
            raise UserError("this model knows no names of its answers: fine-tune it with labels")
        logits = self.predict(Batch(image=image, input_ids=input_ids, attention_mask=attention_mask))
        best = logits.float().sigmoid().topk(min(asking.n, logits.shape[1]), dim=1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[Reply(self.config.labels[i], p) for i, p in zip(*row, strict=True)] for row in rows]


def written(decode: Callable[[list[list[int]]], list[str]], found: Generated) -> list[list[Reply]]:
    """What a search found as texts, each with its probability."""
    rows = zip(found.sequences, found.logprobs, strict=True)
    return [
        [Reply(text, math.exp(p)) for text, p in zip(decode(texts), sums, strict=True)]
        for texts, sums in rows
    ]
