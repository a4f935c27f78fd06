"""Several sources under one numbering: what every dataset of ours is, whatever its samples are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image

from multiway.data.images import decode
from multiway.data.tables import reading
from multiway.errors import UserError


@runtime_checkable
class Named(Protocol):
    """What a source's description must say."""

    @property
    def path(self) -> str: ...
    @property
    def weight(self) -> float: ...


@runtime_checkable
class Keyed(Protocol):
    """What an opened source must offer, whatever its samples are."""

    problems: Counter[str]

    def __len__(self) -> int: ...
    def key(self, i: int) -> str: ...


@runtime_checkable
class Described(Protocol):
    """A store that says more of its samples."""

    def meta(self, i: int) -> dict[str, Any]: ...


SourceT = TypeVar("SourceT", bound=Named)
StoreT = TypeVar("StoreT", bound=Keyed)


class Numbered(Generic[SourceT, StoreT]):
    """The samples of one or several sources, numbered one source after the other.

    Attributes:
        sources: as given.
        sizes: samples in each source.
        problems: what indexing could not use, by reason.
    """

    def __init__(self, sources: Sequence[SourceT] | SourceT, open_source: Callable[[SourceT], StoreT]):
        """Open the sources.

        Raises:
            UserError: none is given, one has no weight, one is damaged, or what `open_source` raises.
        """
        self.sources: tuple[SourceT, ...] = tuple(sources) if isinstance(sources, Sequence) else (sources,)
        if not self.sources:
            raise UserError("No data: name at least one source.")
        for source in self.sources:
            if not source.weight > 0:
                raise UserError(f"The weight of source {source.path} is {source.weight}: give one above 0.")
        self._stores: list[StoreT] = []
        for source in self.sources:
            with reading(source.path):
                self._stores.append(open_source(source))
        self.sizes = tuple(len(store) for store in self._stores)
        self.problems: Counter[str] = sum((store.problems for store in self._stores), Counter())
        self._starts = np.cumsum([0, *self.sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, i: int) -> tuple[int, StoreT, int]:
        """The number of sample `i`'s source, its store, and its number in there."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return number, self._stores[number], i - int(self._starts[number])

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        _, store, inside = self._place(i)
        return store.key(inside)

    def source(self, i: int) -> str:
        """The path of sample `i`'s source."""
        return self.sources[self._place(i)[0]].path

    def meta(self, i: int) -> dict[str, Any]:
        """What else the source says of sample `i`: columns of a table, fields of a shard's .json."""
        _, store, inside = self._place(i)
        return store.meta(inside) if isinstance(store, Described) else {}

    def following(self, i: int) -> Iterator[int]:
        """`i`, and then the other samples of its source in turn: who stands in when one is bad."""
        number, _, inside = self._place(i)
        start, size = int(self._starts[number]), self.sizes[number]
        return (start + (inside + n) % size for n in range(size))


@runtime_checkable
class Pictured(Keyed, Protocol):
    """An opened source of pictures with something to each: a question, a sentence, a box."""

    def row(self, i: int) -> Any: ...
    def image(self, i: int) -> Image.Image | bytes: ...


PicturedT = TypeVar("PicturedT", bound=Pictured)


class NumberedPictures(Numbered[SourceT, PicturedT]):
    """Samples with one picture each.

    Args:
        min_side: as in `Dataset`.
    """

    def __init__(
        self,
        sources: Sequence[SourceT] | SourceT,
        open_source: Callable[[SourceT], PicturedT],
        *,
        min_side: int | None = None,
    ):
        super().__init__(sources, open_source)
        self.min_side = min_side

    def row(self, i: int) -> Any:
        """All that is known of sample `i`."""
        _, store, inside = self._place(i)
        return store.row(inside)

    def image(self, i: int) -> Image.Image:
        """The picture of sample `i`.

        Raises:
            BadSample: it can't be read or decoded.
        """
        _, store, inside = self._place(i)
        picture = store.image(inside)
        return decode(picture, min_side=self.min_side) if isinstance(picture, bytes) else picture
