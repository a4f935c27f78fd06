"""How pictures become patches, for systems whose image tower is no network of its own."""

from __future__ import annotations

from dataclasses import dataclass

from multiway.data.augment import Fit
from multiway.systems.sizes import check_patches


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A picture and its patches.

    Attributes:
        image_size: pixels, one side or (height, width); multiples of `patch_size`.
        mean, std: of the pictures' channels; the defaults are Inception's, as VLMo has them.
        fit: of pictures of another shape, in evaluation and inference: `data.augment.eval_transform`.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        check_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size
