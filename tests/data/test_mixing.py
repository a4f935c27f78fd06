"""Mixup and cutmix: what a mixed picture is made of, and that its classes' shares say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multiway.batch import Batch
from multiway.data.loader import Loader
from multiway.data.mixing import Mixed, Mixing, cutmix, mixed, mixup

IMAGE = torch.arange(4.0)[:, None, None, None].expand(4, 3, 10, 20).contiguous()
TARGETS = torch.eye(4)


def test_mixup_is_a_sum_of_both() -> None:
    image, targets = mixup(IMAGE, TARGETS, 0.75)
    assert image[0].eq(0.75).all()  # a quarter of the last picture, 3
    assert image[2].eq(0.75 * 2 + 0.25 * 1).all()
    assert targets[1].tolist() == [0, 0.75, 0.25, 0]


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.0), (0.99, 0.3)])
def test_shares_after_cutmix_are_the_areas(centre: tuple[float, float]) -> None:
    image, targets = cutmix(IMAGE, TARGETS, 0.6, centre)
    assert set(image[0].unique().tolist()) == {0.0, 3.0}
    other = float((image[0] == 3).float().mean())
    assert 0 < other <= 0.4
    torch.testing.assert_close(targets[0], torch.tensor([1 - other, 0, 0, other]))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert IMAGE[0].eq(0).all()  # the given one is left as it was


def batch() -> Batch:
    return Batch(image=IMAGE, labels=torch.tensor([2, 0, 1, 1]))


def kinds(config: Mixing, tries: int = 60) -> list[str]:
    found = []
    for seed in range(tries):
        out = mixed(batch(), config, 3, np.random.default_rng(seed))
        torch.testing.assert_close(out.targets.sum(1), torch.ones(4))
        whole = set(out.image.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
        found.append("none" if out.image.equal(IMAGE) else "cut" if whole else "mix")
    return found


def test_a_batch_is_mixed_in_one_way_of_those_that_are_on() -> None:
    assert set(kinds(Mixing(mixup=0.8))) == {"mix"}
    assert "mix" not in kinds(Mixing(cutmix=1.0))
    both = kinds(Mixing(mixup=0.8, cutmix=1.0))
    assert 15 < both.count("mix") < 45
    half = kinds(Mixing(mixup=0.8, probability=0.5))
    assert 15 < half.count("none") < 45
    assert not Mixing().on
    assert not Mixing(mixup=1.0, probability=0.0).on


def test_unmixed_batches_have_whole_classes() -> None:
    out = mixed(batch(), Mixing(mixup=1.0, probability=0.0), 3, np.random.default_rng(0))
    assert out.targets.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]


class Steps(Loader):
    """A loader of the same batch."""

    def __init__(self):
        pass

    def __len__(self) -> int:
        return 5

    def iterate(self, start_step: int = 0):
        while True:
            yield batch()


def test_a_resumed_run_mixes_as_the_first_one_did() -> None:
    def some(start: int, rank: int = 0) -> list[torch.Tensor]:
        loader = Mixed(Steps(), Mixing(mixup=0.8, cutmix=1.0), 3, seed=4, rank=rank)
        assert len(loader) == 5
        return [b.targets for b, _ in zip(loader.iterate(start), range(6 - start), strict=False)]

    assert all(a.equal(b) for a, b in zip(some(0)[2:], some(2), strict=True))
    assert not all(a.equal(b) for a, b in zip(some(0), some(0, rank=1), strict=True))
