"""Where in a picture is what a text says? Grad-CAM on attention (ALBEF, section 6; Grounding.py).

```
   matching logit --gradient--> cross-attention of one layer [H, T, N]
                                   map * max(gradient, 0), mean over heads, mean over the text's tokens
                                                 |
                                   heat of the patches [down, across]
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from multiway.errors import UserError
from multiway.objectives import alignment
from multiway.systems.base import System
from multiway.systems.looking import Looking
from multiway.systems.vilt_system import OneTower

By = Literal["itm", "itc"]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What pairs of picture and text looked at.

    Attributes:
        heat: `[B, h, w]`, not below 0; of a patch.
        score: what was differentiated: ITM logits `[B, 2]` or ITC logits `[B, B]`.
        attention, gradient: `[B, H, T, N]` of the layer (`itc`: of the image tower's block, T = N).
        by_token: `[B, T, h, w]` the heat of each token; None by `itc`.
    """

    heat: Float[Tensor, "B h w"]
    score: Tensor
    attention: Tensor
    gradient: Tensor
    by_token: Float[Tensor, "B T h w"] | None = None


def gradcam(
    model: System,
    image: Float[Tensor, "B 3 H W"],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    *,
    by: By = "itm",
    layer: int | None = None,
    over_padding: bool = False,
) -> Explained:
    """Heat of each picture's patches for its own text.

    Args:
        by: the matching head and cross-attention, or the contrast and the image tower's class token.
        layer: the number of the layer that cross-attends, or of the tower's block; None: `default_layer`.
        over_padding: the mean over all T tokens, as officially: short texts of a batch are then cooler.

    Raises:
        UserError: the model has no such attention, or no such layer.
    """
    if not isinstance(model, Looking):
        raise UserError(f"{type(model).__name__} has no cross-attention to explain: take an ALBEF or a BLIP")
    image = image.detach().requires_grad_()  # so that maps of frozen layers have a gradient, too
    with torch.enable_grad():
        look = model.match_maps if by == "itm" else model.contrast_maps
        score, maps = look(image, input_ids, attention_mask)
        number = default_layer(model, len(maps), by) if layer is None else layer
        if not 0 <= number < len(maps):
            raise UserError(f"there is no layer {number}: the model has 0 to {len(maps) - 1}")
        own = score[:, 1] if by == "itm" else score.diagonal()
        (gradient,) = torch.autograd.grad(own.sum(), [maps[number]])
    attention, score = maps[number].detach(), score.detach()
    down, across = _grid(model, image)
    heat = (attention * gradient.clamp_min(0))[..., -down * across :].unflatten(-1, (down, across)).mean(1)
    if by == "itc":
        return Explained(heat=heat[:, 0], score=score, attention=attention, gradient=gradient)
    by_token = heat * attention_mask[:, :, None, None]
    counts = attention_mask.shape[1] if over_padding else attention_mask.sum(1)[:, None, None]
    return Explained(
        heat=by_token.sum(1) / counts,
        score=score,
        attention=attention,
        gradient=gradient,
        by_token=by_token,
    )


@torch.no_grad()
def _grid(model: Any, image: Float[Tensor, "B 3 H W"]) -> tuple[int, int]:
    """Patches down and across; of a convolutional tower, what a picture of this shape leaves."""
    if hasattr(model.config.image, "grid"):
        return model.config.image.grid
    tower, (height, width) = model.image_tower, image.shape[-2:]
    places = tower(image[:1]).shape[1] - (tower.pooled_index == 0)
    down = round((places * height / width) ** 0.5)
    return down, places // down


@torch.no_grad()
def carried(
    model: System,
    image: Float[Tensor, "B 3 H W"],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
) -> Float[Tensor, "B T h w"]:
    """To which patches word-patch alignment carries each word: shares that sum to 1 (ViLT, figure 4).

    Zero for [CLS], [SEP] and padding, and on the canvas outside of a picture.

    Raises:
        UserError: the model does not align words with patches.
    """
    if not isinstance(model, OneTower):
        raise UserError(f"{type(model).__name__} does not align words with patches: take a ViLT")
    pictures, length = model.look(image), input_ids.shape[1]
    hidden, words = model.pair(input_ids, attention_mask, pictures), alignment.without_ends(attention_mask)
    assert pictures.mask is not None  # `look` gives one
    own = {
        name: getattr(model.config, name) for name in ("beta", "iterations") if hasattr(model.config, name)
    }
    found = alignment.align(hidden[:, :length], hidden[:, length + 1 :], words, pictures.mask[:, 1:], **own)
    shares = found.transport.plan.transpose(1, 2) * words.sum(1)[:, None, None]
    step = model.config.image.patch_size
    return shares.unflatten(-1, (image.shape[-2] // step, image.shape[-1] // step))


def default_layer(model: System, count: int, by: By) -> int:
    """The layer at two thirds of the way: of ALBEF's twelve, 8 (its third fusion layer), as officially."""
    before = model.config.text.layers if by == "itm" else 0
    return max((before + count) * 2 // 3 - before, 0)


def resize_heat(heat: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Heat of patches as heat of pixels; `size` is (height, width). Bicubic, as officially."""
    return F.interpolate(heat[None, None].float(), size=size, mode="bicubic")[0, 0].cpu().numpy()


def overlay(picture: Image.Image, heat: Float[np.ndarray, "H W"]) -> Image.Image:
    """The picture, darkened where it is cold and reddened where it is hot."""
    share = np.clip(heat / max(float(heat.max()), 1e-12), 0, 1)[..., None]
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    red = np.array([255, 40, 0], np.float32)
    mixed = pixels * (0.35 + 0.65 * share) * (1 - 0.5 * share) + red * 0.5 * share
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
