"""What all networks share that say whether a text is true of two pictures (NLVR2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.objectives.classification import classify
from multiway.systems.base import System


class TwoPictures(System, ABC):
    """A network with two pictures a text and two classes.

    Attributes:
        labels: the names of the classes.
    """

    labels = ("False", "True")

    @abstractmethod
    def judge(
        self,
        image: Float[Tensor, "B2 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B 2"]]:
        """Hidden states and logits (false, true); `image` holds all first pictures, then all second ones."""

    def losses(
        self, batch: Batch, state: Any = None, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of `batch.labels`, and the share that is right."""
        return classified(self.predict(batch), batch)

    def predict(self, batch: Batch) -> Float[Tensor, "B 2"]:
        return self.judge(one_after_the_other(batch.need("image")), *batch.text())[1]

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        return self.config if task == "nlvr2" else super().fine_tuning(task, labels)


def one_after_the_other(image: Float[Tensor, "B 2 3 H W"]) -> Float[Tensor, "B2 3 H W"]:
    """All first pictures, then all second ones."""
    return torch.cat([image[:, 0], image[:, 1]])


def classified(logits: Float[Tensor, "B K"], batch: Batch) -> dict[str, Tensor]:
    """The losses of a network that classifies, without a teacher."""
    labels = batch.need("labels")
    return {"loss": classify(logits, labels), "accuracy": share_right(logits, labels)}


@torch.no_grad()
def share_right(logits: Float[Tensor, "B K"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Accuracy, 0 to 1."""
    return (logits.argmax(1) == labels).to(logits.dtype).mean()
