"""Which patches of a picture are masked: BEiT's blocks, and BEiT v2's, whose number is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from multiway.errors import UserError

TRIES = 10  # places that a block is tried at before the masking stops


@runtime_checkable
class Chance(Protocol):
    """Where random choices come from; python's `random.Random` and a recorded run have the same face."""

    def uniform(self, a: float, b: float) -> float:
        """A number between a and b, which may be in either order."""
        ...

    def randint(self, a: int, b: int) -> int:
        """An integer from a to b, both included."""
        ...

    def choice(self, count: int, size: int) -> NDArray[np.int64]:
        """`size` different ones of the integers below `count`."""
        ...


class Drawn:
    """Choices from a numpy generator."""

    def __init__(self, generator: np.random.Generator):
        self.generator = generator

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.generator.random()

    def randint(self, a: int, b: int) -> int:
        return int(self.generator.integers(a, b + 1))

    def choice(self, count: int, size: int) -> NDArray[np.int64]:
        return self.generator.choice(count, size, replace=False)


@dataclass(frozen=True, kw_only=True)
class BlockMask:
    """Block-wise masking (BEiT, algorithm 1); the defaults are those of 224 pixels in patches of 16.

    Attributes:
        patches: how many are masked, at most.
        smallest, largest: patches of a block; None: as many as are left.
        aspect: smallest height over width of a block; the largest is 1 / aspect.
        exact: what the blocks lack, or have too many, is drawn patch by patch (BEiT v2).
    """

    patches: int = 75
    smallest: int = 16
    largest: int | None = None
    aspect: float = 0.3
    exact: bool = False


def block_mask(config: BlockMask, grid: tuple[int, int], chance: Chance) -> NDArray[np.bool_]:
    """`[h, w]`, True where masked. Source: unilm beit and beit2, masking_generator.py.

    Blocks of random area and aspect are put at random places until enough patches are masked, or until one
    finds no place that adds a patch and not too many; so without `exact` there may be fewer.
    """
    mask = np.zeros(grid, dtype=bool)
    missing = config.patches
    while missing > 0:
        added = _add_block(config, mask, missing, chance)
        if added == 0:
            break
        missing -= added
    if config.exact and missing > 0:
        free = np.flatnonzero(~mask)
        mask.flat[free[chance.choice(len(free), missing)]] = True
    return mask


def _add_block(config: BlockMask, mask: NDArray[np.bool_], missing: int, chance: Chance) -> int:
    """One more block, in place; how many patches it added, 0 if no try found a place."""
    height, width = mask.shape
    most = missing if config.largest is None else min(missing, config.largest)
    log_aspect = math.log(config.aspect)
    for _ in range(TRIES):
        area = chance.uniform(config.smallest, most)
        aspect = math.exp(chance.uniform(log_aspect, -log_aspect))
        # Python rounds halves to even: 2.5 is 2.
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h >= height or w >= width:
            continue
        top, left = chance.randint(0, height - h), chance.randint(0, width - w)
        block = mask[top : top + h, left : left + w]
        new = block.size - int(block.sum())
        if 0 < new <= most:
            block[...] = True
            return new
    return 0


def block_masks(
    config: BlockMask, grid: tuple[int, int], batch: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """`[B, h * w]`, a mask for each picture of a batch.

    Raises:
        UserError: no block fits into the grid, so that most masks would be empty.
    """
    most = min(config.patches, (grid[0] - 1) * (grid[1] - 1))  # of one block
    if not config.exact and (config.patches > grid[0] * grid[1] or config.smallest > most):
        raise UserError(
            f"{config.patches} patches in blocks of {config.smallest} or more can't be masked in pictures of "
            f"{grid[0]} x {grid[1]} patches: make system.mask.patches and system.mask.smallest smaller (75 "
            "and 16 are for 14 x 14)"
        )
    chance = Drawn(generator)
    return np.stack([block_mask(config, grid, chance).ravel() for _ in range(batch)])
