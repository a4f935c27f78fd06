"""Picture to tensor: what training does to it, and what evaluation does."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from multiway.data import locations
from multiway.data.randaugment import affine, randaugment
from multiway.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # ALBEF's and BLIP's too
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Every form of left and right (leftmost, right-hand, ...) in the languages of the bundled names, and
# clockwise.
SIDED = re.compile(
    r"\b(left|right|clockwise|counterclockwise|anticlockwise|link[es]|recht|gauche|droite?\b|izquierd|derech|esquerd"
    r"|direit|лев[аоуы]|слева|влево|налево|прав[аоуы]|справа|вправо|направо)|[左右]|왼|오른|बाएं|बाईं|बायां|बाएँ|दाएं|दाईं|दायां|दाएँ",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class KeptShape:
    """The size of a picture that keeps its shape, nearly: both sides are whole patches (ViLT, section 3.4).

    Attributes:
        shorter: pixels of the shorter side, unless the longer one would have more than `longest`.
        multiple: of a patch; a picture has at least one in each direction.
    """

    shorter: int
    longest: int
    multiple: int

    def of(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) that the picture is resized to. Source: ViLT transforms/utils.py, MinMaxResize."""
        scale = min(self.shorter / min(image.size), self.longest / max(image.size))
        sides = (int(side * scale + 0.5) // self.multiple for side in (image.height, image.width))
        height, width = (max(side, 1) * self.multiple for side in sides)
        return height, width


#: Pixels of all pictures, one side or (height, width); or the shape that each one keeps.
ImageSize = int | tuple[int, int] | KeptShape

#: How evaluation fits pictures of other shapes: see `eval_transform`.
Fit = Literal["squash", "crop"]
Resample = Literal["bicubic", "bilinear"]


#: The largest value of what may be 0; strengths that only grow have no other end than that of numbers.
LIMITS = {
    ("flip", "grayscale", "invert", "blur", "translate"): 1.0,
    ("rand_n", "rotate", "shear", "brightness", "contrast", "saturation"): sys.float_info.max,
    ("rand_m",): 10.0,
    ("fill",): 255.0,
    ("hue",): 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to a training picture, in this order. The defaults are ALBEF's pre-training.

    Attributes:
        crop_scale: area of the random crop as a share of the picture; None squashes the whole picture
            instead. ALBEF: (0.2, 1) in pre-training, (0.5, 1) in fine-tuning.
        crop_ratio: width over height of the crop.
        flip: probability of a horizontal flip; never where the caption says left or right.
        rand_n: operations of ALBEF's RandAugment; 0 = none.
        rand_m: their strength, 0 to 10.
        rotate: largest angle in degrees.
        translate: largest shift as a share of the side.
        zoom: smallest and largest factor of size.
        shear: largest shear as a share of the side.
        fill: grey level of what comes in from outside under rotate, translate, zoom and shear.
        brightness: change by a factor of at most 1 +- this; so for contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        hue: largest turn of the colour circle, 0.5 = half.
        grayscale: probability.
        invert: probability of the negative.
        blur: probability of a Gaussian blur of radius 0.1 to 1 % of the side.
    """

    crop_scale: tuple[float, float] | None = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_n: int = 2
    rand_m: float = 7.0
    rotate: float = 0.0
    translate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    fill: int = 128
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    invert: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for names, most in LIMITS.items():
            for name in names:
                given = getattr(self, name)
                if not 0 <= given <= most:
                    raise UserError(f"data.augment.{name} is {given}: give a number from 0 to {most:g}")
        for name, most in {"crop_scale": 1.0, "crop_ratio": math.inf, "zoom": math.inf}.items():
            low, high = getattr(self, name) or (1.0, 1.0)
            if not 0 < low <= high <= most or high == math.inf:
                upto = f", at most {most:g}" if most < math.inf else ""
                raise UserError(
                    f"data.augment.{name} is {low} to {high}: give the smaller number first, above 0{upto}"
                )

    def keeping_places(self) -> Augment:
        """Without what moves the things in a picture, for a caption with location tokens: boxes stay true."""
        still = dict.fromkeys(("flip", "rotate", "translate", "shear"), 0.0)
        return replace(self, crop_scale=None, zoom=(1.0, 1.0), rand_n=0, **still)

    def min_side(self, image_size: int | tuple[int, int]) -> int:
        """The side to keep on decoding, so that the smallest crop still has `image_size` pixels."""
        largest = max((image_size,) if isinstance(image_size, int) else image_size)
        return math.ceil(largest / math.sqrt(self.crop_scale[0])) if self.crop_scale else 2 * largest


@dataclass(frozen=True)
class TrainTransform:
    """See `train_transform`."""

    image_size: ImageSize
    augment: Augment
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self, image: Image.Image, caption: str, generator: np.random.Generator
    ) -> Float[Tensor, "3 H W"]:
        image = self.distort(image, caption, generator)
        return to_tensor(image, self.mean, self.std)

    def distort(self, image: Image.Image, caption: str, generator: np.random.Generator) -> Image.Image:
        """The augmented picture before it becomes a tensor (RGB, `image_size`)."""
        a = self.augment.keeping_places() if locations.TOKEN.search(caption) else self.augment
        if a.crop_scale is not None:
            image = image.crop(_crop_box(image.size, a.crop_scale, a.crop_ratio, generator))
        height, width = _height_width(self.image_size, image)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        if generator.random() < a.flip and not says_side(caption):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if a.rand_n:
            image = randaugment(image, generator, n=a.rand_n, m=a.rand_m)
        image = _geometric(image, a, generator)
        return _photometric(image, a, generator)


@dataclass(frozen=True)
class EvalTransform:
    """See `eval_transform`."""

    image_size: ImageSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "squash"
    crop_share: float = 1.0
    resample: Resample = "bicubic"

    def __call__(
        self, image: Image.Image, caption: str = "", generator: np.random.Generator | None = None
    ) -> Float[Tensor, "3 H W"]:
        height, width = _height_width(self.image_size, image)
        whole = (round(width / self.crop_share), round(height / self.crop_share))
        size = _covering(image.size, whole) if self.fit == "crop" else whole
        if size != image.size:
            image = image.resize(size, Image.Resampling[self.resample.upper()])
        if size != (width, height):
            left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return to_tensor(image, self.mean, self.std)


def train_transform(
    image_size: ImageSize,
    augment: Augment | None = None,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> TrainTransform:
    """A callable (RGB picture, caption, generator) -> `[3, H, W]` float32: augmented and normalised.

    Args:
        image_size: pixels, one number or (height, width); or the shape that pictures keep.
        augment: ALBEF's pre-training by default.
    """
    return TrainTransform(image_size, augment or Augment(), tuple(mean), tuple(std))


def eval_transform(
    image_size: ImageSize,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
    fit: Fit = "squash",
    crop_share: float = 1.0,
    resample: Resample = "bicubic",
) -> EvalTransform:
    """A callable (RGB picture) -> `[3, H, W]` float32: resized and normalised, nothing random.

    Args:
        image_size: pixels, one number or (height, width); or the shape that pictures keep.
        fit: `squash` to the size whatever the shape (ALBEF), or resize the shorter side and `crop` the
            middle (CLIP).
        crop_share: what is kept, in the middle, of each side that is resized to: with 0.875, pictures of 224
            are cut from 256 (MAE, util/datasets.py).
        resample: how it is resized; some published models were evaluated bilinearly.
    """
    return EvalTransform(image_size, tuple(mean), tuple(std), fit, crop_share, resample)


def says_side(caption: str) -> bool:
    """Whether a mirrored picture would make the caption false: it says left or right in some form."""
    return SIDED.search(caption) is not None


def to_tensor(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "3 H W"]:
    """RGB picture -> float32 `(x / 255 - mean) / std`."""
    pixels = np.asarray(image, dtype=np.uint8)
    # looked up, 256 values a channel; and in numpy, whose one thread is faster here than torch's several
    out = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    for channel, levels in enumerate(_levels(tuple(mean), tuple(std))):
        np.take(levels, pixels[:, :, channel], out=out[channel], mode="clip")
    return torch.from_numpy(out)


@cache
def _levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """`[3, 256]`: the normalised value of every 8-bit level."""
    m, s = (np.array(values, dtype=np.float32)[:, None] for values in (mean, std))
    return (np.arange(256, dtype=np.float32) / np.float32(255) - m) / s


def _height_width(image_size: ImageSize, image: Image.Image) -> tuple[int, int]:
    """What a picture is resized to."""
    if isinstance(image_size, KeptShape):
        return image_size.of(image)
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def _covering(image: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The least (width, height) of a picture's shape that covers what is wanted.

    A longer side that is no whole number is rounded as officially, so that the crop is the same: down for
    squares (torchvision's Resize), to the nearest for others (open_clip's ResizeKeepRatio).
    """
    if wanted[0] == wanted[1]:
        return wanted[0] * image[0] // min(image), wanted[1] * image[1] // min(image)
    ratio = min(image[0] / wanted[0], image[1] / wanted[1])
    return round(image[0] / ratio), round(image[1] / ratio)


def _crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int]:
    """The box of Inception's random crop: area uniform, shape log-uniform, ten tries, then the middle."""
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _geometric(image: Image.Image, a: Augment, generator: np.random.Generator) -> Image.Image:
    """Rotation, shear, zoom and shift about the middle, in one resampling."""
    if not (a.rotate or a.translate or a.shear or a.zoom != (1.0, 1.0)):
        return image
    width, height = image.size
    angle = math.radians(generator.uniform(-a.rotate, a.rotate))
    shear = generator.uniform(-a.shear, a.shear)
    zoom = generator.uniform(*a.zoom)
    dx, dy = generator.uniform(-a.translate, a.translate, size=2) * (width, height)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # target -> source: undo the shift, turn and scale about the middle, shear
    p, q, r, s = cos, sin + shear * cos, -sin, cos - shear * sin
    cx, cy = width / 2, height / 2
    inverse = (p, q, cx - p * (cx + dx) - q * (cy + dy), r, s, cy - r * (cx + dx) - s * (cy + dy))
    return affine(image, inverse, fill=(a.fill,) * 3)


def _photometric(image: Image.Image, a: Augment, generator: np.random.Generator) -> Image.Image:
    for enhancer, strength in (
        (ImageEnhance.Brightness, a.brightness),
        (ImageEnhance.Contrast, a.contrast),
        (ImageEnhance.Color, a.saturation),
    ):
        if strength:
            image = enhancer(image).enhance(max(0.0, generator.uniform(1 - strength, 1 + strength)))
    if a.hue:
        turn = round(generator.uniform(-a.hue, a.hue) * 255) % 256
        hue, saturation, value = image.convert("HSV").split()
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if a.grayscale and generator.random() < a.grayscale:
        image = image.convert("L").convert("RGB")
    if a.invert and generator.random() < a.invert:
        image = ImageOps.invert(image)
    if a.blur and generator.random() < a.blur:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.001, 0.01) * max(image.size)))
    return image
