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

from multiway.data.collate import stacked
from multiway.data.order import Order, keyed_generator
from multiway.data.sample import BadSample
from multiway.data.streams import Use

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


@runtime_checkable
class Streams(Protocol):
    """What a dataset has besides where not all of its samples are used as pairs."""

    def use(self, i: int) -> Use: ...


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a worker makes of a step; texts are encoded by the caller, whose tokenizer counts what it cuts.

    A row of a picture alone has an empty text, one of a text alone a picture of zeros.
    """

    wanted: int
    numbers: list[int]  # the samples used, `wanted` unless the data was given up
    met: list[tuple[int, str | None]]  # the samples tried, with the reason where one was bad
    image: Tensor | None
    has_image: list[bool]
    has_text: list[bool]
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
            has_image=[image is not None for image in images],
            has_text=[text is not None for text in texts],
            texts=[text or "" for text in texts],
            labels=labels,
            keys=keys,
            sources=sources,
        )

    def _row(self, number: int, generator: np.random.Generator) -> tuple[Tensor | None, str | None, str]:
        dataset = self.dataset
        use = dataset.use(number) if isinstance(dataset, Streams) else "pairs"
        text = None
        if use != "images":
            texts = dataset.texts(number)
            text = texts[int(generator.integers(len(texts)))]
        if self.transform is None or use == "texts":
            return None, text, dataset.source(number)
        image = self.transform(dataset.image(number), text or "", generator)
        return image, text, dataset.source(number)


def _stack(images: list[Tensor | None]) -> Tensor | None:
    """One tensor of all rows; zeros where there is no picture."""
    some = next((image for image in images if image is not None), None)
    if some is None:
        return None
    return stacked([torch.zeros_like(some) if image is None else image for image in images])
