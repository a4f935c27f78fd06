"""What the samples of a source say of their licence."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, runtime_checkable

from multiway.data.sample import BadSample

LOOKED_AT = 200  # samples, spread evenly
NAMES = ("licence", "license", "rights")


@runtime_checkable
class Described(Protocol):
    """Samples of which something is said."""

    def __len__(self) -> int: ...
    def meta(self, i: int) -> dict[str, Any]: ...


def licences(samples: Described, source: str) -> str:
    """A few words: the licences of the samples, the most frequent first."""
    if source.startswith(("scenes:", "boxes:")):
        return "drawn by multiway, Apache-2.0"
    count = min(LOOKED_AT, len(samples))
    found: Counter[str] = Counter()
    for k in range(count):
        try:
            meta = samples.meta(k * len(samples) // count)
        except BadSample:
            continue
        found[str(next((meta[name] for name in NAMES if meta.get(name)), "not stated"))] += 1
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{name} ({n} of {count} looked at)" for name, n in found.most_common(5)) or "not stated"
