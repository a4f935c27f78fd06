"""Answers to questions about pictures: pairs of both, and VQA as a choice among known answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.pictures import Picture


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


class AnswerChoice(System):
    """A network whose `predict` gives a logit for each of `config.labels`."""

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

    @torch.inference_mode()
    def answer(
        self, images: Picture | Sequence[Picture], questions: str | Sequence[str], **options: Any
    ) -> list[str]:
        """The likeliest answer of each pair of picture and question.

        Raises:
            UserError: numbers of pictures and questions differ, or the answers' names are not known.
        """
        if not self.config.labels:
            raise UserError("this model knows no names of its answers: fine-tune it with labels")
        image, ids, mask = paired(self, images, questions)
        best = self.predict(Batch(image=image, input_ids=ids, attention_mask=mask)).argmax(1)
        return [self.config.labels[i] for i in best.tolist()]
