"""Block-wise masks: how many patches, where, and that the same choices give the same mask."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiway.data.patch_masks import BlockMask, Drawn, block_mask, block_masks
from multiway.errors import UserError


class Scripted:
    """Choices as given, in order."""

    def __init__(self, *values: float):
        self.values = list(values)

    def uniform(self, a: float, b: float) -> float:
        return self.values.pop(0)

    def randint(self, a: int, b: int) -> int:
        value = int(self.values.pop(0))
        assert a <= value <= b
        return value

    def choice(self, count: int, size: int) -> np.ndarray:
        return np.arange(size)


def test_a_block_by_hand() -> None:
    # area 4, aspect e^0: two by two, one down and three across; then a block that overlaps it by two patches.
    mask = block_mask(BlockMask(patches=6, smallest=1), (4, 6), Scripted(4, 0, 1, 3, 4, 0, 2, 3))
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
    ]


def test_halves_are_rounded_to_even_and_whole_sides_are_refused() -> None:
    # sqrt(6.25) is 2.5: two patches, not three. Sixteen is four by four, the whole height: it is not tried at
    # a place, and another area is drawn.
    mask = block_mask(BlockMask(patches=4, smallest=1), (4, 6), Scripted(16, 0, 6.25, 0, 0, 0))
    assert mask[:2, :2].all()
    assert mask.sum() == 4


def test_what_is_missing_is_drawn_patch_by_patch_only_if_exact() -> None:
    # Ten tries in a row that are too large end the masking.
    too_large = [100.0, 0.0] * 10
    assert block_mask(BlockMask(patches=3), (4, 6), Scripted(*too_large)).sum() == 0
    exact = block_mask(BlockMask(patches=3, exact=True), (4, 6), Scripted(*too_large))
    assert exact.flatten().tolist() == [True] * 3 + [False] * 21


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        (BlockMask(), (8, 8)),  # more than there are
        (BlockMask(patches=14), (4, 4)),  # fewer than the smallest block has
        (BlockMask(patches=20, smallest=13), (5, 4)),  # no block is as high or wide as the picture
    ],
)
def test_blocks_that_fit_nowhere_are_refused(config: BlockMask, grid: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"of {grid[0]} x {grid[1]} patches: make system.mask"):
        block_masks(config, grid, 2, np.random.default_rng(0))


@given(st.integers(3, 16), st.integers(3, 16), st.floats(0.05, 0.9), st.booleans(), st.integers(0, 2**32 - 1))
def test_how_many_are_masked(height: int, width: int, share: float, exact: bool, seed: int) -> None:
    count = max(int(height * width * share), 1)
    config = BlockMask(patches=count, smallest=2, exact=exact)
    mask = block_mask(config, (height, width), Drawn(np.random.default_rng(seed)))
    assert mask.shape == (height, width)
    assert mask.sum() == count if exact else mask.sum() <= count


def test_the_official_mask_covers_two_fifths_in_blocks() -> None:
    masks = block_masks(BlockMask(), (14, 14), 200, np.random.default_rng(0)).reshape(200, 14, 14)
    counts = masks.sum((1, 2))
    assert counts.max() == 75
    assert counts.mean() > 74
    # A masked patch's neighbour is masked far more often than 75 / 196 of the time.
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum()
    assert beside > 0.7
    # No place is spared and none is always masked; corners are in few blocks.
    share = masks.mean(0)
    assert 0 < share[0, 0] < share.mean() < share[7, 7] < 0.9


def test_the_same_generator_gives_the_same_masks() -> None:
    first, again = (block_masks(BlockMask(), (14, 14), 3, np.random.default_rng(7)) for _ in range(2))
    assert (first == again).all()
    assert len(np.unique(first, axis=0)) == 3


def test_pythons_random_will_do() -> None:
    class Chance(random.Random):
        def choice(self, count: int, size: int) -> np.ndarray:
            return np.array(self.sample(range(count), size))

    assert block_mask(BlockMask(exact=True), (14, 14), Chance(0)).sum() == 75


@pytest.mark.parametrize("largest", [9, 20])
def test_no_block_is_larger_than_allowed(largest: int) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        first = block_mask(BlockMask(patches=1, smallest=4, largest=largest), (10, 10), Drawn(generator))
        assert first.sum() <= 1
