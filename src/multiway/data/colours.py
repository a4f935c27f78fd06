"""What pictures' channels are like: mean, deviation, and the colour of their background."""

from __future__ import annotations

import numpy as np
from PIL import Image

LEVELS = 16  # of a channel, within which pixels have about the same colour
ACROSS = 64  # pixels of the shorter side that are looked at


class Colours:
    """Of the pictures that were added; channels are in 0..1."""

    def __init__(self) -> None:
        self._sums, self._squares = np.zeros(3), np.zeros(3)
        self._counts, self._of_level = np.zeros(LEVELS**3), np.zeros((LEVELS**3, 3))

    def add(self, picture: Image.Image) -> None:
        """Look at a picture's pixels, of a large one at every few."""
        step = max(min(picture.size) // ACROSS, 1)
        pixels = np.asarray(picture.convert("RGB"))[::step, ::step].reshape(-1, 3)
        values = pixels / 255
        level = (pixels.astype(int) * LEVELS // 256) @ (LEVELS**2, LEVELS, 1)
        self._sums += values.sum(0)
        self._squares += (values**2).sum(0)
        self._counts += np.bincount(level, minlength=LEVELS**3)
        for channel in range(3):
            self._of_level[:, channel] += np.bincount(level, values[:, channel], minlength=LEVELS**3)

    @property
    def mean(self) -> list[float]:
        """Of each channel, as `system.image.mean` takes it; zeros without pictures."""
        return (self._sums / max(self._counts.sum(), 1)).round(3).tolist()

    @property
    def std(self) -> list[float]:
        """The deviation of each channel."""
        count = max(self._counts.sum(), 1)
        return np.sqrt(np.maximum(self._squares / count - (self._sums / count) ** 2, 0)).round(3).tolist()

    @property
    def background(self) -> tuple[list[float], float]:
        """The most frequent colour, and its share of all pixels."""
        most = int(self._counts.argmax())
        share = float(self._counts[most] / max(self._counts.sum(), 1))
        return (self._of_level[most] / max(self._counts[most], 1)).round(3).tolist(), round(share, 4)
