"""Frozen models whose outputs are targets: an image tower's features, a tokenizer's visual tokens."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.errors import UserError

M = TypeVar("M", bound=nn.Module)
Size = int | tuple[int, int]

#: What a module must tell so that its features can be regressed.
TOWER = ("width", "pooled_index", "image_size", "image_mean", "image_std")


@runtime_checkable
class VisualTokenizer(Protocol):
    """What turns pictures into visual tokens: VQ-KD, or a dVAE.

    Attributes:
        image_size: pixels that it wants. codes: how many different tokens there are.
    """

    image_size: Size
    codes: int

    def visual_tokens(self, image: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """The token of each patch, row by row; pictures are in 0..1."""
        ...


def pair(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def frozen(module: M) -> M:
    """The module in eval mode, never trained."""
    return module.eval().requires_grad_(False)


def tokenizer_of(model: nn.Module, codes: int, image_size: Size, grid: tuple[int, int]) -> nn.Module:
    """`model` as the frozen tokenizer of a system with a head for `codes` tokens and `grid` patches.

    Raises:
        UserError: it is no tokenizer, or has other tokens than the head, or not one for each patch.
    """
    kind, given = type(model).__name__, cast(Any, model)
    if not isinstance(given, VisualTokenizer) or not isinstance(given.codes, int):
        raise UserError(f"{kind} gives no visual tokens: take a VQ-KD or a dVAE")
    if given.codes != codes:
        raise UserError(f"{kind} has {given.codes} tokens: set system.codes, now {codes}, to it")
    if hasattr(given, "take_grid"):
        given.take_grid(grid)
    with torch.no_grad():
        found = given.visual_tokens(torch.zeros(1, 3, *pair(image_size))).shape[1]
    if found != grid[0] * grid[1]:
        raise UserError(
            f"{kind} gives {found} tokens a picture, and the model has {grid[0]} x {grid[1]} patches: make "
            "them equal"
        )
    return frozen(model)


def pixels(
    image: Float[Tensor, "B 3 H W"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "B 3 H W"]:
    """A normalised picture as it was before: in 0..1."""
    return (image * _channels(std, image) + _channels(mean, image)).clamp(0, 1)


def normalised(
    image: Float[Tensor, "B 3 H W"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "B 3 H W"]:
    """A picture in 0..1 as a tower wants it."""
    return (image - _channels(mean, image)) / _channels(std, image)


def sized(image: Float[Tensor, "B 3 H W"], size: Size) -> Float[Tensor, "B 3 h w"]:
    """A picture in 0..1 at the size that another model wants."""
    if tuple(image.shape[-2:]) == pair(size):
        return image
    return F.interpolate(image, size=pair(size), mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 1
    )


def _channels(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]


class Teacher(nn.Module):
    """A frozen image tower; its features of patches, projected where its system projects the class token.

    That is what BEiT v2 takes of CLIP; of a tower without a class token the features are taken as they are.

    Args:
        tower: `[B, 3, H, W]` to `[B, N, D]`, with what `TOWER` names. proj: D to E.
        image_size: pixels that it shall see; None: its own.

    Raises:
        UserError: the module lacks something of `TOWER`.
    """

    def __init__(self, tower: nn.Module, proj: nn.Module | None = None, image_size: Size | None = None):
        super().__init__()
        for name in TOWER:
            if not hasattr(tower, name):
                raise UserError(
                    f"the teacher {type(tower).__name__} has no {name}: a teacher maps pictures to [B, N, D] "
                    f"and has {', '.join(TOWER)}"
                )
        self.tower, self.proj, self.image_size = tower, proj, image_size
        frozen(self)

    @classmethod
    def of(cls, model: Any, image_size: Size | None = None) -> Teacher:
        """From a system, by its image tower and its ITC projection, or from a tower of one's own.

        BEiT-3 has no tower: its picture part serves as one, and its head for retrieval as the projection.
        """
        if hasattr(model, "picture_part"):
            return cls(model.picture_part(), getattr(model, "image_head", None), image_size)
        tower = getattr(model, "image_tower", model)
        proj = getattr(getattr(model, "encoders", model), "image_proj", None)
        return cls(tower, proj if getattr(tower, "pooled_index", None) == 0 else None, image_size)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Float[Tensor, "B N E"]:
        """Features of the patches of a picture in 0..1, interpolated where its own grid is another one."""
        tower: Any = self.tower
        image = sized(image, self.image_size or tower.image_size)
        height, width = image.shape[-2:]
        tokens = tower(normalised(image, tower.image_mean, tower.image_std))
        if tower.pooled_index is not None or _has_class_token(tower):
            tokens = tokens[:, 1:]
        if self.proj is not None:
            tokens = self.proj(tokens)
        down = round((tokens.shape[1] * height / width) ** 0.5)
        own = (down, tokens.shape[1] // down)
        if own == grid:
            return tokens
        maps = rearrange(tokens, "b (h w) d -> b d h w", h=own[0])
        maps = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
        return rearrange(maps, "b d h w -> b (h w) d")


class FrozenState(nn.Module):
    """A training state with a frozen model whose outputs are targets.

    The model moves with the state, but no checkpoint holds it: a run finds it where its `init` says.
    """

    def __init__(self, model: nn.Module | None):
        super().__init__()
        self._model = () if model is None else (model,)  # in a tuple it is no submodule

    @property
    def model(self) -> Any:
        """The frozen model, or None."""
        return self._model[0] if self._model else None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for model in self._model:
            model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _has_class_token(tower: nn.Module) -> bool:
    return getattr(tower, "cls_token", None) is not None
