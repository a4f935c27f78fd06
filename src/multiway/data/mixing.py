"""Pictures of a batch mixed in pairs, and their classes with them: mixup and cutmix.

```
 mixup    share * picture + (1 - share) * partner        (Zhang et al. 2017, arXiv:1710.09412)
 cutmix   a box of the picture is the partner's          (Yun et al. 2019, arXiv:1905.04899)
```
The partner of the first picture is the last one, and so on; a batch is mixed as a whole, in one way and with
one share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from multiway.batch import Batch
from multiway.data.loader import Loader
from multiway.data.order import keyed_generator
from multiway.data.sample import Tally

KEY = 0x313A  # sets these draws apart from all others of the same seed


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How batches are mixed; the defaults mix nothing. BEiT and MAE fine-tune with 0.8 and 1.

    Attributes:
        mixup, cutmix: alpha of the Beta distribution that the share is drawn from; 0: not so. With both, half
            of the batches are mixed in each way.
        probability: share in 0..1 of the batches that are mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    @property
    def on(self) -> bool:
        """Whether there is anything to do."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def mixup(
    image: Float[Tensor, "B C H W"], targets: Float[Tensor, "B K"], share: float
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Every picture with its partner shining through; `share` in 0..1 is its own part."""
    return share * image + (1 - share) * image.flip(0), share * targets + (1 - share) * targets.flip(0)


def cutmix(
    image: Float[Tensor, "B C H W"],
    targets: Float[Tensor, "B K"],
    share: float,
    centre: tuple[float, float],
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Every picture with a box of its partner; the classes' shares are those of the areas.

    Args:
        share: of the picture that stays, where the box lies wholly inside.
        centre: of the box, down and across, in 0..1; what would lie outside is cut off.
    """
    height, width = image.shape[-2:]
    bounds = []
    for side, at in ((height, centre[0]), (width, centre[1])):
        half, middle = int(side * (1 - share) ** 0.5) // 2, int(side * at)
        bounds.append((max(middle - half, 0), min(middle + half, side)))
    (top, bottom), (left, right) = bounds
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = image.flip(0)[..., top:bottom, left:right]
    stays = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, stays * targets + (1 - stays) * targets.flip(0)


def mixed(batch: Batch, config: Mixing, classes: int, generator: np.random.Generator) -> Batch:
    """The batch with mixed pictures, and in `targets` each row's shares of the classes."""
    image, targets = batch.need("image"), F.one_hot(batch.need("labels"), classes).float()
    if generator.random() < config.probability:
        cut = config.cutmix > 0 and (config.mixup == 0 or generator.random() < 0.5)
        share = float(generator.beta(*(config.cutmix if cut else config.mixup,) * 2))
        if cut:
            image, targets = cutmix(image, targets, share, (generator.random(), generator.random()))
        else:
            image, targets = mixup(image, targets, share)
    return replace(batch, image=image, targets=targets)


class Mixed:
    """A loader whose batches are mixed; how is a function of (seed, step, rank), as all else of a batch."""

    def __init__(self, loader: Loader, config: Mixing, classes: int, *, seed: int, rank: int = 0):
        self.loader, self.config, self.classes = loader, config, classes
        self.seed, self.rank = seed, rank

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def tally(self) -> Tally:
        """The count of good and bad samples so far."""
        return self.loader.tally

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """As the loader's."""
        for step, batch in enumerate(self.loader.iterate(start_step), start_step):
            generator = keyed_generator(KEY, self.seed, step, self.rank)
            yield mixed(batch, self.config, self.classes, generator)
