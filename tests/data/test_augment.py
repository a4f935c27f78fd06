"""Augmentation against slow plain references, and the rules of the papers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from multiway.data.augment import Augment, eval_transform, says_side, to_tensor, train_transform
from multiway.data.order import keyed_generator
from multiway.data.randaugment import ALBEF_TABLE, randaugment
from multiway.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NOTHING = Augment(crop_scale=None, flip=0.0, rand_n=0)


@pytest.fixture
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)


def test_to_tensor_is_torchvisions(photo):
    plain = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.testing.assert_close(to_tensor(photo, MEAN, STD), plain(photo), rtol=0, atol=1e-6)


def test_evaluation_squashes_or_crops_as_torchvision(photo):
    squash = v2.Resize((32, 48), v2.InterpolationMode.BICUBIC)(photo)
    torch.testing.assert_close(eval_transform((32, 48), MEAN, STD)(photo), to_tensor(squash, MEAN, STD))
    middle = v2.Compose([v2.Resize(40, v2.InterpolationMode.BICUBIC), v2.CenterCrop(40)])(photo)
    torch.testing.assert_close(eval_transform(40, MEAN, STD, fit="crop")(photo), to_tensor(middle, MEAN, STD))
    for size, fit in ((48, "crop"), ((48, 48), "squash")):  # cut from the middle of what is larger
        middle = v2.Compose([v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(42)])(photo)
        ours = eval_transform(42, MEAN, STD, fit=fit, crop_share=0.875)(photo)
        torch.testing.assert_close(ours, to_tensor(middle, MEAN, STD))


def test_the_same_generator_gives_the_same_picture(photo):
    busy = Augment(
        rotate=10.0,
        translate=0.1,
        zoom=(0.8, 1.2),
        shear=0.1,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.1,
        grayscale=0.5,
        invert=0.5,
        blur=0.5,
    )
    transform = train_transform(48, busy)
    one, same, other = (transform(photo, "a cat", keyed_generator(key)) for key in (1, 1, 2))
    assert one.shape == (3, 48, 48)
    assert one.dtype == torch.float32
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_everything_off_is_the_evaluation(photo):
    off = train_transform((32, 48), NOTHING)(photo, "", keyed_generator(0))
    assert torch.equal(off, eval_transform((32, 48))(photo))


def test_each_piece_changes_the_picture(photo):
    plain = train_transform(48, NOTHING).distort(photo, "", keyed_generator(3))
    for piece in (
        "rotate",
        "translate",
        "shear",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "grayscale",
        "invert",
        "blur",
    ):
        value = 20.0 if piece == "rotate" else 1.0 if piece in ("grayscale", "invert", "blur") else 0.4
        one = Augment(crop_scale=None, flip=0.0, rand_n=0, **{piece: value})
        assert train_transform(48, one).distort(photo, "", keyed_generator(3)).tobytes() != plain.tobytes(), (
            piece
        )


def test_geometry_moves_the_middle_where_it_says():
    image = Image.new("RGB", (64, 64), "white")
    image.paste((255, 0, 0), (28, 28, 36, 36))
    for seed in range(5):
        moved = Augment(
            crop_scale=None, flip=0.0, rand_n=0, rotate=180.0, zoom=(0.8, 1.3), shear=0.2, fill=255
        )
        pixels = np.asarray(train_transform(64, moved).distort(image, "", keyed_generator(seed)))
        rows, columns = np.nonzero(
            pixels[:, :, 1] < 128
        )  # the red square stays in the middle without a shift
        assert abs(rows.mean() - 31.5) < 0.6
        assert abs(columns.mean() - 31.5) < 0.6


@pytest.mark.parametrize(
    ("caption", "sided"),
    [
        ("a dog on the left", True),
        ("LEFTMOST cup", True),
        ("woman kneeling facing right", True),
        ("right-hand", True),
        ("clockwise arrows", True),
        ("links ein Hund", True),
        ("a la derecha", True),
        ("左の犬", True),
        ("слева дом", True),
        ("a bright cleft in upright stone", False),
        ("copyright", False),
        ("a dog", False),
    ],
)
def test_words_that_forbid_a_flip(caption, sided):
    assert says_side(caption) is sided


def test_no_flip_where_the_caption_says_left(photo):
    transform = train_transform(48, Augment(crop_scale=None, flip=1.0, rand_n=0))
    plain = photo.resize((48, 48), Image.Resampling.BICUBIC)
    assert transform.distort(photo, "the left one", keyed_generator(0)).tobytes() == plain.tobytes()
    mirrored = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert transform.distort(photo, "the one", keyed_generator(0)).tobytes() == mirrored.tobytes()


def test_what_a_box_is_said_of_stays_in_its_place(photo):
    """Location tokens are shares of the whole picture's sides."""
    moving = Augment(flip=1.0, rand_n=2, rotate=30.0, translate=0.2, shear=0.2, zoom=(0.5, 0.6))
    draw = np.random.default_rng(0)
    kept = train_transform(48, moving, MEAN, STD)(photo, "where is it ?\t<1><2><5><9>", draw)
    torch.testing.assert_close(kept, train_transform(48, NOTHING, MEAN, STD)(photo, "", draw))


