"""Drawn pairs of pictures as img2dataset tars: drawn once, read by every run and epoch.

Of scenes both pictures lie beside each other in one; boxes look as NLVR1's own strips. `two_pictures` cuts
either again. To pre-train on, such pictures of one or two boxes with captions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import scenes
from multiway.data.box_pairs import make_claimed, make_described
from multiway.data.box_speech import Claim
from multiway.data.box_text import make_claim
from multiway.data.boxes import SIDE, Strip, draw_box, on_one_picture
from multiway.data.scene_text import RELATING, PicturePair, make_picture_pair
from multiway.data.shards import write_shards

BETWEEN = (128, 128, 128)  # the grey between two boxes of a strip


def write_scene_pairs(
    folder: str | Path, n: int, *, seed: int = 0, image_size: int = 96, kinds: tuple[int, ...] = RELATING
) -> list[Path]:
    """Write pairs 0 to n - 1 of scenes as KEY.png, KEY.txt (the sentence) and KEY.cls (1 or 0).

    Args:
        image_size: pixels a side of each picture.
        kinds: of sentences, as in `scene_text`.
    """
    pairs = (make_picture_pair(seed, i, kinds) for i in range(n))
    rows = ((_beside(pair, image_size), pair.sentence, pair.label) for pair in pairs)
    return write_shards(folder, _samples(rows), name=f"pairs-{seed}-")


def write_box_pairs(
    folder: str | Path, n: int, *, seed: int = 0, make: Callable[..., Claim] = make_claim
) -> list[Path]:
    """Write strips 0 to n - 1 of boxes likewise, with the sentences that `make` makes."""
    claimed = (make_claimed(seed, i, make) for i in range(n))
    rows = ((draw_strip(strip), said, true) for strip, said, true in claimed)
    return write_shards(folder, _samples(rows), name=f"boxes-{seed}-")


def write_boxes(folder: str | Path, n: int, *, seed: int = 0) -> list[Path]:
    """Write pictures 0 to n - 1 of one or two boxes as KEY.png, 200 x 100 pixels, and KEY.txt, a caption."""

    def samples() -> Iterator[dict[str, Any]]:
        for i in range(n):
            shown, caption = make_described(seed, i)
            picture = on_one_picture([draw_box(box) for box in shown])
            yield {"__key__": f"{i:08d}", "png": _png(picture), "txt": caption}

    return write_shards(folder, samples(), name=f"described-{seed}-")


def draw_strip(strip: Strip) -> Image.Image:
    """The picture of a strip, 400 x 100 pixels."""
    image = Image.new("RGB", (4 * SIDE, SIDE), BETWEEN)
    for i, box in enumerate(strip.boxes):
        image.paste(draw_box(box), (i * SIDE * 3 // 2, 0))
    return image


def _beside(pair: PicturePair, side: int) -> Image.Image:
    image = Image.new("RGB", (2 * side, side))
    image.paste(scenes.draw_scene(pair.left, side), (0, 0))
    image.paste(scenes.draw_scene(pair.right, side), (side, 0))
    return image


def _samples(rows: Iterator[tuple[Image.Image, str, bool]]) -> Iterator[dict[str, Any]]:
    for i, (image, sentence, true) in enumerate(rows):
        yield {"__key__": f"{i:08d}", "png": _png(image), "txt": sentence, "cls": str(int(true))}


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()
