"""ViLT's fine-tuning networks: one score a pair, questions as a choice among answers, two pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.heads import classifier
from multiway.core.init import init_bert
from multiway.errors import UserError
from multiway.objectives import contrastive, matching
from multiway.systems.answering import AnswerChoice
from multiway.systems.fused import Tokens
from multiway.systems.two_pictures import TwoPictures
from multiway.systems.vilt_config import AnswerConfig, ReasoningConfig, RetrievalConfig
from multiway.systems.vilt_system import OneTower


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of a step of retrieval; None is drawn.

    Attributes:
        false_rows: `[B, F]`, rows of each picture's false texts; -1 for none.
        false_ids, false_mask: `[B, F, T]`, other texts to be given instead.
    """

    false_rows: Tensor | None = None
    false_ids: Tensor | None = None
    false_mask: Tensor | None = None


class Retrieval(OneTower):
    """The own text of a picture against false ones, by one score a pair (objectives.py `compute_irtr`).

    The score takes the place of ITM's logit for "matched", whose weights it starts from.
    """

    has_itm = True
    config: RetrievalConfig

    def __init__(self, config: RetrievalConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.rank_head = nn.Linear(config.image.width, 1)
        init_bert(self.rank_head)

    def match_pairs(
        self, context: Tokens, hidden: Int[Tensor, "P T"], attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        score = self.rank_head(self.read(hidden, attention_mask, context))
        return torch.cat([torch.zeros_like(score), score], dim=1)

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`irtr`: cross-entropy of the own text among itself and the false ones, which the batch has."""
        scores = self.scores(batch, draws or Draws(), generator)
        loss = F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))
        return {"loss": loss, "irtr": loss}

    def scores(
        self, batch: Batch, draws: Draws, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B F"]:
        """Of each picture with its own text, then with the false ones; -inf where there is none.

        A picture becomes patches once for all its texts.
        """
        (ids, mask), rows = batch.text(), draws.false_rows
        if draws.false_ids is not None and draws.false_mask is not None:
            texts = torch.cat([ids[:, None], draws.false_ids], dim=1)
            masks = torch.cat([mask[:, None], draws.false_mask], dim=1)
            absent = torch.zeros(texts.shape[:2], dtype=torch.bool, device=ids.device)
        else:
            own = torch.arange(len(ids), device=ids.device)
            if rows is None:
                alike = contrastive.positives(batch.need("ids"), batch.need("ids"))
                even = torch.zeros_like(alike, dtype=torch.float)
                count = self.config.false_texts
                rows = matching.hard_negatives(even, alike, generator=generator, count=count)
            rows = torch.cat([own[:, None], rows], dim=1)
            texts, masks, absent = ids[rows], mask[rows], rows < 0
        pictures = self.look(batch.need("image"))
        which = torch.arange(len(ids), device=ids.device).repeat_interleave(texts.shape[1])
        logits = self.match_pairs(pictures.select(which), texts.flatten(0, 1), masks.flatten(0, 1))
        return logits[:, 1].view_as(absent).masked_fill(absent, float("-inf"))


class AnswerModel(AnswerChoice, OneTower):
    """Question and picture read together, then one of the answers (objectives.py `compute_vqa`)."""

    config: AnswerConfig

    def __init__(self, config: AnswerConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        if not config.labels:
            raise UserError("vilt_vqa chooses among answers: give system.labels, as fine-tuning does")
        width = config.image.width
        self.classifier = classifier(width, 2 * width, len(config.labels))

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        return self.classifier(self.read(*batch.text(), self.look(batch.need("image"))))


class ReasoningModel(TwoPictures, OneTower):
    """A text read with each of two pictures, then both together: is it true of them (`compute_nlvr2`)?"""

    config: ReasoningConfig

    def __init__(self, config: ReasoningConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        width = config.image.width
        self.classifier = classifier(2 * width, 2 * width, 2)

    def judge(
        self,
        image: Float[Tensor, "B2 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B2 D"], Float[Tensor, "B 2"]]:
        """The vectors of each text with its first picture, then with its second; and logits."""
        parts = [self.look(half, kind=kind) for kind, half in enumerate(image.chunk(2), 1)]
        masks = [part.mask for part in parts if part.mask is not None]
        pictures = Tokens(torch.cat([part.tokens for part in parts]), mask=torch.cat(masks))
        vectors = self.read(input_ids.repeat(2, 1), attention_mask.repeat(2, 1), pictures)
        return vectors, self.classifier(torch.cat(vectors.chunk(2), dim=1))
