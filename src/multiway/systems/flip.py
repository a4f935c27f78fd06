"""FLIP: CLIP that looks at half of each picture, or a quarter (Li et al. 2022, arXiv:2212.00794), figure 2.

```
   picture -> patches, 50 or 75 % of them removed at random
                 |
          the kept ones alone: half the work, so twice the pairs in the same time
                 |
          +-------------+                           +------------------+
          | image tower |                           |   text layers    |  no mask: every token sees all
          +-------------+                           +------------------+
                 | mean of all tokens                        | first token
                 +------------------- ITC -------------------+
```
After pre-training a few steps without removal close the gap to whole pictures, which is what is looked at
ever after (section 3, "Unmasking").
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig
from multiway.systems.mae_heads import mae_vit
from multiway.systems.patch_dropping import Draws, drawn_noise, kept_of, split
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import VisionTransformer, ViTConfig
from multiway.text import TokenizerConfig


def flip_vit(**sizes: Any) -> ViTConfig:
    """FLIP's ViT-B/16 at 224 pixels: fixed positions, none for the class token; `sizes` overrides."""
    config = mae_vit(sincos=True, class_position=False, pool="all", tanh_gelu=True)
    return replace(config, **sizes)


def flip_text(**sizes: Any) -> CLIPTextConfig:
    """FLIP's text layers: BERT's words, 32 of them, which all see each other; `sizes` overrides."""
    config = CLIPTextConfig(
        vocab_size=30522, positions=32, sees="all", reads="first", eps=1e-6, tanh_gelu=True
    )
    return replace(config, **sizes)


def flip_tokenizer(max_length: int = 32) -> TokenizerConfig:
    """BERT's words."""
    return TokenizerConfig(cleaning="none", max_length=max_length)


@dataclass(frozen=True, kw_only=True)
class FLIPConfig(CLIPConfig):
    """FLIP; the defaults are B/16 at 50 %. With CLIP's own towers it is open_clip's `patch_dropout`.

    Attributes:
        drop: share in 0..1 of the patches that a training step does not see; 0 for unmasked tuning.
    """

    system: Literal["flip"] = "flip"  # pyrefly: ignore[bad-override]
    image: ViTConfig | BackboneConfig = field(default_factory=flip_vit)
    text: CLIPTextConfig = field(default_factory=flip_text)
    tokenizer: TokenizerConfig = field(default_factory=flip_tokenizer)
    drop: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        image = self.image
        if not isinstance(image, ViTConfig) or image.frozen_blocks or image.relative_bias != "none":
            raise UserError(
                "FLIP leaves patches out, as a ViT with absolute positions and nothing frozen can: take "
                "such an image tower"
            )
        patches = image.grid[0] * image.grid[1]
        if not 0 <= self.drop < 1 or not kept_of(patches, self.drop):
            raise UserError(
                f"system.drop {self.drop} leaves none of {patches} patches: give 0.5 or 0.75, or 0 to tune"
            )


class FLIP(CLIP):
    """CLIP's loss of pictures that are seen in part.

    Args:
        image_tower: not taken; the tower is a ViT.
    """

    config: FLIPConfig

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """Whatever is learned, it is learned from whole pictures (section 3, "Unmasking")."""
        return replace(self.config, drop=0.0) if task == "retrieval" else super().fine_tuning(task, labels)

    def image_tokens(
        self, batch: Batch, draws: Draws | None, generator: torch.Generator | None
    ) -> Float[Tensor, "B T D"]:
        """The class token and the patches that are kept."""
        if not self.config.drop:
            return super().image_tokens(batch, draws, generator)
        tower, image = self.image_tower, batch.pictures()
        assert isinstance(tower, VisionTransformer)  # the config says so
        noise = drawn_noise(image, tower.config.patch_size, generator, draws)
        return tower.partly(image, split(noise, self.config.drop).kept)
