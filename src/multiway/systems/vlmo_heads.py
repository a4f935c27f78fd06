"""VLMo's fine-tuning networks: the dual encoder alone, questions as a choice among answers, two pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.heads import classifier
from multiway.errors import UserError
from multiway.systems.answering import AnswerChoice
from multiway.systems.two_pictures import TwoPictures
from multiway.systems.vlmo_config import AnswerConfig, ReasoningConfig, RetrievalConfig
from multiway.systems.vlmo_system import Multiway


class Retrieval(Multiway):
    """Texts and pictures, each alone through its own experts (objectives.py `compute_irtr`)."""

    config: RetrievalConfig

    def __init__(self, config: RetrievalConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.add_projections(config.logit_scale)

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`itc`; there is nothing to draw."""
        image, _ = self.image_context(batch.pictures())
        text, _ = self.text_context(*batch.text())
        loss = self.contrast(image, text, self.logit_scale, batch).loss
        return {"loss": loss, "itc": loss}


class AnswerModel(AnswerChoice, Multiway):
    """Question and picture read together, then one of the answers (objectives.py `compute_vqa`)."""

    config: AnswerConfig

    def __init__(self, config: AnswerConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        if not config.labels:
            raise UserError("vlmo_vqa chooses among answers: give system.labels, as fine-tuning does")
        self.classifier = classifier(config.width, 2 * config.width, len(config.labels))

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        pictures = self.transformer.embed_image(batch.need("image"))
        return self.classifier(self.read(*batch.text(), pictures))


class ReasoningModel(TwoPictures, Multiway):
    """A text read with each of two pictures, then both together: is it true of them (`compute_nlvr2`)?"""

    config: ReasoningConfig

    def __init__(self, config: ReasoningConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.classifier = classifier(2 * config.width, 2 * config.width, 2)

    def judge(
        self,
        image: Float[Tensor, "B2 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B2 D"], Float[Tensor, "B 2"]]:
        """The vectors of each text with its first picture, then with its second; and logits."""
        embed = self.transformer.embed_image
        pictures = torch.cat([embed(half, kind) for kind, half in enumerate(image.chunk(2), 1)])
        vectors = self.read(input_ids.repeat(2, 1), attention_mask.repeat(2, 1), pictures)
        return vectors, self.classifier(torch.cat(vectors.chunk(2), dim=1))
