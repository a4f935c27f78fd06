"""The bootstrap beside a loop that draws samples by hand, and where the answer is known."""

import numpy as np
import pytest

from multiway.metrics.resample import differences, figures_of, intervals, resampled


def share(sums):
    return {"share": sums["hit"] / sums["n"]}


def test_sums_of_drawn_groups_equal_a_loop():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=(12, 2)), list("aabbbccddddd")
    found = resampled(values, groups, draws=5, seed=3)
    drawn = np.random.default_rng(3).integers(4, size=(5, 4))
    names = np.array(groups)
    for row, choice in zip(found, drawn, strict=True):
        expected = sum(values[names == "abcd"[g]].sum(0) for g in choice)
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_an_interval_of_a_share_is_near_the_binomial_one():
    right = np.arange(400) < 100
    columns = {"n": np.ones(400), "hit": right.astype(float)}
    low, high = intervals(columns, share, range(400))["share"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert figures_of(columns, share) == {"share": 0.25}
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)


def test_a_paired_difference_is_surer_than_two_intervals():
    """B is right wherever A is, and on 12 of 400 samples more: no draw makes it worse."""
    a = np.arange(400) % 2 == 0
    b = a | (np.arange(400) % 33 == 1)
    columns = [{"n": np.ones(400), "hit": x.astype(float)} for x in (a, b)]
    found = differences(*columns, share, range(400))["share"]
    assert found["difference"] == pytest.approx((b.sum() - a.sum()) / 400)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] < 0.01
    none = differences(columns[0], columns[0], share, range(400))["share"]
    assert (none["difference"], none["low"], none["high"], none["p"]) == (0, 0, 0, 1)
