"""Any picture file to an upright 8-bit RGB picture, or a named reason why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from multiway.data.sample import BadSample

# Formats that Pillow decodes by itself; EPS and the like would run other programs on untrusted files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3  # Pillow's own limit: a picture of 256 MB


def decode(content: bytes, *, min_side: int | None = None) -> Image.Image:
    """The picture in `content` as upright RGB, 8 bits a channel.

    EXIF rotation is applied, CMYK and palettes are converted, 16 bits are scaled to 8, transparency is laid
    on white, and of an animation the first frame is taken.

    Args:
        content: the whole file.
        min_side: a JPEG with both sides at least twice this is decoded at 1/2, 1/4 or 1/8 of its size, such
            that no side falls below `min_side`: several times faster.

    Raises:
        BadSample: `not_an_image`, `bomb` (more than 89 million pixels) or `undecodable` (broken or cut off).
    """
    picture = _open(io.BytesIO(content))
    if picture.width * picture.height > MAX_PIXELS:
        raise BadSample("bomb", f"{picture.width}x{picture.height} pixels")
    try:
        if min_side is not None and picture.format in ("JPEG", "MPO"):
            picture.draft(None, (min_side, min_side))
        picture.load()
        return to_rgb(_upright(picture))
    except Exception as error:  # Pillow raises a dozen kinds on hostile files, all with the same meaning here
        raise BadSample("undecodable", f"{type(error).__name__}: {error}") from error


def _open(file: io.BytesIO) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings of big or odd files: we count instead
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSample("not_an_image") from error
    except Exception as error:
        raise BadSample("undecodable", f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken EXIF: the picture itself is fine
        return picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Three channels of 8 bits; what is transparent shows white."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode[0] in "IF":
        return Image.fromarray(_to_8_bits(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        picture = white
    return picture.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """16- and 32-bit integers and floats to uint8 by the smallest usual white level that holds them all.

    16-bit files keep white at 65535 even when they are dark. Floats are 0..1 or 0..255.
    """
    high = float(values.max(initial=0))
    if values.dtype.kind == "f":
        white = 1.0 if high <= 1 else 255.0
    elif values.dtype.itemsize == 2:
        white = 65535.0
    else:
        white = next((level for level in (255.0, 65535.0) if high <= level), 2.0**31 - 1)
    return np.clip(values.astype(np.float64) * (255 / white) + 0.5, 0, 255).astype(np.uint8)


def read_file(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        BadSample: it can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadSample("missing", str(path)) from error
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise BadSample("unreadable", str(error)) from error


def extension(content: bytes) -> str:
    """The usual extension of a picture file, by its first bytes."""
    starts = {
        b"\xff\xd8": "jpg",
        b"\x89PNG": "png",
        b"GIF8": "gif",
        b"BM": "bmp",
        b"II*": "tif",
        b"MM\0*": "tif",
    }
    for start, name in starts.items():
        if content.startswith(start):
            return name
    if content[:4] == b"RIFF":
        return "webp"
    return "avif" if content[4:8] == b"ftyp" else "ppm"
