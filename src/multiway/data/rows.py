"""From the number of a step to its rows: what the processes that load hold and do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from multiway.data.order import Order, keyed_generator
from multiway.data.sample import BadSample

MAX_TRIES = 1000  # samples in a row that may be bad before the data is given up

Picture = TypeVar("Picture")
Seen = TypeVar("Seen", covariant=True)
Transform = Callable[[Picture, str, np.random.Generator], Tensor]


@runtime_checkable
class Pairs(Protocol[Seen]):
    """What a loader needs of a `Dataset`; its pictures may be something else, as cached features."""

    @property
    def sources(self) -> tuple[Any, ...]: ...
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
class Rows:
    """What a worker makes of a step; texts are encoded by the caller, whose tokenizer counts what it cuts."""

    wanted: int
    numbers: list[int]  # the samples used, `wanted` unless the data was given up
    met: list[tuple[int, str | None]]  # the samples tried, with the reason where one was bad
    image: Tensor | None
    texts: list[str]
    labels: list[int]
    keys: list[str]
    sources: list[str]


class Steps:
    """Step number -> rows; what the worker processes hold."""

    def __init__(
        self,
        dataset: Pairs[Any],
        order: Order,
        transform: Transform[Any] | None,
        seed: int,
        label: Callable[[int], int] | None,
    ):
        self.dataset = dataset
        self.order = order
        self.transform = transform
        self.seed = seed
        self.label = label

    def __getitem__(self, step: int) -> Rows:
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
        labels = [] if self.label is None else [self.label(number) for number in numbers]
        return Rows(
            wanted=len(firsts),
            numbers=numbers,
            met=met,
            image=stacked,
            texts=texts,
            labels=labels,
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
    """One tensor of all rows; one thread of numpy copies faster than several of torch on busy cores."""
    arrays = [image.numpy() for image in images if image is not None]
    return torch.from_numpy(np.stack(arrays)) if arrays else None
