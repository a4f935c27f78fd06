"""VQ-KD: visual tokens that know what a teacher knows (BEiT v2, Peng et al. 2022, arXiv:2208.06366), fig. 2.

```
                         picture
              +-------------+-------------+
       +-------------+             +-------------+
       |   encoder   |             |   teacher   |  frozen: CLIP, DINO, any tower
       +-------------+             +-------------+
              | to_code                   |
              z  -- l2 --+                |
                         |                |
     codebook --- nearest code: tokens    |
     (moves by EMA)      |                |
                  straight-through        |
                         |                |
                  +-------------+         |
                  |   decoder   |-- cos --+   reconstruction
                  +-------------+
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.gather import mean_over_ranks
from multiway.core.init import rescale_residual
from multiway.errors import UserError
from multiway.objectives import masked_image
from multiway.systems.base import System
from multiway.systems.teacher import FrozenState, Size, Teacher, normalised, pair, pixels, sized
from multiway.systems.vit import VisionTransformer, ViTConfig
from multiway.systems.vqkd_quantizer import Quantizer

HALF = (0.5, 0.5, 0.5)


def vqkd_vit(**sizes: Any) -> ViTConfig:
    """VQ-KD's encoder: ViT-B/16 at 224 pixels, pictures in -1..1; `sizes` overrides."""
    return replace(ViTConfig(image_size=224, key_bias=False, mean=HALF, std=HALF), **sizes)


