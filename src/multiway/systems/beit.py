"""BEiT and BEiT v2: which visual token was here? (Bao et al. 2021, arXiv:2106.08254; Peng et al. 2022)

```
         picture ------------------------> visual tokenizer (frozen: a dVAE, or VQ-KD)
            |                                      |
   patches, 75 of 196 masked in blocks           tokens
            |                                      |
     +-------------+                               |
     | ViT, first  |-- patches of layer 9 --+      |
     |   layers    |                        |      |
     +-------------+                  +-----------+|
     | ViT, last   |-- [CLS] ---------| 2 layers  ||     aggregation: BEiT v2 alone. The class token
     |   layers    |                  +-----------+|     has to carry what these patches lack.
     +-------------+                        |      |
            | head                          | head |     the same head, or one of its own
           MIM  <----- masked patches ---- MIM <---+
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.gather import mean_over_ranks
from multiway.core.init import init_beit, rescale_residual
from multiway.data.patch_masks import block_masks
from multiway.objectives import masked_image
from multiway.systems.beit_aggregation import Aggregation
from multiway.systems.beit_config import BEiTConfig, ClassifierConfig
from multiway.systems.teacher import FrozenState
from multiway.systems.visual_tokens import PredictsTokens
from multiway.systems.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random choices and targets of a step.

    Attributes:
        mask: patches that are hidden. tokens: of all patches; None: asked of the state's tokenizer.
    """

    mask: Bool[Tensor, "B N"] | None = None
    tokens: Int[Tensor, "B N"] | None = None


class Hidden(NamedTuple):
    """Normalised hidden states: of the last layer, and of the aggregation's last where there is one."""

    last: Float[Tensor, "B T D"]
    aggregated: Float[Tensor, "B T D"] | None


class BEiT(PredictsTokens):
    """A ViT that reads pictures with holes, and a head that says which visual tokens are in them.

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    has_text = False
    parts = {
        "vision": ("image_tower.", "mask_token", "head.", "aggregation."),
        "text": (),
        "interaction": (),
    }
    image_tower: VisionTransformer

    def __init__(self, config: BEiTConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, image = config, config.image
        self.image_tower = VisionTransformer(image)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, image.width))
        self.head = nn.Linear(image.width, config.codes)
        init_beit(self)
        positions = None if image.sincos else self.image_tower.positions
        for token in (self.image_tower.cls_token, self.mask_token, positions):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)
        rescale_residual(self.image_tower.blocks)
        self.aggregation = None
        if config.early_layer is not None:
            self.aggregation = Aggregation(
                image,
                early_layer=config.early_layer,
                layers=config.aggregation_layers,
                codes=None if config.shared_head else config.codes,
            )
        self.image_size, self.image_mean, self.image_std = image.image_size, image.mean, image.std

    def hidden(self, image: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B N"] | None = None) -> Hidden:
        """Hidden states of pictures, the masked patches replaced before the first layer."""
        tower, early = self.image_tower, self.config.early_layer
        x = tower.embed(image, mask, self.mask_token)
        if self.aggregation is None or early is None:
            return Hidden(tower.norm(tower.layers(x)), None)
        middle = tower.layers(x, 0, early)
        last = tower.layers(middle, early)
        again, own = self.aggregation(last, middle, tower.biases()), self.aggregation.norm
        return Hidden(tower.norm(last), tower.norm(again) if own is None else own(again))

    def losses(
        self,
        batch: Batch,
        state: FrozenState,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`mim`, with aggregation `mim_cls`; and `accuracy`, the share of tokens that are guessed right."""
        draws, image = draws or Draws(), batch.pictures()
        mask = self.draw_mask(image, generator) if draws.mask is None else draws.mask
        tokens = self.visual_tokens(image, state) if draws.tokens is None else draws.tokens
        target = tokens[mask]
        count = None
        if self.config.normalisation == "global":
            count = mean_over_ranks(mask.sum().float())

        hidden = self.hidden(image, mask)
        logits = self.head(hidden.last[:, 1:][mask])
        out = {"mim": masked_image.mim(logits, target, count=count)}
        if hidden.aggregated is not None and self.aggregation is not None:
            head = self.aggregation.head or self.head
            again = head(hidden.aggregated[:, 1:][mask])
            out["mim_cls"] = masked_image.mim(again, target, count=count)
        loss = torch.stack(list(out.values())).sum()
        return {"loss": loss, **out, "accuracy": masked_image.accuracy(logits, target)}

    def draw_mask(
        self, image: Float[Tensor, "B 3 H W"], generator: torch.Generator | None
    ) -> Bool[Tensor, "B N"]:
        """A mask for each picture, drawn by numpy from one number of `generator`."""
        device = image.device if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        masks = block_masks(self.config.mask, self.config.image.grid, len(image), np.random.default_rng(seed))
        return torch.from_numpy(masks).to(image.device)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task != "classify":
            return super().fine_tuning(task, labels)
        return ClassifierConfig.of(self.config, labels)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not class token and positions either; mask token and relative positions do (`no_weight_decay`)."""
        return super().decays(name, parameter) and not name.endswith(("cls_token", ".positions"))

    def layer_of(self, name: str) -> tuple[int, int]:
        return self.image_tower.layer_of(name), self.config.image.depth
