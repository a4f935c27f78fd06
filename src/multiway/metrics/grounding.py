"""Does heat lie where it should? Boxes are (left, top, width, height) in pixels, as RefCOCO's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Box = Sequence[float]


def iou(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1; both edges are of the box (refer toolkit, `computeIoU`)."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2] - 1, b[0] + b[2] - 1), min(a[1] + a[3] - 1, b[1] + b[3] - 1)
    inside = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    return float(inside / (a[2] * a[3] + b[2] * b[3] - inside))


def best_box(heat: Float[np.ndarray, "H W"], boxes: Sequence[Box], *, alpha: float = 0.5) -> Box | None:
    """The proposal with the most heat for its size; None where no proposal has any.

    The score is the heat inside, divided by the area to the power `alpha` (ALBEF, `grounding_eval`: 0.5).
    """
    found, most = None, 0.0
    for box in boxes:
        left, top, width, height = box[:4]
        inside = heat[int(top) : int(top + height), int(left) : int(left + width)].sum()
        score = float(inside) / (width * height) ** alpha
        if score > most:
            found, most = box[:4], score
    return found


def points_into(heat: Float[np.ndarray, "H W"], box: Box) -> bool:
    """The pointing game (Zhang et al. 2016): is the hottest pixel inside the box?"""
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    left, top, width, height = box
    return bool(left <= x + 0.5 <= left + width and top <= y + 0.5 <= top + height)
