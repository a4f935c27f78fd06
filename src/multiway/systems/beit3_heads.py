"""BEiT-3's fine-tuning networks: retrieval, VQA, two pictures with one text, and what a picture shows.

```
 retrieval   picture -> class token -> Linear --+-- ITC
             text    -> first token -> Linear --+
 VQA         [picture, question] -> the picture's class token -> pooler -> answers
 NLVR2       [picture a, text], [picture b, text] -> both class tokens of each, side by side -> true or not
 classify    picture -> mean of its patches -> norm -> classes
```
Captions are written in `systems.beit3_captioner`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.objectives.classification import one_of
from multiway.systems.answering import AnswerChoice
from multiway.systems.beit3_config import ClassifierConfig, NLVR2Config, RetrievalConfig, VQAConfig
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.contrast import contrast


class Retrieval(MultiwaySystem):
    """A dual encoder of the same weights (modeling_finetune.py, BEiT3ForRetrieval)."""

    config: RetrievalConfig

    def __init__(self, config: RetrievalConfig, image_tower: nn.Module | None = None):
        super().__init__(config)
        self.image_head = nn.Linear(config.width, config.width, bias=False)
        self.text_head = nn.Linear(config.width, config.width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale))
        self.begin_heads(self.image_head, self.text_head)

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D"], None]:
        """Normalised features; the last layer computes the class token alone."""
        first = self.network(image, read=self.only([0], len(image), self.tokens(image)))[:, 0]
        return F.normalize(self.image_head(first), dim=-1), None

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B D"], Tensor]:
        """Normalised features, and the ids."""
        first = self.network(None, input_ids, attention_mask, read=self.only([0], *input_ids.shape))[:, 0]
        return F.normalize(self.text_head(first), dim=-1), input_ids

    def losses(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """ITC of this rank's rows against all ranks'; gathered rows carry the gradients of all ranks' losses.

        Source: utils.py, `GatherLayer` and `ClipLoss`.
        """
        image, _ = self.image_context(batch.pictures())
        text, _ = self.text_context(*batch.text())
        loss = contrast(self.config, batch, image, text, self.logit_scale)
        return {"loss": loss, "itc": loss}


class AnswerModel(AnswerChoice, MultiwaySystem):
    """Chooses an answer to a question about a picture (BEiT3ForVisualQuestionAnswering)."""

    config: VQAConfig

    def __init__(self, config: VQAConfig, image_tower: nn.Module | None = None):
        super().__init__(config, last_norm=False)
        width = config.width
        self.pooler = nn.ModuleDict({"norm": nn.LayerNorm(width), "dense": nn.Linear(width, width)})
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, config.classes),
        )
        self.begin_heads(self.pooler, self.head)

    def pooled(self, batch: Batch) -> Float[Tensor, "B D"]:
        """What the picture's class token has become."""
        first = self.fuse(batch.need("image"), *batch.text(), read=[0])[:, 0]
        return torch.tanh(self.pooler["dense"](self.pooler["norm"](first)))

    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        return self.head(self.pooled(batch))


class TwoLayers(nn.Module):
    """norm, Linear, norm, GELU, Linear (modeling_finetune.py, TwoLayerMLP)."""

    def __init__(self, width: int, hidden: int, classes: int):
        super().__init__()
        self.norm1, self.dense1 = nn.LayerNorm(width), nn.Linear(width, hidden)
        self.norm2, self.dense2 = nn.LayerNorm(hidden), nn.Linear(hidden, classes)

    def forward(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B C"]:
        return self.dense2(F.gelu(self.norm2(self.dense1(self.norm1(x)))))


class PairModel(MultiwaySystem):
    """Says whether a text is true of two pictures (BEiT3ForVisualReasoning)."""

    config: NLVR2Config

    def __init__(self, config: NLVR2Config, image_tower: nn.Module | None = None):
        super().__init__(config)
        self.head = TwoLayers(4 * config.width, 2 * config.width, config.classes)
        self.begin_heads(self.head, scale=config.head_scale)

    def represented(self, batch: Batch) -> Float[Tensor, "B E"]:
        """Class token and first word with the first picture, and with the second: E = 4 D."""
        image, (ids, mask) = batch.need("image"), batch.text()
        pictures = image.transpose(0, 1).flatten(0, 1)  # all first ones, then all second ones
        word = self.tokens(pictures)
        hidden = self.fuse(pictures, ids.repeat(2, 1), mask.repeat(2, 1), read=[0, word])
        both = torch.cat([hidden[:, 0], hidden[:, word]], dim=1)
        return torch.cat(both.chunk(2), dim=1)

    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        return self.head(self.represented(batch))

    def losses(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        loss = F.cross_entropy(self.predict(batch), batch.need("labels"))
        return {"loss": loss, "nlvr2": loss}


class Classifier(MultiwaySystem):
    """Says what a picture shows, by the picture part alone (BEiT3ForImageClassification)."""

    has_text = False
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, image_tower: nn.Module | None = None):
        super().__init__(config, last_norm=False)
        self.fc_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)
        self.begin_heads(self.head, scale=config.head_scale)

    def pooled(self, batch: Batch) -> Float[Tensor, "B D"]:
        """The normalised mean of the patches."""
        return self.fc_norm(self.look(batch.need("image"))[:, 1:].mean(1))

    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        return self.head(self.pooled(batch))

    def losses(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of `batch.labels`, or of `batch.targets` where pictures are mixed, smoothed."""
        smoothing = self.config.label_smoothing
        loss = one_of(self.predict(batch), batch.labels, batch.targets, smoothing=smoothing)
        return {"loss": loss, "classify": loss}