def test_the_crop_keeps_to_its_area_and_shape():
    ramp = np.zeros((100, 200, 3), dtype=np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.arange(200)[None, :], np.arange(100)[:, None]
    transform = train_transform(32, Augment(crop_scale=(0.2, 0.5), flip=0.0, rand_n=0))
    for seed in range(50):
        pixels = np.asarray(transform.distort(Image.fromarray(ramp), "", keyed_generator(seed))).astype(float)
        width, height = np.ptp(pixels[:, :, 0]), np.ptp(pixels[:, :, 1])
        assert 0.15 < width * height / 20000 < 0.56
        assert 0.65 < width / height < 1.5


def test_min_side_never_enlarges():
    assert Augment(crop_scale=(0.25, 1.0)).min_side(100) == 200
    assert Augment(crop_scale=None).min_side((100, 50)) == 200


def test_albefs_table():
    assert set(ALBEF_TABLE) == {
        "identity",
        "autocontrast",
        "equalize",
        "brightness",
        "sharpness",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "rotate",
    }


def test_albefs_strengths_at_7(photo):
    """Level 7: brightness and sharpness 1.36, shear 0.21, shift 7 pixels, 21 degrees; outside is grey 128."""
    pixels = np.asarray(photo).astype(int)
    bright = np.asarray(ALBEF_TABLE["brightness"](photo, 7.0, 1)).astype(int)
    assert np.abs(bright - np.clip(pixels * 1.36, 0, 255)).max() <= 1
    shifted = np.asarray(ALBEF_TABLE["translate_x"](photo, 7.0, 1)).astype(int)
    assert (shifted[:, :-7] == pixels[:, 7:]).all()
    assert (shifted[:, -7:] == 128).all()
    shifted = np.asarray(ALBEF_TABLE["translate_y"](photo, 7.0, -1)).astype(int)
    assert (shifted[7:] == pixels[:-7]).all()
    line = Image.new("RGB", (128, 128))
    line.paste((255, 255, 255), (62, 0, 66, 128))
    for name, strength, slant in (("shear_x", 7.0, 0.21), ("rotate", 7.0, np.tan(np.radians(21)))):
        rows = (
            np.asarray(ALBEF_TABLE[name](line, strength, 1))[20:108, :, 0] > 160
        )  # the fill's 128 stays out
        slope = np.polyfit(np.arange(88), [np.nonzero(row)[0].mean() for row in rows], 1)[0]
        assert abs(abs(slope) - slant) < 0.01, name


def test_half_of_the_operations_are_left_out():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    generator = keyed_generator(5)
    changed = np.mean([randaugment(grey, generator, n=1).tobytes() != grey.tobytes() for _ in range(600)])
    # of ten operations brightness, shifts, shears and the turn change flat grey; the other four don't
    assert 0.2 < changed < 0.45


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"flip": 1.5}, "data.augment.flip is 1.5: give a number from 0 to 1"),
        ({"rand_n": -1}, "data.augment.rand_n is -1"),
        ({"rotate": math.nan}, "data.augment.rotate is nan"),
        ({"rotate": math.inf}, "data.augment.rotate is inf"),
        ({"rand_m": 11.0}, "rand_m is 11.0: give a number from 0 to 10"),
        ({"fill": 256}, "fill is 256: give a number from 0 to 255"),
        ({"hue": 0.6}, "hue is 0.6: give a number from 0 to 0.5"),
        ({"crop_scale": (0.0, 0.0)}, "crop_scale is 0.0 to 0.0: .* above 0, at most 1"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale is 0.5 to 1.5"),
        ({"crop_ratio": (4 / 3, 3 / 4)}, "crop_ratio is 1.3.* the smaller number first"),
        ({"zoom": (0.0, 1.0)}, "zoom is 0.0 to 1.0"),
        ({"zoom": (1.0, math.inf)}, "zoom is 1.0 to inf"),
    ],
)
def test_what_cannot_be_done_to_a_picture_is_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        Augment(**changed)


def test_the_ends_of_what_can_be_done_are_done():
    ends = {"flip": 1.0, "rand_n": 1, "rand_m": 10.0, "fill": 255, "hue": 0.5, "brightness": 2.0, "blur": 1.0}
    whole = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), translate=1.0, **ends)
    transform = train_transform(16, whole)
    picture = Image.new("RGB", (20, 20), (9, 99, 200))
    assert torch.isfinite(transform(picture, "", np.random.default_rng(0))).all()
