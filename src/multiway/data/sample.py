"""A sample, why one is bad, and the count of both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture and its texts.

    Attributes:
        key: its name in its source.
        image: the picture, upright, RGB, 8 bits.
        texts: at least one, none of them blank.
        source: the name of its source.
        meta: what else the source says of it (a shard's .json and .cls, columns of a table).
    """

    key: str
    image: Image.Image
    texts: list[str]
    source: str
    meta: dict[str, Any] = field(default_factory=dict)


class BadSample(Exception):
    """A sample that can't be used, with a countable reason (`undecodable`, `empty_caption`, ...)."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)  # both as args, so that it survives the way from a worker process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def sound(texts: list[str]) -> list[str]:
    """`texts`, all of which can be written.

    Raises:
        BadSample: `bad_text`: one holds half an emoji, as a caption that was cut in UTF-16 ends.
    """
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise BadSample("bad_text", str(error)) from error
    return texts


@dataclass
class Tally:
    """How many different samples were used, and how many were not, by reason.

    A sample that is met again in a later epoch is not counted again.

    Attributes:
        found: what indexing could not use, by reason, before any sample was read.
        total: samples that indexing found.
    """

    found: Counter[str] = field(default_factory=Counter)
    total: int = 0
    seen: set[int] = field(default_factory=set)
    bad: dict[int, str] = field(default_factory=dict)

    def add(self, index: int, reason: str | None = None) -> None:
        """Count sample `index`: good, or bad for `reason`."""
        self.seen.add(index)
        if reason is not None:
            self.bad[index] = reason

    @property
    def reasons(self) -> dict[str, int]:
        """reason -> count, the most frequent first."""
        counts = Counter(self.bad.values()) + self.found
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def bad_share(self) -> float:
        """Share of bad samples: among those read so far, or lost on indexing, whichever is larger."""
        lost = self.found.total()
        return max(len(self.bad) / max(len(self.seen), 1), lost / max(lost + self.total, 1))

    def sentence(self) -> str:
        """`997 samples read, 3 skipped (undecodable 2, empty_caption 1)`."""
        skipped = sum(self.reasons.values())
        why = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.items())
        read = f"{len(self.seen) - len(self.bad):,} samples read, "
        return read + (f"{skipped:,} skipped ({why})" if skipped else "none skipped")