@dataclass(frozen=True, kw_only=True)
class VQKDConfig:
    """VQ-KD; the defaults are `vqkd_encoder_base_decoder_3x768x12_clip`.

    Attributes:
        image: the encoder. decoder_layers: of its width.
        codes: K, and their width C. decay: of the codebook. beta: weight of the commitment loss.
        kmeans_iterations: of the codebook's start.
        target_width: width of the teacher's features. teacher_size: pixels that the teacher sees.
        centre: take their mean over the batch from the features. Officially not; but where all of them point
            the same way, as after a ReLU, the mean is nearly all there is to learn for a long time.
        start_after: steps until the codebook starts, in which patches pass as they are. Officially none; but
            k-means of an encoder that tells nothing apart yet finds codes that soon no patch takes any more.
    """

    system: Literal["vqkd"] = "vqkd"
    image: ViTConfig = field(default_factory=vqkd_vit)
    decoder_layers: int = 3
    codes: int = 8192
    code_width: int = 32
    decay: float = 0.99
    beta: float = 1.0
    kmeans_iterations: int = 10
    target_width: int = 512
    teacher_size: Size = 224
    centre: bool = False
    start_after: int = 0


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a step takes from outside.

    Attributes:
        target: the teacher's features; None: asked of the state's teacher.
        first: rows of the batch's B N patches that the codebook starts from; None: drawn.
    """

    target: Float[Tensor, "B N E"] | None = None
    first: Int[Tensor, " K"] | None = None


class State(FrozenState):
    """The teacher, which is no part of the tokenizer, and how many steps were taken."""

    step: Tensor

    def __init__(self, teacher: Teacher | None):
        super().__init__(teacher)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


class VQKD(System):
    """Encoder, quantizer and decoder; as a tokenizer, the first two alone.

    Args:
        image_tower: not taken; the encoder is a ViT.
    """

    has_text = False
    parts = {"vision": ("image_tower.", "to_code.", "decoder.", "to_target."), "text": (), "interaction": ()}
    image_tower: VisionTransformer

    def __init__(self, config: VQKDConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, self.codes = config, config.codes
        encoder, width = config.image, config.image.width
        self.image_tower = VisionTransformer(encoder)
        self.to_code = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_width))
        self.quantizer = Quantizer(
            config.codes, config.code_width, decay=config.decay, iterations=config.kmeans_iterations
        )
        decoder = replace(encoder, image_size=encoder.grid, patch_size=1, channels=config.code_width)
        self.decoder = VisionTransformer(replace(decoder, depth=config.decoder_layers))
        self.to_target = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.target_width)
        )
        rescale_residual(self.image_tower.blocks)
        rescale_residual(self.decoder.blocks)
        for part in (*self.to_code, *self.to_target):
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.image_size, self.image_mean, self.image_std = encoder.image_size, encoder.mean, encoder.std
        self._teacher: tuple[Teacher, ...] = ()  # in a tuple, so that it is no submodule: it is not saved

    def learn_from(self, model: nn.Module) -> None:
        """Take a teacher: a system's image tower, or a tower of one's own (see `systems.teacher.Teacher`).

        Raises:
            UserError: its features are not `target_width` wide, or it takes no pictures of `teacher_size`.
        """
        teacher, size = Teacher.of(model, self.config.teacher_size), self.config.teacher_size
        try:
            found = teacher(torch.zeros(1, 3, *pair(size)), self.config.image.grid)
        except ValueError:  # towers say so of other pictures than their own, or of parts of a patch
            own = cast(Any, teacher.tower).image_size
            raise UserError(
                f"the teacher takes {own} pixels, not {size}: set system.teacher_size {own}"
            ) from None
        if found.shape[-1] != self.config.target_width:
            raise UserError(
                f"the teacher's features are {found.shape[-1]} wide and system.target_width is "
                f"{self.config.target_width}: make it {found.shape[-1]}"
            )
        self._teacher = (teacher,)

    def init_state(self, *, steps_per_epoch: int = 1) -> State:
        return State(self._teacher[0] if self._teacher else None)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        """What the quantizer gets, of a normalised picture; in full precision, as officially."""
        patches = self.image_tower(image)[:, 1:]
        with torch.autocast(image.device.type, enabled=False):
            return self.to_code(patches.float())

    def decode(self, codes: Float[Tensor, "B N C"]) -> Float[Tensor, "B N E"]:
        """The teacher's features, from quantised patches."""
        maps = rearrange(codes, "b (h w) c -> b c h w", h=self.config.image.grid[0])
        return self.to_target(self.decoder(maps)[:, 1:])

    @torch.no_grad()
    def visual_tokens(self, image: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """The token of each patch of pictures in 0..1, which are brought to this one's size.

        Raises:
            UserError: there are no codes yet.
        """
        if not self.quantizer.started:
            raise UserError(
                "this VQ-KD has no codebook yet: train it for longer than system.start_after steps"
            )
        image = normalised(sized(image, self.image_size), self.image_mean, self.image_std)
        return self.quantizer.tokens(self.encode(image))

    def losses(
        self,
        batch: Batch,
        state: State,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`reconstruction` and `commitment`; `usage` and `perplexity` of the codes, in this batch."""
        draws, image = draws or Draws(), batch.pictures()
        target = self.target(image, state) if draws.target is None else draws.target
        if self.config.centre:
            target = target - mean_over_ranks(target.mean((0, 1)))

        # Encoder, nearest codes, decoder.
        z = self.encode(image)
        if self.config.start_after and state.step < self.config.start_after:
            passed = self.decode(F.normalize(z, dim=-1))
            loss = masked_image.cosine_reconstruction(passed.float(), target.float())
            return {"loss": loss, "reconstruction": loss}
        found = self.quantizer(z.flatten(0, 1), first=draws.first, generator=generator)
        codes = masked_image.straight_through(found.z, found.codes).view_as(z)
        reconstruction = masked_image.cosine_reconstruction(self.decode(codes).float(), target.float())
        commitment = self.config.beta * masked_image.commitment(found.z, found.codes)

        return {
            "loss": reconstruction + commitment,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "usage": masked_image.usage(found.counts),
            "perplexity": masked_image.perplexity(found.counts),
            **found.rows(),
        }

    @torch.no_grad()
    def target(self, image: Float[Tensor, "B 3 H W"], state: State) -> Float[Tensor, "B N E"]:
        """The teacher's features of the same normalised pictures.

        Raises:
            UserError: there is no teacher.
        """
        if state.model is None:
            raise UserError("VQ-KD needs a teacher: give --init.teacher a model, or call learn_from")
        return state.model(pixels(image, self.image_mean, self.image_std), self.config.image.grid)

    def advance(self, state: State, outputs: Sequence[dict[str, Tensor]]) -> None:
        """The codebook moves once, by the patches of all micro-batches and ranks."""
        state.step += 1
        self.quantizer.learn(outputs)

    def resize(self, name: str, tensor: Tensor, old_grid: tuple[int, int] | None = None) -> Tensor | None:
        """As `System.resize`; the decoder's grid is the encoder's."""
        if name.startswith("decoder."):
            name = name.replace("decoder.", "image_tower.", 1)
        return super().resize(name, tensor, old_grid)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not class tokens and positions either (modeling_vqkd.py, `no_weight_decay`)."""
        return super().decays(name, parameter) and not name.endswith(("cls_token", "positions"))
