"""ALBEF for two pictures with one text: NLVR2.

```
              false/true              every fusion layer twice:
                  |                       layer 2k      looks at the first picture
    +--------------------------+          layer 2k + 1  looks at the second picture
    | fusion layers x12        |<--+--+   with keys and values by the same linear map
    +--------------------------+   |  |
    | text layers x6           |   |  second picture's tokens
    +--------------------------+   first picture's tokens
                text
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.attention import CrossAttention
from multiway.core.block import Context
from multiway.core.pooling import pool_text
from multiway.errors import UserError
from multiway.objectives.classification import classify
from multiway.systems.bert import BertConfig
from multiway.systems.distilled import (
    Distilled,
    DistilledConfig,
    DistillState,
    Reader,
    ReaderConfig,
    from_albef,
)
from multiway.systems.two_pictures import TwoPictures, one_after_the_other, share_right
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class NLVRConfig(DistilledConfig):
    """NLVR2 (configs/NLVR.yaml).

    Attributes:
        text: its fusion layers are doubled: a pair of layers looks at one picture each.
    """

    system: Literal["albef_nlvr2"] = "albef_nlvr2"
    text: BertConfig = field(default_factory=lambda: BertConfig(fusion_layers=12))
    tokenizer: TokenizerConfig = field(default_factory=lambda: TokenizerConfig(max_length=60))


class PairEncoder(Reader):
    """A text that looks at two pictures in turn, and a head: what the teacher is a copy of.

    Every fusion layer is there twice. The first of a pair looks at the first picture, the other one at the
    second; keys and values of a pair are one linear map. Source: models/model_nlvr.py.
    """

    def __init__(self, config: ReaderConfig, head: nn.Module, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        crosses = self._crosses()
        if len(crosses) % 2:
            raise UserError(
                f"system.text.fusion_layers is {len(crosses)}: two of them look at a picture each, give an "
                "even number"
            )
        for first, second in zip(crosses[::2], crosses[1::2], strict=True):
            del second.key_value
            second.__dict__["key_value"] = first.key_value  # not registered: it is the other's
        self.head = head

    def _crosses(self) -> list[CrossAttention]:
        return [block.cross for block in self.text.fusion if block.cross is not None]

    def forward(
        self,
        first: Float[Tensor, "B N C"],
        second: Float[Tensor, "B N C"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B K"]]:
        """Hidden states and logits, from two pictures' tokens a text."""
        pictures = first, second
        layers = (cross.context(pictures[i % 2]) for i, cross in enumerate(self._crosses()))
        hidden = self.text(input_ids, attention_mask)
        hidden = self.text.fuse(hidden, attention_mask, Context(tuple(layers)))
        return hidden, self.head(pool_text(hidden, attention_mask, self.pooling))


class PairModel(TwoPictures, Distilled[PairEncoder]):
    """Is a text true of two pictures? With a momentum teacher (models/model_nlvr.py)."""

    def __init__(self, config: NLVRConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, width = config, config.text.width
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.put(PairEncoder(config, head, image_tower))

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return doubled(tensors)

    def judge(
        self,
        image: Float[Tensor, "B2 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B 2"]]:
        return self.network(*self.network.look(image).chunk(2), input_ids, attention_mask)

    def losses(
        self,
        batch: Batch,
        state: DistillState[PairEncoder] | None = None,
        draws: Any = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy; with a teacher its predictions are targets too."""
        logits, labels, teacher = self.predict(batch), batch.need("labels"), None
        if state is not None and state.network is not None:
            with torch.no_grad():
                first, second = state.network.look(one_after_the_other(batch.need("image"))).chunk(2)
                teacher = state.network(first, second, *batch.text())[1]
        alpha = 0.0 if state is None else state.alpha
        loss = classify(logits, labels, teacher_logits=teacher, alpha=alpha)
        return {"loss": loss, "accuracy": share_right(logits, labels)}


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An ALBEF's tensors by the names of a `network`; each fusion layer becomes a pair (Pretrain_nlvr.py)."""
    found: dict[str, Tensor] = {}
    renamed = from_albef(tensors)
    if renamed is tensors:
        return tensors
    for name, tensor in renamed.items():
        if name.startswith(("network.image_proj", "network.text_proj")):
            found[name.removeprefix("network.")] = tensor
        layer = re.match(r"(network\.text\.fusion)\.(\d+)\.(.*)", name)
        names = [f"{layer[1]}.{2 * int(layer[2]) + i}.{layer[3]}" for i in (0, 1)] if layer else [name]
        found |= dict.fromkeys(names, tensor)
    return found
