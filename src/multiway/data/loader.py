"""Batches of pairs, endless and resumable: step s is a function of (seed, s, rank, world) alone."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from multiway.batch import Batch
from multiway.data.dataset import Source
from multiway.data.order import Order, keyed_generator
from multiway.data.sample import BadSample, Tally
from multiway.errors import UserError

Encode = Callable[[list[str]], tuple[Tensor, Tensor]]

MAX_TRIES = 1000  # samples in a row that may be bad before the data is given up
ENOUGH = 50  # samples to read before the share of bad ones says something

Picture = TypeVar("Picture")
Seen = TypeVar("Seen", covariant=True)
Transform = Callable[[Picture, str, np.random.Generator], Tensor]


@runtime_checkable
class Pairs(Protocol[Seen]):
    """What a loader needs of a `Dataset`; its pictures may be something else, as cached features."""

    @property
    def sources(self) -> tuple[Source, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def problems(self) -> Counter[str]: ...

    def __len__(self) -> int: ...
    def key(self, i: int) -> str: ...
    def texts(self, i: int) -> list[str]: ...
    def image(self, i: int) -> Seen: ...
    def source(self, i: int) -> str: ...
    def following(self, i: int) -> Iterator[int]: ...


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a worker makes of a step; texts are encoded by the caller, whose tokenizer counts what it cuts."""

    wanted: int
    numbers: list[int]  # the samples used, `wanted` unless the data was given up
    met: list[tuple[int, str | None]]  # the samples tried, with the reason where one was bad
    image: Tensor | None
    texts: list[str]
    keys: list[str]
    sources: list[str]


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
        encode: Encode,
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
    ):
        """Plan the epochs.

        Args:
            encode: texts -> (input_ids, attention_mask), `[B, T]` int64.
            transform: (picture, caption, generator) -> `[3, H, W]`; None leaves pictures unread and `image`
                None.
            batch_size: samples a step on this rank.
            workers: processes that read and transform; 0 = this one. The batches are the same.
            merge_equal_texts: rows with byte-equal texts share an id, in all batches; reads all texts once.
            max_bad_share: a larger share of bad samples stops the iteration.

        Raises:
            UserError: fewer samples than a global batch.
        """
        self.dataset: Pairs[Any] = dataset
        self.encode = encode
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
        self._steps = _Steps(dataset, self.order, transform, seed)
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

    def _read(self, plan: Sequence[int] | itertools.count) -> Iterator[_Rows]:
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

    def _check(self, rows: _Rows) -> None:
        tally = self.tally
        if len(rows.numbers) < rows.wanted:
            raise UserError(f"No good sample among {MAX_TRIES} in a row: {tally.sentence()}; check the data.")
        if len(tally.seen) >= min(ENOUGH, tally.total) and tally.bad_share > self.max_bad_share:
            raise UserError(
                f"{tally.bad_share:.1%} of the samples are bad, more than the {self.max_bad_share:.1%} that"
                f" max_bad_share allows: {tally.sentence()}; mend the data or allow more."
            )

    def _batch(self, rows: _Rows) -> Batch:
        ids = rows.numbers
        if self._first_with is not None:
            ids = [self._first_with.get(text, number) for text, number in zip(rows.texts, ids, strict=True)]
        input_ids, attention_mask = self.encode(rows.texts) if rows.texts else (None, None)
        return Batch(
            image=rows.image,
            input_ids=input_ids,
            attention_mask=attention_mask,
            ids=torch.tensor(ids, dtype=torch.int64),
            keys=tuple(rows.keys),
            source=tuple(rows.sources),
        )


class _Steps:
    """Step number -> rows; what the worker processes hold."""

    def __init__(self, dataset: Pairs[Any], order: Order, transform: Transform[Any] | None, seed: int):
        self.dataset = dataset
        self.order = order
        self.transform = transform
        self.seed = seed

    def __getitem__(self, step: int) -> _Rows:
        numbers, met, images, texts, keys, sources = [], [], [], [], [], []
        firsts, passes = self.order.step(step)
        for first, of_pass in zip(firsts.tolist(), passes.tolist(), strict=True):
            for number in itertools.islice(self.dataset.following(first), MAX_TRIES):
                try:
                    generator = keyed_generator(self.seed, 2, of_pass, first)
                    image, text, source = self._row(number, generator)
                except BadSample as bad:
                    met.append((number, bad.reason))
                    continue
                met.append((number, None))
                numbers.append(number)
                images.append(image)
                texts.append(text)
                keys.append(self.dataset.key(number))
                sources.append(source)
                break
        stacked = _stack(images)
        return _Rows(
            wanted=len(firsts),
            numbers=numbers,
            met=met,
            image=stacked,
            texts=texts,
            keys=keys,
            sources=sources,
        )

    def _row(self, number: int, generator: np.random.Generator) -> tuple[Tensor | None, str, str]:
        texts = self.dataset.texts(number)
        text = texts[int(generator.integers(len(texts)))]
        if self.transform is None:
            return None, text, self.dataset.source(number)
        image = self.transform(self.dataset.image(number), text, generator)
        return image, text, self.dataset.source(number)


def _stack(images: list[Tensor | None]) -> Tensor | None:
    """`[B, 3, H, W]`; numpy's one thread copies faster than torch's several when all cores are busy."""
    arrays = [image.numpy() for image in images if image is not None]
    return torch.from_numpy(np.stack(arrays)) if arrays else None


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
