"""What a source of pairs holds, and what of it can't be used."""

from __future__ import annotations

from dataclasses import dataclass

from multiway.data.dataset import Dataset
from multiway.data.sample import BadSample, Sample, Tally


@dataclass(frozen=True)
class Look:
    """A look at a source: the count of good and bad samples read, and what the good ones hold.

    Attributes:
        sizes: (width, height) of each picture in pixels. texts: the texts of each.
        first: the first few samples.
    """

    tally: Tally
    sizes: list[tuple[int, int]]
    texts: list[list[str]]
    first: list[Sample]


def look(dataset: Dataset, *, read: int = 0, show: int = 0) -> Look:
    """Read `read` samples spread evenly over the dataset (0: all), and keep the first `show` good ones."""
    count = min(read, len(dataset)) if read > 0 else len(dataset)
    seen = Look(Tally(found=dataset.problems, total=len(dataset)), [], [], [])
    for i in (k * len(dataset) // count for k in range(count)):
        try:
            sample = dataset.sample(i)
        except BadSample as bad:
            seen.tally.add(i, bad.reason)
            continue
        seen.tally.add(i)
        seen.sizes.append(sample.image.size)
        seen.texts.append(sample.texts)
        if len(seen.first) < show:
            seen.first.append(sample)
    return seen
