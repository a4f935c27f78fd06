"""Every odd picture file is turned into upright 8-bit RGB, or refused for a named reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multiway.data.images import decode
from multiway.data.sample import BadSample

RED = (204, 51, 51)


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def close(pixel, colour, tolerance=4):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "JPEG"),
        ("RGB", "PNG"),
        ("RGB", "WEBP"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
        ("RGB", "BMP"),
    ],
)
def test_colours_survive(make_picture, mode, format):
    image = decode(make_picture(mode, format=format))
    assert (image.mode, image.size) == ("RGB", (24, 16))
    assert close(image.getpixel((5, 5)), RED, 12)


def test_a_16_bit_picture_keeps_its_levels():
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = decode(saved(Image.fromarray(levels), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (100,) * 3, (255,) * 3]


def test_float_and_32_bit_pictures():
    floats = decode(saved(Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)), "TIFF"))
    assert [floats.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    ints = decode(saved(Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32)), "TIFF"))
    assert [ints.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_one_bit_and_grey():
    assert decode(saved(Image.new("1", (4, 4), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    assert decode(saved(Image.new("L", (4, 4), 77), "PNG")).getpixel((0, 0)) == (77, 77, 77)


def test_transparency_is_laid_on_white():
    assert decode(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")).getpixel((0, 0)) == (255,) * 3
    half = decode(saved(Image.new("LA", (4, 4), (0, 128)), "PNG")).getpixel((0, 0))
    assert close(half, (127,) * 3)
    palette = Image.new("P", (4, 4), 0)
    assert decode(saved(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255,) * 3
    key_colour = saved(Image.new("RGB", (4, 4), (9, 9, 9)), "PNG", transparency=(9, 9, 9))
    assert decode(key_colour).getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    image = decode(saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50))
    assert close(image.getpixel((4, 4)), (255, 0, 0), 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    upright = Image.new("RGB", (16, 8), "white")
    upright.paste((255, 0, 0), (0, 0, 8, 8))  # red on the left
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(saved(stored, "JPEG", quality=95, exif=exif))
    assert image.size == (16, 8)
    assert close(image.getpixel((2, 4)), (255, 0, 0), 30)
    assert close(image.getpixel((13, 4)), (255, 255, 255), 30)


def test_broken_exif_leaves_the_picture(make_picture):
    jpg = make_picture()
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3\xff\xff\xff\xff" * 3
    content = jpg[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + jpg[2:]
    assert decode(content).size == (24, 16)


def test_a_large_jpeg_is_decoded_smaller(make_picture):
    content = make_picture(size=(1600, 1200))
    assert decode(content, min_side=128).size == (200, 150)
    assert decode(content, min_side=200).size == (400, 300)
    assert decode(content).size == (1600, 1200)
    assert decode(make_picture("CMYK", size=(800, 800)), min_side=100).size == (100, 100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a text file, not a picture", "not_an_image"),
        (b"", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    ],
)
def test_no_picture_at_all(content, reason):
    with pytest.raises(BadSample) as caught:
        decode(content)
    assert caught.value.reason == reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_cut_off_file(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), format)
    with pytest.raises(BadSample) as caught:
        decode(content[: len(content) // 2])
    assert caught.value.reason in ("undecodable", "not_an_image")


def bomb(side):
    """A small PNG that claims side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 60_000])  # above Pillow's warning, and above its error
def test_a_decompression_bomb(side):
    with pytest.raises(BadSample) as caught:
        decode(bomb(side))
    assert caught.value.reason == "bomb"


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 10_000),
    value=st.integers(0, 255),
    cut=st.integers(0, 200),
    kind=st.sampled_from(range(3)),
)
def test_damage_never_raises_anything_else(place, value, cut, kind):
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    content = bytearray(saved(image, ["JPEG", "PNG", "WEBP"][kind]))
    content[place % len(content)] = value
    try:
        assert decode(bytes(content[: len(content) - cut])).mode == "RGB"
    except BadSample as bad:
        assert bad.reason in ("undecodable", "not_an_image", "bomb")  # noqa: PT017
