"""What a source holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from multiway.data.dataset import Dataset, Source
from multiway.data.sample import BadSample, Tally


def inspect(source: str | Source | Sequence[Source], *, decode: bool = True) -> dict[str, Any]:
    """Read a source whole and count.

    Args:
        source: a path, as `Source.path` takes it, or sources.
        decode: decode every picture, too; else the texts alone are read.

    Returns:
        `n_images`, `n_texts`, `n_unique_texts`, `texts_per_image`, `mean_words`, `n_words` (different ones,
        by spaces, lower case), `bad` (reason -> count), `sources` (path -> samples), `sentence`, and with
        `decode` `widths` and `heights` (smallest, median, largest; pixels), else None.

    Raises:
        UserError: a source is missing, of unknown layout, or empty.
    """
    dataset = Dataset(Source(path=source) if isinstance(source, str) else source)
    tally = Tally(found=dataset.problems, total=len(dataset))
    texts: Counter[str] = Counter()
    words: Counter[str] = Counter()
    sizes = []
    for number in range(len(dataset)):
        try:
            own = dataset.texts(number)
            if decode:
                sizes.append(dataset.image(number).size)
        except BadSample as bad:
            tally.add(number, bad.reason)
            continue
        tally.add(number)
        texts.update(own)
        for text in own:
            words.update(text.lower().split())
    n_images, n_texts = len(tally.seen) - len(tally.bad), texts.total()
    return {
        "n_images": n_images,
        "n_texts": n_texts,
        "n_unique_texts": len(texts),
        "texts_per_image": round(n_texts / max(n_images, 1), 3),
        "mean_words": round(words.total() / max(n_texts, 1), 3),
        "n_words": len(words),
        "widths": _range([width for width, _ in sizes]) if sizes else None,
        "heights": _range([height for _, height in sizes]) if sizes else None,
        "bad": tally.reasons,
        "sources": {source.path: size for source, size in zip(dataset.sources, dataset.sizes, strict=True)},
        "sentence": tally.sentence(),
    }


def tally(source: str | Source | Sequence[Source]) -> Tally:
    """Read a source whole and say what can't be used."""
    dataset = Dataset(Source(path=source) if isinstance(source, str) else source)
    counted = Tally(found=dataset.problems, total=len(dataset))
    for number in range(len(dataset)):
        try:
            dataset.texts(number)
            dataset.image(number)
        except BadSample as bad:
            counted.add(number, bad.reason)
        else:
            counted.add(number)
    return counted


def _range(values: list[int]) -> list[int]:
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
