"""ALBEF's RandAugment, which is not torchvision's: its own operations, strengths and a coin before each.

N operations are drawn with replacement from the table, each is then applied with probability 1/2, at strength
M of 10 and with a random sign. Facts: ALBEF's `dataset/randaugment.py` and `dataset/__init__.py` (N = 2, M =
7, no colour inversion); shifts are in pixels whatever the size of the picture, what comes in from outside is
grey 128, and maps are OpenCV's, for which a pixel's centre lies at whole numbers. Unlike there, sharpening is
cut off at 0 and 255, where the official bytes wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_LEVEL = 10
GREY = (128, 128, 128)


def _enhance(level: float) -> float:
    return level / MAX_LEVEL * 1.8 + 0.1


def affine(image: Image.Image, inverse: tuple[float, ...], fill: tuple[int, ...] = GREY) -> Image.Image:
    """The picture under an affine map, bilinear; `inverse` (a to f) maps a target pixel to its source."""
    return image.transform(
        image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _brightness(image: Image.Image, level: float, sign: int) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_enhance(level))


def _sharpness(image: Image.Image, level: float, sign: int) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_enhance(level))


def _warp(image: Image.Image, inverse: tuple[float, float, float, float, float, float]) -> Image.Image:
    """`affine` for a map between whole-numbered centres; Pillow's lie at halves."""
    a, b, c, d, e, f = inverse
    return affine(image, (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2))


def _shear_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _warp(image, (1.0, sign * level / MAX_LEVEL * 0.3, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _warp(image, (1.0, 0.0, 0.0, sign * level / MAX_LEVEL * 0.3, 1.0, 0.0))


def _translate_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _warp(image, (1.0, 0.0, sign * level / MAX_LEVEL * 10, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _warp(image, (1.0, 0.0, 0.0, 0.0, 1.0, sign * level / MAX_LEVEL * 10))


def _rotate(image: Image.Image, level: float, sign: int) -> Image.Image:
    """About (W/2, H/2): half a pixel right of and below the middle, as there."""
    angle = math.radians(sign * level / MAX_LEVEL * 30)
    cos, sin, x, y = math.cos(angle), math.sin(angle), image.width / 2, image.height / 2
    return _warp(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


ALBEF_TABLE: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
}


def randaugment(
    image: Image.Image, generator: np.random.Generator, *, n: int = 2, m: float = 7.0
) -> Image.Image:
    """`image` (RGB) after `n` operations of ALBEF's table at strength `m` of 10."""
    names = list(ALBEF_TABLE)
    for choice in generator.integers(len(names), size=n):
        apply, positive = generator.random(2) < 0.5
        if apply:
            image = ALBEF_TABLE[names[choice]](image, m, 1 if positive else -1)
    return image
