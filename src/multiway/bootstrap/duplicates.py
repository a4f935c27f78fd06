"""Near-duplicate pictures, by a hash of what they look like.

A picture's mark is 256 bits and a tiny thumbnail. The bits say, at 16 x 16 places, whether grey rises clearly
to
the right: they survive another size, another quality of JPEG, a change of brightness. The thumbnail, 8 x 8
pixels of colour, tells a red heart from a blue one. Two pictures are near-duplicates where both agree
closely: of copies at 60 % of the size and JPEG quality 40, 97 % and more are found. A crop or a mirror image
    is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

SIDE, THUMB = 16, 8
RISE = 10  # levels of 255; less is noise of the compression, or a plain background
BANDS = 16  # two marks that differ in fewer bits than there are bands agree in one band whole
MAX_BITS = 15  # of 256; must be below BANDS
MAX_SHARE = 0.4  # of the bits that either has: a drawing on white has few
MAX_LEVELS = 32  # of 255, between any two values of the thumbnails


@dataclass(frozen=True)
class Marks:
    """The marks of N pictures.

    Attributes:
        bits: `[N, 32]`, 256 bits. thumbs: `[N, 192]`, 8 x 8 colours.
    """

    bits: UInt8[np.ndarray, "N 32"]
    thumbs: UInt8[np.ndarray, "N 192"]

    def __len__(self) -> int:
        return len(self.bits)

    @staticmethod
    def join(parts: Iterable[Marks]) -> Marks:
        """One after the other."""
        parts = [*parts] or [Marks.of([])]
        return Marks(np.concatenate([p.bits for p in parts]), np.concatenate([p.thumbs for p in parts]))

    @staticmethod
    def of(pictures: Sequence[Image.Image]) -> Marks:
        """The marks of pictures."""
        bits = np.zeros((len(pictures), SIDE * SIDE // 8), np.uint8)
        thumbs = np.zeros((len(pictures), THUMB * THUMB * 3), np.uint8)
        for i, picture in enumerate(pictures):
            grey = picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX, reducing_gap=None)
            values = np.asarray(grey, np.int16)
            bits[i] = np.packbits(values[:, 1:] - values[:, :-1] > RISE)
            small = picture.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX)
            thumbs[i] = np.asarray(small).reshape(-1)
        return Marks(bits, thumbs)

    def near(self, i: int, others: np.ndarray) -> Bool[np.ndarray, " M"]:
        """Which of the pictures numbered `others` are near-duplicates of picture `i`."""
        differ = np.bitwise_count(self.bits[others] ^ self.bits[i]).sum(1, dtype=np.int64)
        levels = np.abs(self.thumbs[others].astype(np.int16) - self.thumbs[i].astype(np.int16)).max(1)
        either = np.bitwise_count(self.bits[others] | self.bits[i]).sum(1, dtype=np.int64)
        close = (differ <= MAX_BITS) & (differ <= np.maximum(MAX_SHARE * either, 1))
        return close & (levels <= MAX_LEVELS)


def earlier_twins(marks: Marks, *, free: int = 0) -> dict[int, int]:
    """picture -> the first picture before it that is a near-duplicate of it and was itself no duplicate.

    Args:
        free: the first so many are only compared with, and never called duplicates (an evaluation set).
    """
    bands = marks.bits.view(np.uint16).reshape(len(marks), BANDS)
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for i in range(len(marks)):
        keys = list(enumerate(bands[i].tolist()))
        if i >= free:
            others = np.unique([n for key in keys for n in buckets.get(key, ())]).astype(np.int64)
            twins = others[marks.near(i, others)] if len(others) else others
            if len(twins):
                found[i] = int(twins[0])
                continue
        for key in keys:
            buckets[key].append(i)
    return found
