"""SimVLM's classifier: the encoder sees a picture, the decoder reads a question and its last token chooses.

Source: section 4.2 of the paper (VQA; SNLI-VE likewise).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.init import init_bert
from multiway.systems.answering import AnswerChoice
from multiway.systems.simvlm import PrefixSystem
from multiway.systems.simvlm_config import VQAConfig


class AnswerModel(AnswerChoice, PrefixSystem):
    """Chooses an answer to a question about a picture."""

    config: VQAConfig

    def __init__(self, config: VQAConfig, image_tower: nn.Module | None = None):
        super().__init__(config)
        self.head = nn.Linear(config.text.width, len(config.labels) or config.classes)
        init_bert(self.head)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task == "vqa":
            return replace(self.config, labels=tuple(labels))
        return super().fine_tuning(task, labels)

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        ids, mask = batch.text()
        context = self.network.context(*self.encode(batch, ids[:, :1], mask[:, :1]))
        hidden = self.network.decode(ids, mask, context)
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return self.head(self.network.decoder_norm(last))
