"""Shares of right choices and their intervals, on numbers small enough to check by eye."""

import numpy as np
import pytest

from multiway.metrics.classification import (
    balanced,
    bootstrap,
    consistency,
    in_top,
    majority,
)
from multiway.metrics.resample import wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (3, 10, 0.1078, 0.6032), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_by_the_tables(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-4)


def test_no_choice_has_no_share():
    with pytest.raises(ValueError, match="no choice"):
        wilson(0, 0)


def test_choices_that_hang_together_say_less():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(50) < 0.6, 20)
    apart = bootstrap(right, list(range(1000)))
    together = bootstrap(right, np.repeat(np.arange(50), 20).tolist())
    low, high = wilson(int(right.sum()), 1000)
    assert apart[0] == pytest.approx(100 * low, abs=1)
    assert apart[1] == pytest.approx(100 * high, abs=1)
    assert together[1] - together[0] > 300 * (high - low)
    assert bootstrap(right, list(range(1000))) == apart  # drawn with a seed


def test_a_share_of_all_or_of_one_group_is_not_sure():
    low, high = wilson(2, 2)
    assert bootstrap(np.ones(4, bool), list("aabb")) == pytest.approx((100 * low, 100 * high))
    assert bootstrap(np.array([True, False]), list("aa")) is None


def test_consistency_is_of_whole_groups():
    assert consistency(np.array([True, True, True, False]), ["a", "a", "b", "b"]) == 0.5


def test_majority_and_the_mean_over_classes():
    labels = np.array([0, 0, 0, 2])
    assert majority(labels) == 0.75
    assert balanced(np.array([True, True, True, False]), labels) == 0.5


def test_ties_count_against_the_class():
    logits = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    labels = np.array([0, 1, 2])
    assert in_top(logits, labels, 1).tolist() == [True, False, False]
    assert in_top(logits, labels, 2).tolist() == [True, True, False]
    assert in_top(logits, labels, 5).all()
    assert not in_top(np.full((2, 3), np.nan), np.array([0, 1]), 1).any()


def test_top_k_beside_a_sorted_list():
    """Thousands of random cases with ties: the class is counted behind every class of its score."""
    rng = np.random.default_rng(0)
    for k in (1, 2, 5):
        logits = rng.integers(0, 6, (1500, 7)).astype(float)
        labels = rng.integers(0, 7, 1500)
        expected = []
        for row, label in zip(logits, labels, strict=True):
            order = sorted(range(7), key=lambda c, row=row, label=label: (-row[c], c == label))
            expected.append(label in order[:k])
        assert in_top(logits, labels, k).tolist() == expected
