"""Batches of pairs, endless and resumable: step s is a function of (seed, s, rank, world) alone."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from multiway.batch import Batch
from multiway.data.order import Order
from multiway.data.rows import MAX_TRIES, Pairs, Picture, Rows, Steps, Transform
from multiway.data.sample import BadSample, Tally
from multiway.errors import UserError

Encode = Callable[[list[str]], tuple[Tensor, Tensor]]

ENOUGH = 50  # samples to read before the share of bad ones says something


class Loader:
    """Endless batches from a dataset.

    Which samples a step has, the caption chosen for each and its augmentation depend on (seed, step, rank,
    world)
    alone: not on the number of workers, nor on where a run was resumed. A bad sample gives its place to the
    next good one of its source and is counted.

    Attributes:
        tally: the count of good and bad samples so far, of this rank.
    """

    def __init__(
        self,
        dataset: Pairs[Picture],
        *,
        encode: Encode | None,
        transform: Transform[Picture] | None,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        merge_equal_texts: bool = False,
        max_bad_share: float = 0.05,
        label: Callable[[int], int] | None = None,
        complete: Callable[[Batch], Batch] | None = None,
    ):
        """Plan the epochs.

        Args:
            encode: texts -> (input_ids, attention_mask), `[B, T]` int64; None leaves `input_ids` None.
            transform: (picture, caption, generator) -> `[3, H, W]`; None leaves pictures unread and `image`
                None.
            batch_size: samples a step on this rank.
            workers: processes that read and transform; 0 = this one. The batches are the same.
            merge_equal_texts: rows with byte-equal texts share an id, in all batches; reads all texts once.
            max_bad_share: a larger share of bad samples stops the iteration.
            label: the class of a sample, by its number.
            complete: adds what a task has besides, in the training process; `ids` are the samples' numbers.

        Raises:
            UserError: fewer samples than a global batch.
        """
        self.dataset: Pairs[Any] = dataset
        self.encode, self.complete = encode, complete
        self.workers = workers
        self.max_bad_share = max_bad_share
        self.tally = Tally(found=dataset.problems, total=len(dataset))
        weights = [source.weight for source in dataset.sources]
        self.order = Order(
            dataset.sizes,
            weights,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        self._steps = Steps(dataset, self.order, transform, seed, label)
        self._first_with = _first_pictures(dataset) if merge_equal_texts else None

    def __len__(self) -> int:
        """Steps an epoch."""
        return self.order.steps_per_epoch

    def iterate(self, start_step: int = 0, steps: int | None = None) -> Iterator[Batch]:
        """The batches from `start_step` on: endless, or `steps` of them.

        `ids` are the numbers of the pictures (with `merge_equal_texts`, of the first picture with the same
        text).

        Raises:
            UserError: more than `max_bad_share` of the samples are bad.
        """
        plan = itertools.count(start_step) if steps is None else range(start_step, start_step + steps)
        for rows in self._read(plan):
            for number, reason in rows.met:
                self.tally.add(number, reason)
            self._check(rows)
            yield self._batch(rows)

    def _read(self, plan: Sequence[int] | itertools.count) -> Iterator[Rows]:
        if self.workers == 0:
            return map(self._steps.__getitem__, plan)
        return iter(
            DataLoader(
                self._steps,  # pyrefly: ignore  # any object with __getitem__ will do
                batch_size=None,  # an item is a whole step already
                sampler=plan,  # pyrefly: ignore  # an endless one has no length
                num_workers=self.workers,
                collate_fn=_as_it_is,
                prefetch_factor=4,
                worker_init_fn=_init_worker,
            )
        )

    def _check(self, rows: Rows) -> None:
        tally = self.tally
        if len(rows.numbers) < rows.wanted:
            raise UserError(f"No good sample among {MAX_TRIES} in a row: {tally.sentence()}; check the data.")
        if len(tally.seen) >= min(ENOUGH, tally.total) and tally.bad_share > self.max_bad_share:
            raise UserError(
                f"{tally.bad_share:.1%} of the samples are bad, more than the {self.max_bad_share:.1%} that"
                f" max_bad_share allows: {tally.sentence()}; mend the data or allow more."
            )

    def _batch(self, rows: Rows) -> Batch:
        ids = rows.numbers
        if self._first_with is not None:
            ids = [self._first_with.get(text, number) for text, number in zip(rows.texts, ids, strict=True)]
        input_ids, attention_mask = None, None
        has_text = torch.tensor(rows.has_text, dtype=torch.bool)
        if has_text.any() and self.encode is not None:
            input_ids, attention_mask = self.encode(rows.texts)
            attention_mask = attention_mask * has_text[:, None]
        batch = Batch(
            image=rows.image,
            has_image=None if rows.image is None or all(rows.has_image) else torch.tensor(rows.has_image),
            input_ids=input_ids,
            attention_mask=attention_mask,
            ids=torch.tensor(ids, dtype=torch.int64),
            labels=torch.tensor(rows.labels, dtype=torch.int64) if rows.labels else None,
            keys=tuple(rows.keys),
            source=tuple(rows.sources),
        )
        return batch if self.complete is None else self.complete(batch)


def _first_pictures(dataset: Pairs[Any]) -> dict[str, int]:
    """text -> the number of the first picture that has it, for texts of several pictures."""
    first: dict[str, int] = {}
    shared: dict[str, int] = {}
    for number in range(len(dataset)):
        try:
            texts = dataset.texts(number)
        except BadSample:
            continue
        for text in texts:
            if first.setdefault(text, number) != number:
                shared[text] = first[text]
    return shared


def _as_it_is(rows: Any) -> Any:
    return rows


def _init_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
