"""Masked image modelling's losses beside loops over patches."""

from __future__ import annotations

import math

import pytest
import torch

from multiway.objectives import masked_image


def test_mim_is_the_mean_over_all_masked_patches() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    plain = sum(-math.log(float(row.softmax(0)[token])) for row, token in zip(logits, tokens, strict=True))
    assert float(masked_image.mim(logits, tokens)) == pytest.approx(plain / 7)
    assert float(masked_image.mim(logits, tokens, count=torch.tensor(14.0))) == pytest.approx(plain / 14)
    assert float(masked_image.mim(logits[:0], tokens[:0])) == 0


def test_accuracy() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert float(masked_image.accuracy(logits, torch.tensor([1, 1, 1, 0]))) == 0.75


def test_reconstruction_is_one_minus_the_cosine() -> None:
    features = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]]])
    expected = (0 + 2 + 1 - 0.5**0.5) / 3
    assert float(masked_image.cosine_reconstruction(features, target)) == pytest.approx(expected)


def test_commitment_moves_the_patches_alone() -> None:
    z, codes = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss = masked_image.commitment(z, codes)
    assert float(loss.detach()) == pytest.approx(float((z - codes).detach().square().mean()))
    loss.backward()
    torch.testing.assert_close(z.grad, 2 * (z - codes).detach() / 12)
    assert codes.grad is None


def test_straight_through() -> None:
    z, codes, seen = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), torch.randn(4, 3)
    out = masked_image.straight_through(z, codes)
    torch.testing.assert_close(out, codes)
    (out * seen).sum().backward()
    torch.testing.assert_close(z.grad, seen)


def test_how_codes_are_used() -> None:
    counts = torch.tensor([4.0, 4.0, 0.0, 0.0])
    assert float(masked_image.usage(counts)) == 0.5
    assert float(masked_image.perplexity(counts)) == pytest.approx(2)
    assert float(masked_image.perplexity(torch.tensor([9.0, 0.0]))) == pytest.approx(1)
    assert float(masked_image.perplexity(torch.ones(8))) == pytest.approx(8)
