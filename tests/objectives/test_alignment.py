"""Word-patch alignment: batched IPOT against one pair at a time, in value and gradient; what it means."""

from __future__ import annotations

import pytest
import torch
from tiny_vilt import plan, transport_cost

from multiway.objectives import alignment

WORDS, PATCHES = (4, 1, 6, 0, 3), (5, 7, 2, 4, 0)  # of five pairs; the last two have nothing to carry


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states of padded pairs, noise at the padding, and which are real."""
    g = torch.Generator().manual_seed(seed)
    words, patches = torch.randn(5, 6, 8, generator=g), torch.randn(5, 7, 8, generator=g)
    masks = (torch.arange(n) < torch.tensor(k)[:, None] for n, k in ((6, WORDS), (7, PATCHES)))
    return words.requires_grad_(), patches.requires_grad_(), *masks


def test_all_pairs_at_once_are_each_alone() -> None:
    words, patches, word_mask, patch_mask = pairs()
    found = alignment.align(words, patches, word_mask, patch_mask).distance
    labels = torch.tensor([1, 0, 1, 0, 1])
    gradient = torch.autograd.grad(alignment.wpa(found, labels), (words, patches))
    alone = torch.stack(
        [
            transport_cost(words[b, :t], patches[b, :n])
            for b, (t, n) in enumerate(zip(WORDS, PATCHES, strict=True))
        ]
    )
    torch.testing.assert_close(found, alone)
    plain = torch.autograd.grad((alone * torch.tensor([1, -1, 1, -1, 1])).mean(), (words, patches))
    torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)
    assert all(torch.isfinite(g).all() for g in gradient)


def test_a_plan_carries_every_word_and_fills_every_patch() -> None:
    words, patches, word_mask, patch_mask = pairs(1)
    found = alignment.align(words, patches, word_mask, patch_mask)
    carried = found.transport.plan
    for b in range(3):
        of_words, of_patches = carried[b].sum(0), carried[b].sum(1)
        torch.testing.assert_close(of_words[: WORDS[b]], torch.full((WORDS[b],), 1 / WORDS[b]))
        torch.testing.assert_close(
            of_patches[: PATCHES[b]], torch.full((PATCHES[b],), 1 / PATCHES[b]), rtol=0.05, atol=0.0
        )
    assert carried[3:].abs().sum() == 0
    assert (found.distance[3:] == 0).all()


def test_words_go_to_the_patches_that_they_are_like() -> None:
    states = torch.eye(5)[None]
    order, mask = torch.tensor([3, 0, 4, 1, 2]), torch.ones(1, 5, dtype=torch.bool)
    found = alignment.align(states, states[:, order], mask, mask)
    assert found.transport.plan[0].argmax(0).tolist() == order.argsort().tolist()
    assert found.distance.item() < 1e-3


@pytest.mark.parametrize(("beta", "iterations"), [(0.5, 1), (0.1, 20)])
def test_other_settings(beta: float, iterations: int) -> None:
    cost = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(2))
    words, patches = (torch.ones(1, n, dtype=torch.bool) for n in (4, 6))
    found = alignment.ipot(cost, words, patches, beta=beta, iterations=iterations)
    torch.testing.assert_close(found.plan[0].T, plan(cost[0], beta=beta, iterations=iterations))


def test_computed_in_full_precision_under_autocast() -> None:
    words, patches, word_mask, patch_mask = pairs()
    whole = alignment.align(words, patches, word_mask, patch_mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = alignment.align(words, patches, word_mask, patch_mask)
    assert half.cost.dtype == torch.float32
    torch.testing.assert_close(half.distance, whole.distance)


def test_ends_of_a_text_are_no_words() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert alignment.without_ends(mask).int().tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
    ]
