"""What moves once a step in ALBEF and BLIP, and what they set alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from multiway.core.momentum import FeatureQueue, momentum_copy
from multiway.errors import refuse_negative
from multiway.systems.encoders import Encoders

E = TypeVar("E", bound=Encoders)


@dataclass(frozen=True, kw_only=True)
class MomentumConfig:
    """What ALBEF and BLIP set alike.

    Attributes:
        embed_dim: width of the ITC features.
        temperature: initial value; `temperature_range` clamps it each step; None: never.
        momentum: EMA decay of the momentum model; None: no such model, queue or soft targets, and ITC is
            in-batch, with gradient to both sides.
        queue_size: features kept. alpha: weight of the soft targets, ramped over `alpha_ramp_epochs`.
        itm_weight: 0 leaves ITM out.
        positives: `pair`: only a picture's own text; `ids`: all rows with equal `batch.ids`.
        hard_negatives: of each kind for a pair. hardest: the most similar ones instead of drawn ones.
        negatives: candidates of ITC and ITM from this rank's batch (official) or from all ranks'.
        normalisation: means over this rank's pairs and words (official) or over all ranks'.
        text_pooling: the text feature from [CLS] (official) or from the mean of all tokens.
        match_pooling: likewise, what the ITM head reads.
        null_token: one learned token beside each picture's in cross-attention (`Encoders.context`).
    """

    embed_dim: int = 256
    temperature: float = 0.07
    temperature_range: tuple[float, float] | None = (0.001, 0.5)
    momentum: float | None = 0.995
    queue_size: int = 65536
    alpha: float = 0.4
    alpha_ramp_epochs: int = 1
    itm_weight: float = 1.0
    positives: Literal["pair", "ids"] = "pair"
    hardest: bool = False
    negatives: Literal["local", "global"] = "local"
    normalisation: Literal["rank", "global"] = "rank"
    text_pooling: Literal["cls", "mean"] = "cls"
    match_pooling: Literal["cls", "mean"] = "cls"
    null_token: bool = False
    hard_negatives: int = 1

    def __post_init__(self) -> None:
        refuse_negative("system", queue_size=self.queue_size)


class Ramp(nn.Module):
    """How many steps were taken, and what weight a moving average's soft targets have by then.

    Args:
        ramp_steps: steps over which `alpha` grows linearly from 0 to `alpha_end`; 0: it is that from the
            first on.
    """

    step: Tensor

    def __init__(self, alpha_end: float, ramp_steps: int):
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.alpha_end, self.ramp_steps = alpha_end, ramp_steps

    @property
    def alpha(self) -> Tensor:
        """The weight at this step, 0-d double."""
        step = self.step.cpu().double()
        ramp = torch.ones_like(step) if self.ramp_steps < 1 else (step / self.ramp_steps).clamp(max=1)
        return self.alpha_end * ramp


class MomentumState(Ramp, Generic[E]):
    """What moves once a step: the momentum model, the queue, and how many steps were taken.

    Args:
        encoders: the modules that the momentum model copies, or None to train without one.
    """

    encoders: E | None

    def __init__(
        self, encoders: E | None, queue_size: int, embed_dim: int, alpha_end: float, ramp_steps: int
    ):
        super().__init__(alpha_end, ramp_steps)
        self.encoders = None if encoders is None else momentum_copy(encoders)
        self.queue = FeatureQueue(0 if encoders is None else queue_size, embed_dim)
