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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.attention import CrossAttention
from multiway.core.block import Context
from multiway.core.momentum import ema_update, momentum_copy
from multiway.core.pooling import pool_text
from multiway.objectives.classification import classify
from multiway.systems.bert import BertConfig, TextStack
from multiway.systems.encoders import seen
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.two_pictures import TwoPictures, one_after_the_other, share_right
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class NLVRConfig:
    """NLVR2 (configs/NLVR.yaml).

    Attributes:
        text: its fusion layers are doubled: a pair of layers looks at one picture each.
        momentum: EMA decay of the teacher; None: no teacher. alpha: its weight, ramped over
            `alpha_ramp_epochs`.
        null_token, pooling: as in the ALBEF that it starts from (`match_pooling` there).
    """

    system: Literal["albef_nlvr2"] = "albef_nlvr2"
    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=384))
    text: BertConfig = field(default_factory=lambda: BertConfig(fusion_layers=12))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    momentum: float | None = 0.995
    alpha: float = 0.4
    alpha_ramp_epochs: int = 1
    null_token: bool = False
    pooling: Literal["cls", "mean"] = "cls"


@runtime_checkable
class PairConfig(Protocol):
    """What a config says of its `PairEncoder`."""

    @property
    def image(self) -> ViTConfig | BackboneConfig: ...
    @property
    def text(self) -> BertConfig: ...
    @property
    def null_token(self) -> bool: ...
    @property
    def pooling(self) -> Literal["cls", "mean"]: ...


class PairEncoder(nn.Module):
    """A text that looks at two pictures in turn, and a head: what the teacher is a copy of.

    Every fusion layer is there twice. The first of a pair looks at the first picture, the other one at the
    second; keys and values of a pair are one linear map. Source: models/model_nlvr.py.
    """

    def __init__(self, config: PairConfig, head: nn.Module, image_tower: nn.Module | None = None):
        super().__init__()
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        self.text = TextStack(config.text, context_width=tower.width)
        crosses = self._crosses()
        for first, second in zip(crosses[::2], crosses[1::2], strict=True):
            del second.key_value
            second.__dict__["key_value"] = first.key_value  # not registered: it is the other's
        # Tokens of a tower that normalises none are normalised for cross-attention, as in `Encoders`.
        self.image_norm = nn.LayerNorm(tower.width) if tower.pooled_index is None else None
        self.null_token = nn.Parameter(torch.zeros(1, 1, tower.width)) if config.null_token else None
        self.pooling = config.pooling
        self.head = head

    def _crosses(self) -> list[CrossAttention]:
        return [block.cross for block in self.text.fusion if block.cross is not None]

    def look(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        """Pictures as cross-attention sees them."""
        return seen(self.image_tower(image), self.image_norm, self.null_token)

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


class DistillState(nn.Module):
    """What moves once a step of a fine-tuning: the teacher, and the steps that ramp its weight up."""

    network: PairEncoder | None
    step: Tensor

    def __init__(self, network: PairEncoder | None, alpha_end: float, ramp_steps: int):
        super().__init__()
        self.network = None if network is None else momentum_copy(network)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.alpha_end, self.ramp_steps = alpha_end, max(ramp_steps, 1)

    @property
    def alpha(self) -> Tensor:
        """The teacher's weight at this step."""
        return self.alpha_end * (self.step.cpu().double() / self.ramp_steps).clamp(max=1)


class PairModel(TwoPictures):
    """Is a text true of two pictures? With a momentum teacher (models/model_nlvr.py)."""

    def __init__(self, config: NLVRConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, width = config, config.text.width
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.network = PairEncoder(config, head, image_tower)
        tower = self.network.image_tower
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

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
        state: DistillState | None = None,
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

    # As in pre-training: the official forward moves the average first, here that follows the step before.

    def init_state(self, *, steps_per_epoch: int = 1) -> DistillState:
        network = None if self.config.momentum is None else self.network
        ramp = self.config.alpha_ramp_epochs * steps_per_epoch
        return DistillState(network, self.config.alpha, ramp).to(self.device)

    def begin(self, state: DistillState) -> None:
        if state.network is not None and self.config.momentum is not None:
            ema_update(self.network, state.network, self.config.momentum)

    def advance(self, state: DistillState, outputs: Sequence[dict[str, Tensor]]) -> None:
        state.step += 1
        self.begin(state)


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An ALBEF's tensors by the names of a `network`; each fusion layer becomes a pair (Pretrain_nlvr.py)."""
    if not any(name.startswith("encoders.") for name in tensors):
        return tensors
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(("encoders.image_proj", "encoders.text_proj")):
            found[name.removeprefix("encoders.")] = tensor
        name = name.replace("encoders.pool.norm.", "encoders.image_norm.").removeprefix("encoders.")
        layer = re.match(r"text\.fusion\.(\d+)\.(.*)", name)
        names = [f"text.fusion.{2 * int(layer[1]) + i}.{layer[2]}" for i in (0, 1)] if layer else [name]
        found |= {f"network.{name}": tensor for name in names}
    return found
