"""Which sample is seen when: a function of (seed, step, rank), so resume and rank split are arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multiway.errors import UserError


def keyed_generator(*key: int) -> np.random.Generator:
    """A random generator that is a function of `key` (non-negative integers) alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


class Order:
    """The order in which the samples of several sources are seen.

    Each source is a stream of passes over its samples, every pass in a new order, and an epoch takes
    `weight * size` samples from each stream. At weight 1 an epoch is one pass: every sample once. At 0.5 two
    epochs are. The epoch's samples are shuffled together; a global batch is a slice of them and rank r takes
    the r-th part.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ):
        """Plan the epochs.

        Args:
            sizes: samples in each source; sample numbers run through the sources one after the other.
            weights: how often each sample of a source is seen in an epoch.
            batch_size: samples a step on each rank.
            drop_last: leave the rest of an epoch that fills no global batch; else it is a smaller last batch.

        Raises:
            UserError: an epoch has fewer samples than a global batch.
        """
        self.sizes = tuple(sizes)
        self.counts = tuple(max(1, round(size * weight)) for size, weight in zip(sizes, weights, strict=True))
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.shuffle = shuffle
        self.epoch_size = sum(self.counts)
        whole, rest = divmod(self.epoch_size, batch_size * world)
        self.steps_per_epoch = whole + (rest > 0 and not drop_last)
        if not self.steps_per_epoch:
            raise UserError(
                f"The data has {self.epoch_size:,} samples an epoch, fewer than one batch of"
                f" {batch_size * world:,}: give more data or a smaller batch size."
            )
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None  # the last one asked for

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample numbers of this rank at `step` (counted from 0 over all epochs), and each one's pass."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        numbers, passes = self.epoch(epoch)
        start = inside * self.batch_size * self.world
        share = np.arange(start, min(start + self.batch_size * self.world, self.epoch_size))
        share = np.array_split(share, self.world)[self.rank]
        return numbers[share], passes[share]

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All sample numbers of an epoch in order, and how often each one's source had been gone through."""
        if self._epoch is None or self._epoch[0] != epoch:
            numbers, passes, start = [], [], 0
            for source, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
                taken, of_pass = self._take(source, size, epoch * count, count)
                numbers.append(start + taken)
                passes.append(of_pass)
                start += size
            shuffled = np.arange(self.epoch_size)
            if self.shuffle:
                keyed_generator(self.seed, 1, epoch).shuffle(shuffled)
            self._epoch = epoch, np.concatenate(numbers)[shuffled], np.concatenate(passes)[shuffled]
        return self._epoch[1], self._epoch[2]

    def _take(self, source: int, size: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` places of a source's stream from `start` on: sample numbers, and their passes."""
        places = np.arange(start, start + count)
        passes, inside = np.divmod(places, size)
        if not self.shuffle:
            return inside, passes
        numbers = np.empty(count, dtype=np.int64)
        for number in range(passes[0], passes[-1] + 1):
            chosen = passes == number
            numbers[chosen] = keyed_generator(self.seed, 0, number, source).permutation(size)[inside[chosen]]
        return numbers, passes
