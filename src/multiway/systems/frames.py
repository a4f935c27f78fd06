"""Videos for a model of pictures: BLIP's zero-shot video retrieval (eval_retrieval_video.py).

```
   frames --> image tower, each by itself --> projected class tokens --> their mean, normalised: ITC
                        |
              all frames' tokens in a row --> cross-attention --> ITM
```
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.core.block import Context
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.image_tower import projected
from multiway.systems.momentum import MomentumSystem


class OverFrames(System):
    """An ALBEF or BLIP that takes a video for a picture: its frames, one below the other.

    Args:
        frames: how many one picture holds.

    Raises:
        UserError: the model is none of these.
    """

    def __init__(self, model: System, frames: int):
        super().__init__()
        if not isinstance(model, MomentumSystem):
            raise UserError(f"{type(model).__name__} does not look at videos: take an ALBEF or a BLIP")
        self.model, self.frames, self.config = model, frames, model.config
        self.tokenizer, self.has_itm = model.tokenizer, model.has_itm
        self.image_mean, self.image_std = model.image_mean, model.image_std
        height, width = frame_size(model)
        self.image_size = (frames * height, width)

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], Context]:
        encoders, parts = self.model.encoders, (len(image), self.frames)
        pictures = image.unflatten(2, (self.frames, -1)).transpose(1, 2).flatten(0, 1)
        tokens = encoders.image_tower(pictures)
        each = projected(tokens, encoders.image_tower, encoders.pool, encoders.image_proj)
        feature = F.normalize(each.unflatten(0, parts).mean(1), dim=-1)
        return feature, encoders.context(tokens.unflatten(0, parts).flatten(1, 2))

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Tensor]:
        return self.model.text_context(input_ids, attention_mask)

    def match_pairs(
        self, context: Any, hidden: Tensor, attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        return self.model.match_pairs(context, hidden, attention_mask)

    def rerank_score(self, logits: Float[Tensor, "P 2"], cosine: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.model.rerank_score(logits, cosine)


def frame_size(model: System) -> tuple[int, int]:
    """Height and width of the pictures that a model takes."""
    size = model.image_size
    return (size, size) if isinstance(size, int) else size
