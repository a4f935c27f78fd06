"""Boxes as text: four location tokens, left, top, right, bottom (Unified-IO, section 3.1)."""

from __future__ import annotations

import re

#: Left, top, right, bottom, in shares of the picture's sides, 0 to 1.
Box = tuple[float, float, float, float]

#: How a location is written in a text; `text.tokenizer.LOCATION` reads the same.
TOKEN = re.compile(r"<(\d+)>")


def written(box: Box, bins: int) -> str:
    """`<3><10><7><14>`: the bin of each coordinate, of `bins` alike wide ones."""
    return "".join(f"<{min(max(int(value * bins), 0), bins - 1)}>" for value in box)


def read(text: str, bins: int) -> Box | None:
    """The box of a text's first four location tokens, at the middle of their bins; None: there are fewer."""
    found = [(int(token) + 0.5) / bins for token in TOKEN.findall(text)[:4]]
    return (found[0], found[1], found[2], found[3]) if len(found) == 4 else None


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [max(x[2] - x[0], 0.0) * max(x[3] - x[1], 0.0) for x in (a, b)]
    return both / max(sum(areas) - both, 1e-12)
