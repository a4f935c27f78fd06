"""ALBEF's pre-training for NLVR2: which of two pictures does a text belong to?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.objectives.classification import classify
from multiway.systems.albef_nlvr import NLVRConfig, PairEncoder, doubled
from multiway.systems.base import System
from multiway.systems.bert import BertConfig
from multiway.systems.image_tower import image_feature
from multiway.systems.towers import BackboneConfig
from multiway.systems.two_pictures import share_right
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig

TEMPERATURE = 0.07  # of the draw of companions, fixed in the official code


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """NLVR2's own pre-training (configs/NLVR_pretrain.yaml); fields as in `NLVRConfig`.

    Attributes:
        embed_dim: width of the features by which companions are drawn.
    """

    system: Literal["albef_assignment"] = "albef_assignment"
    image: ViTConfig | BackboneConfig = field(default_factory=ViTConfig)
    text: BertConfig = field(default_factory=lambda: BertConfig(fusion_layers=12))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    embed_dim: int = 256
    null_token: bool = False
    pooling: Literal["cls", "mean"] = "cls"


class Companions(NamedTuple):
    """The random choices of one step of text assignment: rows of each text's pictures, and the answers."""

    first: Int[Tensor, " B"]
    second: Int[Tensor, " B"]
    labels: Int[Tensor, " B"]


class TextAssignment(System):
    """Which of two pictures does a text belong to: the first (0), the second (1), or neither (2)?

    `PairModel` starts from its weights (models/model_pretrain_nlvr.py).
    """

    def __init__(self, config: AssignmentConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.network = PairEncoder(config, nn.Linear(config.text.width, 3), image_tower)
        tower = self.network.image_tower
        if tower.pooled_index is None:
            raise UserError(
                "text assignment finds companions by a picture's class token: take an image tower with one"
            )
        self.image_proj = nn.Linear(tower.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        for unused in (self.image_proj, self.text_proj, self.temperature):  # in the checkpoint, not trained
            unused.requires_grad_(False)
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return doubled(tensors)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """NLVR2 with the same sizes and no teacher, which a flag adds (--system.momentum 0.995)."""
        if task != "nlvr2":
            return super().fine_tuning(task, labels)
        own = self.config
        same = {name: getattr(own, name) for name in ("image", "text", "tokenizer", "null_token", "pooling")}
        return NLVRConfig(**same, momentum=None)

    def losses(
        self,
        batch: Batch,
        state: Any = None,
        draws: Companions | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        loss, logits, labels = self.figure(batch, draws, generator)[-3:]
        return {"loss": loss, "accuracy": share_right(logits, labels)}

    def figure(
        self, batch: Batch, draws: Companions | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Pictures' tokens, features, weights of companions; hidden states, loss, logits and answers."""
        image_embeds = self.network.look(batch.need("image"))
        with torch.no_grad():
            features = image_feature(image_embeds, self.network.image_tower, None, self.image_proj)
            likely = (features @ features.T / TEMPERATURE).softmax(1).fill_diagonal_(0.0)
        chosen = companions(likely, generator) if draws is None else draws
        hidden, logits = self.network(image_embeds[chosen.first], image_embeds[chosen.second], *batch.text())
        loss = classify(logits, chosen.labels)
        return image_embeds, features, likely, hidden, loss, logits, chosen.labels


@torch.no_grad()
def companions(weights: Float[Tensor, "B B"], generator: torch.Generator | None = None) -> Companions:
    """Each text's own picture and another one, in either order, or two others: a third of the texts each.

    Args:
        weights: how likely each picture is to be drawn for a text; 0 for its own.

    Raises:
        UserError: there are no two others.
    """
    if len(weights) < 3:
        raise UserError(
            f"{len(weights)} pairs at a time leave no two other pictures: give micro-batches of at least 3"
        )
    own = torch.arange(len(weights), device=weights.device)
    others = torch.multinomial(weights, 2, generator=generator)
    labels = torch.randint(3, own.shape, generator=generator, device=own.device)
    first = torch.where(labels == 0, own, others[:, 0])
    second = torch.where(labels == 1, own, torch.where(labels == 0, others[:, 0], others[:, 1]))
    return Companions(first, second, labels)
