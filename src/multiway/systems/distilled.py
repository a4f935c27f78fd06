"""What ALBEF's fine-tuning networks share: a text that looks at pictures, and a teacher that follows it.

```
   network ----------------- losses <---- soft targets ---- teacher
      |  its weights' moving average, once a step              ^
      +---------------------------------------------------------+
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.momentum import ema_update, momentum_copy
from multiway.systems.base import System
from multiway.systems.bert import BertConfig, TextStack, check_fusion
from multiway.systems.encoders import seen
from multiway.systems.image_tower import ImageTower
from multiway.systems.momentum_state import Ramp
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class DistilledConfig:
    """What ALBEF's fine-tuning networks set alike.

    Attributes:
        momentum: EMA decay of the teacher; None: no teacher. alpha: its weight, ramped over
            `alpha_ramp_epochs`.
        null_token, pooling: as in the ALBEF that it starts from (`match_pooling` there).
    """

    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=384))
    text: BertConfig = field(default_factory=BertConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    momentum: float | None = 0.995
    alpha: float = 0.4
    alpha_ramp_epochs: int = 1
    null_token: bool = False
    pooling: Literal["cls", "mean"] = "cls"

    def __post_init__(self) -> None:
        check_fusion(self.text)


@runtime_checkable
class ReaderConfig(Protocol):
    """What a config says of its `Reader`."""

    @property
    def image(self) -> ViTConfig | BackboneConfig: ...
    @property
    def text(self) -> BertConfig: ...
    @property
    def null_token(self) -> bool: ...
    @property
    def pooling(self) -> Literal["cls", "mean"]: ...


class Reader(nn.Module):
    """An image tower, and a text stack whose fusion layers look at its tokens."""

    image_tower: ImageTower

    def __init__(self, config: ReaderConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        self.text = TextStack(config.text, context_width=tower.width)
        # Tokens of a tower that normalises none are normalised for cross-attention, as in `Encoders`.
        self.image_norm = nn.LayerNorm(tower.width) if tower.pooled_index is None else None
        self.null_token = nn.Parameter(torch.zeros(1, 1, tower.width)) if config.null_token else None
        self.pooling = config.pooling

    def look(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        """Pictures as cross-attention sees them."""
        return seen(self.image_tower(image), self.image_norm, self.null_token)


ReaderT = TypeVar("ReaderT", bound=Reader)


class DistillState(Ramp, Generic[ReaderT]):
    """What moves once a step of a fine-tuning: the teacher, and the steps that ramp its weight up."""

    network: ReaderT | None

    def __init__(self, network: ReaderT | None, alpha_end: float, ramp_steps: int):
        super().__init__(alpha_end, ramp_steps)
        self.network = None if network is None else momentum_copy(network)


class Distilled(System, Generic[ReaderT]):
    """A fine-tuning network with its own moving average as its teacher."""

    network: ReaderT

    def put(self, network: ReaderT) -> None:
        """Take the network; how pictures are prepared is its tower's."""
        self.network, tower = network, network.image_tower
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    # As in pre-training: the official forward moves the average first, here that follows the step before.

    def init_state(self, *, steps_per_epoch: int = 1) -> DistillState[ReaderT]:
        network = None if self.config.momentum is None else self.network
        ramp = self.config.alpha_ramp_epochs * steps_per_epoch
        return DistillState(network, self.config.alpha, ramp).to(self.device)

    def begin(self, state: DistillState[ReaderT]) -> None:
        if state.network is not None and self.config.momentum is not None:
            ema_update(self.network, state.network, self.config.momentum)

    def advance(self, state: DistillState[ReaderT], outputs: Sequence[dict[str, Tensor]]) -> None:
        state.step += 1
        self.begin(state)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """An ALBEF's tensors under the names of a `network`."""
        return from_albef(tensors)


def from_albef(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An ALBEF's tensors by the names of a `network`; others' as they are."""
    if not any(name.startswith("encoders.") for name in tensors):
        return tensors
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("encoders."):
            name = name.removeprefix("encoders.").replace("pool.norm.", "image_norm.")
            found[f"network.{name}"] = tensor
    return found
