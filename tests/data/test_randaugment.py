"""RandAugment's operations pixel by pixel, against the formulas that the official OpenCV code follows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from multiway.data.randaugment import ALBEF_TABLE

WIDTH, HEIGHT, M = 61, 46, 7.0


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth waves of every colour, dark enough that each operation has something to do."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 9 + c) + np.cos(y / (7 + c)) + np.sin((x + y) / 13) for c in range(3)]
    return np.clip(np.stack(waves, -1) * 30 + 110, 0, 255).astype(np.uint8)


def ours(picture: np.ndarray, name: str, sign: int = 1) -> np.ndarray:
    return np.asarray(ALBEF_TABLE[name](Image.fromarray(picture), M, sign)).astype(int)


def test_identity(picture) -> None:
    assert np.array_equal(ours(picture, "identity"), picture)


def test_autocontrast_stretches_every_channel(picture) -> None:
    low, high = picture.min((0, 1)).astype(float), picture.max((0, 1))
    assert (high - low < 255).all()
    found = ours(picture, "autocontrast")
    assert np.abs(found - (picture - low) * 255 / (high - low)).max() < 1.01
    assert (found.min(), found.max()) == (0, 255)


def test_equalize_follows_the_cumulated_histogram(picture) -> None:
    for channel in range(3):
        count = np.bincount(picture[..., channel].ravel(), minlength=256)
        step = count[count > 0][:-1].sum() // 255
        below = np.concatenate([[step // 2], count[:-1]]).cumsum()
        table = (below // step).clip(0, 255)
        assert np.array_equal(ours(picture, "equalize")[..., channel], table[picture[..., channel]])


def test_brightness_is_a_factor(picture) -> None:
    factor = 0.7 * 1.8 + 0.1
    assert np.array_equal(
        ours(picture, "brightness"), (picture * np.float32(factor)).clip(0, 255).astype(int)
    )


def test_sharpness_moves_away_from_the_smoothed_picture_except_at_the_rim(picture) -> None:
    p, factor = picture.astype(float), 0.7 * 1.8 + 0.1
    shifted = [p[1 + i : HEIGHT - 1 + i, 1 + j : WIDTH - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    smooth = np.floor((sum(shifted) + 4 * p[1:-1, 1:-1]) / 13 + 0.5)
    want = p.copy()
    want[1:-1, 1:-1] = np.floor((smooth + factor * (p[1:-1, 1:-1] - smooth)).clip(0, 255))
    assert np.abs(ours(picture, "sharpness") - want).max() <= 1
    assert np.mean(ours(picture, "sharpness") != want) < 0.01


def matrix(name: str, sign: int) -> np.ndarray:
    """Source of a target pixel, `[2, 3]`; a pixel's centre lies at whole numbers, as in cv2.warpAffine."""
    if name == "rotate":
        t, centre = sign * math.radians(21), np.array([WIDTH / 2, HEIGHT / 2])
        turn = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
        return np.c_[turn, centre - turn @ centre]
    out = np.eye(2, 3)
    kind, axis = name.split("_")
    row = "xy".index(axis)
    out[row, 1 - row if kind == "shear" else 2] = sign * (0.21 if kind == "shear" else 7)
    return out


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_maps_are_bilinear_between_whole_numbered_centres_and_grey_outside(picture, name, sign) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    sx, sy = matrix(name, sign) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    inside = (sx >= 0) & (sx <= WIDTH - 1) & (sy >= 0) & (sy <= HEIGHT - 1)
    outside = (sx < -1) | (sx > WIDTH) | (sy < -1) | (sy > HEIGHT)
    left, top = (np.floor(v).astype(int).clip(0, n - 2) for v, n in ((sx, WIDTH), (sy, HEIGHT)))
    u, v = (sx - left)[:, None], (sy - top)[:, None]
    p = picture.astype(float)
    upper = p[top, left] * (1 - u) + p[top, left + 1] * u
    lower = p[top + 1, left] * (1 - u) + p[top + 1, left + 1] * u
    found = ours(picture, name, sign).reshape(-1, 3)
    assert inside.mean() > 0.6
    assert np.abs(found - (upper * (1 - v) + lower * v))[inside].max() < 1.01
    assert outside.any()
    assert (found[outside] == 128).all()
