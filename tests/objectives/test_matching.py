"""Hard negatives: whom they take, how often, and what they never do."""

from __future__ import annotations

import torch

from multiway.objectives import matching


def test_negatives_follow_the_softmax_of_what_is_allowed() -> None:
    g = torch.Generator().manual_seed(0)
    draws, sim = 20000, torch.tensor([[2.0, 0.0, 1.0, -1.0, 0.5]])
    forbidden = torch.tensor([[False, False, True, False, False]])
    found = matching.hard_negatives(sim.expand(draws, 5), forbidden.expand(draws, 5), generator=g)
    expected = sim.masked_fill(forbidden, -torch.inf).softmax(1)[0] * draws
    counts = found[:, 0].bincount(minlength=5)
    assert counts[2] == 0
    chi_square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, 1 in 1000


def test_a_positive_is_never_taken_also_where_softmax_saturates() -> None:
    g = torch.Generator().manual_seed(0)
    sim = torch.full((64, 64), -1e4).fill_diagonal_(1e4)
    forbidden = torch.eye(64).bool()
    found = matching.hard_negatives(sim, forbidden, generator=g)
    assert not forbidden.gather(1, found).any()
    assert found.unique().numel() > 20  # all others are equally unlikely, so all are drawn
    official = sim.softmax(1).masked_fill(forbidden, 0.0)
    assert official.sum() == 0  # where torch.multinomial would stop


def test_the_hardest_is_the_most_similar_that_is_allowed() -> None:
    sim = torch.tensor([[9.0, 1.0, 3.0], [5.0, 9.0, 4.0]])
    forbidden = torch.tensor([[True, False, False], [False, True, False]])
    assert matching.hard_negatives(sim, forbidden, hardest=True).tolist() == [[2], [0]]


def test_a_row_without_any_negative_says_so() -> None:
    forbidden = torch.tensor([[True, True], [True, False]])
    assert matching.hard_negatives(torch.zeros(2, 2), forbidden).tolist() == [[-1], [1]]


def test_several_negatives_of_a_row_are_different_and_end_with_what_is_allowed() -> None:
    g = torch.Generator().manual_seed(0)
    forbidden = torch.eye(4).bool()
    forbidden[0, 1] = True
    found = matching.hard_negatives(torch.randn(4, 4), forbidden, generator=g, count=3)
    assert sorted(found[0].tolist()) == [-1, 2, 3]
    assert all(len(set(row)) == 3 and b not in row for b, row in enumerate(found.tolist()))


def test_draws_come_from_the_generator_alone() -> None:
    sim, forbidden = torch.randn(8, 8), torch.eye(8).bool()
    one, two = (
        matching.hard_negatives(sim, forbidden, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_pairs_put_negatives_beside_their_own_row() -> None:
    own = torch.tensor([3, 4])
    pairs = matching.pairs(own, torch.tensor([[0], [-1]]), torch.tensor([[4], [3]]))
    assert pairs.text.tolist() == [3, 4, 3, 4, 0, 4]
    assert pairs.image.tolist() == [3, 4, 4, 3, 3, 4]
    assert pairs.labels.tolist() == [1, 1, 0, 0, 0, -100]


def test_pairs_with_several_negatives() -> None:
    own = torch.tensor([3, 4])
    pairs = matching.pairs(own, torch.tensor([[0, 1], [2, -1]]), torch.tensor([[4, 5], [3, 6]]))
    assert pairs.text.tolist() == [3, 4, 3, 4, 3, 4, 0, 2, 1, 4]
    assert pairs.image.tolist() == [3, 4, 4, 3, 5, 6, 3, 4, 3, 4]
    assert pairs.labels.tolist() == [1, 1] + [0] * 7 + [-100]


def test_unlabelled_pairs_do_not_count() -> None:
    logits = torch.randn(4, 2)
    labels = torch.tensor([1, 0, -100, 0])
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 3]], labels[[0, 1, 3]])
    torch.testing.assert_close(matching.itm(logits, labels), expected)
    torch.testing.assert_close(matching.itm(logits, labels, count=torch.tensor(6.0)), expected / 2)
