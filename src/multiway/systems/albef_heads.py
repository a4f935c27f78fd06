"""ALBEF's visual entailment; `albef_vqa.py` answers questions, `albef_nlvr.py` looks at two pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.pooling import pool_text, pooled_positions
from multiway.objectives.classification import classify
from multiway.systems.distilled import Distilled, DistilledConfig, DistillState, Reader
from multiway.systems.two_pictures import share_right
from multiway.text import TokenizerConfig

#: In the order of the official head (dataset/ve_dataset.py).
LABELS: tuple[str, ...] = ("contradiction", "neutral", "entailment")


@dataclass(frozen=True, kw_only=True)
class EntailmentConfig(DistilledConfig):
    """Visual entailment (configs/VE.yaml: without a ramp).

    Attributes:
        labels: the names of the classes, row by row of the head.
    """

    system: Literal["albef_ve"] = "albef_ve"
    tokenizer: TokenizerConfig = field(default_factory=lambda: TokenizerConfig(max_length=60))
    alpha_ramp_epochs: int = 0
    labels: tuple[str, ...] = LABELS


class GroundedClassifier(Reader):
    """A text that looks at a picture, and a head on its first token: what the teacher is a copy of."""

    def __init__(self, config: EntailmentConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        width = config.text.width
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(config.labels)))

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B K"]:
        """Logits."""
        context = self.text.fusion.context(self.look(image))
        read = pooled_positions(attention_mask, self.pooling)
        hidden = self.text(input_ids, attention_mask)
        hidden = self.text.fuse(hidden, attention_mask, context, read=read)
        return self.head(pool_text(hidden, attention_mask, self.pooling))


class EntailmentModel(Distilled[GroundedClassifier]):
    """Does a picture make a sentence true, false, or neither? With a teacher (models/model_ve.py)."""

    config: EntailmentConfig

    def __init__(self, config: EntailmentConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.put(GroundedClassifier(config, image_tower))

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        return self.config if task == "entailment" else super().fine_tuning(task, labels)

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        return self.network(batch.need("image"), *batch.text())

    def losses(
        self,
        batch: Batch,
        state: DistillState[GroundedClassifier] | None = None,
        draws: Any = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy; with a teacher its predictions are targets too."""
        logits, labels, options = self.predict(batch), batch.need("labels"), {}
        if state is not None and state.network is not None:
            with torch.no_grad():
                teacher = state.network(batch.need("image"), *batch.text())
            options = {"teacher_logits": teacher, "alpha": state.alpha}
        return {"loss": classify(logits, labels, **options), "accuracy": share_right(logits, labels)}
