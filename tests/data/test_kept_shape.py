"""Pictures that keep their shape: their sizes beside transformers' processor, and how a batch pads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from multiway.data.augment import Augment, KeptShape, eval_transform, to_tensor, train_transform
from multiway.data.collate import stacked
from multiway.data.dataset import Dataset, Source
from multiway.data.loader import Loader
from multiway.data.two_pictures import PairTransform

HALF = (0.5, 0.5, 0.5)
OFFICIAL = KeptShape(384, int(1333 / 800 * 384), 32)
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (384, 512)),
        ((480, 640), (512, 384)),
        ((500, 375), (384, 512)),
        ((384, 384), (384, 384)),
        ((1000, 400), (256, 608)),  # the longer side has at most 639 pixels
        ((33, 1000), (608, 32)),  # never less than a patch: the official code stops here
        ((64, 48), (384, 512)),
    ],
)
def test_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert OFFICIAL.of(picture(*size)) == expected


def test_both_transforms_give_that_size() -> None:
    shape, photo = KeptShape(32, 56, 8), picture(90, 60)
    size = shape.of(photo)
    assert size == (32, 48)
    plain = to_tensor(photo.resize((48, 32), Image.Resampling.BICUBIC), HALF, HALF)
    torch.testing.assert_close(eval_transform(shape, HALF, HALF)(photo), plain)
    train = train_transform(shape, PLAIN, HALF, HALF)
    torch.testing.assert_close(train(photo, "", np.random.default_rng(0)), plain)
    turned = train_transform(shape, Augment(crop_scale=None, rotate=30.0), HALF, HALF)
    assert turned(photo, "", np.random.default_rng(0)).shape == (3, *size)


def test_a_crop_keeps_its_own_shape() -> None:
    shape, rng = KeptShape(32, 56, 8), np.random.default_rng(0)
    cropped = train_transform(shape, Augment(crop_scale=(0.3, 0.6), rand_n=0), HALF, HALF)
    sizes = {tuple(cropped(picture(90, 60), "", rng).shape) for _ in range(20)}
    assert len(sizes) > 2
    assert all(height % 8 == width % 8 == 0 and min(height, width) <= 32 for _, height, width in sizes)


def test_smaller_pictures_are_padded_with_zeros() -> None:
    pictures = [torch.randn(3, 8, 16), torch.randn(3, 24, 8)]
    batch = stacked(pictures)
    assert batch.shape == (2, 3, 24, 16)
    assert torch.equal(batch[0, :, :8], pictures[0])
    assert torch.equal(batch[1, :, :, :8], pictures[1])
    assert batch.count_nonzero() == sum(p.numel() for p in pictures)
    assert torch.equal(stacked([pictures[0]] * 2), torch.stack([pictures[0]] * 2))


def test_two_pictures_share_a_canvas() -> None:
    pair = PairTransform(eval_transform(KeptShape(16, 32, 8), HALF, HALF))
    both = pair((picture(20, 40), picture(40, 20)), "", np.random.default_rng(0))
    assert both.shape == (2, 3, 32, 32)
    assert both[0, :, :, 16:].count_nonzero() == both[1, :, 16:].count_nonzero() == 0


def test_a_loader_of_mixed_shapes(tmp_path) -> None:
    shape, sizes = KeptShape(16, 32, 8), [(60, 40), (40, 60), (50, 50), (90, 30)]
    for number, size in enumerate(sizes):
        picture(*size, seed=number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"picture {number}")
    loader = Loader(
        Dataset(Source(path=str(tmp_path))),
        encode=None,
        transform=train_transform(shape, PLAIN, HALF, HALF),
        batch_size=4,
    )
    [batch] = loader.iterate(0, 1)
    assert batch.image.shape == (4, 3, 24, 32)
    for row, number in enumerate(batch.ids.tolist()):
        height, width = shape.of(picture(*sizes[number]))
        own = (batch.image[row] != 0).any(0)
        assert own[:height, :width].all()
        assert own.sum() == height * width
