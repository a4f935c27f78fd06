"""Mean, deviation and background of pictures, against plain NumPy."""

import numpy as np
import pytest
from PIL import Image

from multiway.data.colours import Colours


def picture(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    pixels[:, : size[0] // 2] = (250, 16, 128)  # on three borders of levels: half of every picture
    return Image.fromarray(pixels)


def test_mean_and_deviation_of_all_pixels():
    colours, pictures = Colours(), [picture(seed) for seed in range(3)]
    for one in pictures:
        colours.add(one)
    pixels = np.concatenate([np.asarray(one).reshape(-1, 3) for one in pictures]) / 255
    assert colours.mean == pixels.mean(0).round(3).tolist()
    assert colours.std == pixels.std(0).round(3).tolist()


def test_the_most_frequent_colour_is_the_background():
    colours = Colours()
    colours.add(picture(0))
    colour, share = colours.background
    assert colour == pytest.approx((250 / 255, 16 / 255, 128 / 255), abs=1e-3)
    assert share == pytest.approx(0.5, abs=0.01)


def test_a_large_picture_is_looked_at_in_part_and_any_mode_is_taken():
    small, large = Colours(), Colours()
    grey = picture(0).convert("L")
    small.add(grey)
    large.add(grey.resize((1200, 900), Image.Resampling.NEAREST))
    assert large.mean == pytest.approx(small.mean, abs=0.01)
    assert large.std == pytest.approx(small.std, abs=0.01)
    assert Colours().background == ([0, 0, 0], 0)
