"""The loss of BEiT-3's captions against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from multiway.objectives.masked_caption import masked_caption, smoothed_divergence


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_divergence_from_a_target_smoothed_over_the_other_words(smoothing) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 3, 6, 2, 2])
    q = torch.full((5, 7), smoothing / 6).scatter(1, targets[:, None], 1 - smoothing)
    expected = F.kl_div(F.log_softmax(logits, 1), q, reduction="none").sum(1)
    ours = smoothed_divergence(logits, targets, smoothing=smoothing)
    torch.testing.assert_close(ours, expected)
    (gradient,) = torch.autograd.grad(ours.sum(), logits, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_zero_is_reached_where_the_target_is_met() -> None:
    q = torch.full((1, 5), 0.1 / 4)
    q[0, 1] = 0.9
    loss = smoothed_divergence(q.log(), torch.tensor([1]), smoothing=0.1)
    torch.testing.assert_close(loss, torch.zeros(1), atol=1e-6, rtol=0)


def test_the_worst_words_are_left_out() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(10, 4), torch.randint(4, (10,))
    each = F.cross_entropy(logits, targets, reduction="none").sort().values
    torch.testing.assert_close(masked_caption(logits, targets, drop_worst=0.25), each[:7].mean())
    torch.testing.assert_close(
        masked_caption(logits[:1], targets[:1], drop_worst=0.9).isfinite(), torch.tensor(True)
    )


def test_without_a_masked_word_it_is_zero() -> None:
    assert masked_caption(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 0


def test_full_precision_under_autocast() -> None:
    logits, targets = 3 * torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    logits = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_caption(logits, targets, smoothing=0.1)
    torch.testing.assert_close(found, masked_caption(logits.float(), targets, smoothing=0.1))
