"""Answers that are texts: a decoder writes them over a question's states, or compares those of a list.

```
        question --> text stack, which looks at the picture --> states [G, S, D]
                                                                   |  keys and values, once a question
        answers [CLS] red [SEP], [CLS] two dogs [SEP] --> causal decoder --> head for words
```
ALBEF and BLIP answer so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig, generate
from multiway.objectives import language
from multiway.systems.answer_tree import Candidates, tree_losses
from multiway.systems.answering import BY_ITSELF, Answering, Asking, Reply, written
from multiway.systems.decoding import StackDecoding
from multiway.systems.med import Decoder, shift


class Ranking(NamedTuple):
    """How a list of answers was ranked; G questions, K answers kept after their first token.

    `loss` is the cross-entropy of each answer kept, summed over its tokens; `score` orders them.
    """

    best: Int[Tensor, " G"]
    first_logits: Float[Tensor, "G V"]
    first_probability: Float[Tensor, "G A"]
    kept: Int[Tensor, "G K"]
    loss: Float[Tensor, "G K"]
    score: Float[Tensor, "G K"]


class Writing(Answering):
    """Answers are texts: a decoder writes them over a question's states, or compares those of a list."""

    inferences = ("rank", "generate")

    @property
    def smoothing(self) -> float:
        """Share of each target that is spread over all words."""
        return 0.0

    @property
    def first_token_twice(self) -> bool:
        """Whether a rank's score counts the first token twice, as ALBEF's official one."""
        return False

    @property
    @abstractmethod
    def writer(self) -> Decoder:
        """The decoder of answers."""

    @property
    @abstractmethod
    def start_id(self) -> int:
        """The token with which an answer begins."""

    @abstractmethod
    def question(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
    ) -> Float[Tensor, "G S D"]:
        """Hidden states of questions after they have seen their pictures."""

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """It goes on with VQA, its list of answers kept where there is no other."""
        if task != "vqa":
            return super().fine_tuning(task, labels)
        return replace(self.config, labels=labels or self.config.labels)

    def candidates(self, answers: Sequence[str]) -> Candidates:
        """A list of answers, prepared once for many questions."""
        ids, mask = self.answer_ids(answers)
        return Candidates.of(ids, mask, answers)

    def answer_context(self, question: Float[Tensor, "G S D"], attention_mask: Int[Tensor, "G S"]) -> Context:
        """What the decoder looks at: a question's states where it has words."""
        return self.writer.context(question, attention_mask.bool()[:, None, None, :])

    def losses(
        self, batch: Batch, state: Any = None, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the batch's answers by their weights, summed, over the number of questions."""
        ids, mask, owner, weights = batch.answers()
        question = self.question(batch.need("image"), *batch.text())
        context = self.answer_context(question, batch.need("attention_mask"))
        loss = self.loss(context, ids, mask, owner, weights)
        return {"loss": loss, "vqa": loss}

    def answer_losses(
        self, context: Context, input_ids: Int[Tensor, "A T"], attention_mask: Int[Tensor, "A T"]
    ) -> tuple[Float[Tensor, "A T D"], Float[Tensor, " A"]]:
        """Hidden states of answers, and each one's cross-entropy summed over its tokens."""
        ids = torch.cat([torch.full_like(input_ids[:, :1], self.start_id), input_ids[:, 1:]], dim=1)
        hidden = self.writer(ids, attention_mask, context)
        return hidden, summed(self.writer, hidden, ids, attention_mask, smoothing=self.smoothing)

    def loss(
        self,
        context: Context,
        input_ids: Int[Tensor, "A T"],
        attention_mask: Int[Tensor, "A T"],
        owner: Int[Tensor, " A"],
        weights: Float[Tensor, " A"],
    ) -> Float[Tensor, ""]:
        """Sum of weight * cross-entropy over all answers, divided by the number of questions.

        Args:
            owner: the question of each answer. weights: its share of the annotators.
        """
        _, each = self.answer_losses(context.shared_by(owner), input_ids, attention_mask)
        return (weights * each).sum() / len(context)

    def rank(self, context: Context, candidates: Candidates, *, k: int) -> Ranking:
        """The best of A answers for each question: K by their first token, then by their whole loss.

        Source: ALBEF models/model_vqa.py and BLIP models/blip_vqa.py, `rank_answer`.
        """
        start = torch.full((len(context), 1), self.start_id, device=candidates.tokens.device)
        first = self.writer.logits(self.writer(start, torch.ones_like(start), context)[:, 0])
        probability = first.softmax(1)[:, candidates.first]
        best = probability.topk(min(k, len(candidates.path)), dim=1)
        options = {"start_id": self.start_id, "smoothing": self.smoothing}
        loss = tree_losses(self.writer, context, candidates, best.indices, **options)
        score = best.values.log() - loss if self.first_token_twice else -loss
        winner = best.indices.gather(1, score.argmax(1, keepdim=True)).squeeze(1)
        return Ranking(winner, first, probability, best.indices, loss, score)

    def decoding(self, question: Float[Tensor, "G S D"], attention_mask: Int[Tensor, "G S"]) -> Decoding:
        """A generation of answers over G questions."""
        context, writer = self.answer_context(question, attention_mask), self.writer
        return StackDecoding(writer.embed, writer.fusion, writer.logits, context=context)

    def reply(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
        asking: Asking = BY_ITSELF,
    ) -> list[list[Reply]]:
        """The best of a list of answers, or, without one, generated ones."""
        answers, n = asking.answers, asking.n
        if answers is not None and asking.inference == "generate":
            raise UserError(
                "answers of a list are ranked, not generated: leave the list or the inference out"
            )
        if answers is None and asking.inference != "generate":
            answers = self.config.labels or None
        question = self.question(image, input_ids, attention_mask)
        if self.way(asking.inference, "generate" if answers is None else "rank") == "generate":
            return self._written(question, attention_mask, asking)
        if not answers:
            raise UserError("no answers to rank: give a list, or fine-tune a model, which keeps one")
        listed = answers if isinstance(answers, Candidates) else self.candidates(answers)
        context = self.answer_context(question, attention_mask)
        ranking = self.rank(context, listed, k=asking.k)
        best = ranking.score.float().softmax(1).topk(min(n, ranking.score.shape[1]), dim=1)
        numbers = ranking.kept.gather(1, best.indices).tolist()
        rows = zip(numbers, best.values.tolist(), strict=True)
        return [[Reply(listed.texts[i], p) for i, p in zip(*row, strict=True)] for row in rows]

    def _written(
        self, question: Float[Tensor, "G S D"], mask: Int[Tensor, "G S"], asking: Asking
    ) -> list[list[Reply]]:
        assert self.tokenizer is not None  # questions are tokens already
        start = torch.full((len(question), 1), self.start_id, device=question.device)
        decoding = self.decoding(question, mask)
        config = asking.config or GenerationConfig(
            max_length=min(9, decoding.room(1)),
            beams=max(3, asking.n),
            n_best=asking.n,
            length_rule="official",
            eos_id=self.tokenizer.sep_id,
            pad_id=self.tokenizer.pad_id,
        )
        found = generate(decoding, start, torch.ones_like(start), config)
        return written(self.tokenizer.decode, found)


def summed(
    writer: Decoder,
    hidden: Float[Tensor, "A T D"],
    input_ids: Int[Tensor, "A T"],
    attention_mask: Int[Tensor, "A T"],
    *,
    smoothing: float = 0.0,
    teacher_logits: Float[Tensor, "M V"] | None = None,
    alpha: float | Tensor = 0.0,
) -> Float[Tensor, " A"]:
    """Each answer's cross-entropy summed over its tokens; the head is asked where a token follows alone."""
    labels = shift(input_ids, attention_mask)
    known = labels != -100
    logits = writer.logits(hidden[:, :-1][known])
    options = {"smoothing": smoothing, "teacher_logits": teacher_logits, "alpha": alpha}
    each = language.each(logits, labels[known], **options)
    return torch.zeros_like(labels, dtype=each.dtype).masked_scatter(known, each).sum(1)
