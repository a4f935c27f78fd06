"""The bootstrap beside a loop that draws samples by hand, and where the answer is known."""

import numpy as np
import pytest

from multiway.metrics.resample import LEAST, differences, figures_of, intervals, resampled, wilson


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
    """B is right wherever A is, and on 7 of 400 samples more: no draw makes it worse."""
    a = np.arange(400) % 2 == 0
    b = a | (np.arange(400) % 33 == 1)
    columns = [{"n": np.ones(400), "hit": x.astype(float)} for x in (a, b)]
    found = differences(*columns, share, range(400))["share"]
    assert found["difference"] == pytest.approx((b.sum() - a.sum()) / 400)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] == 2.0**-6  # a sign test of seven
    none = differences(columns[0], columns[0], share, range(400))["share"]
    assert (none["difference"], none["low"], none["high"], none["p"]) == (0, None, None, 1)


@pytest.mark.parametrize("count", [1, 3, 5, 6, 40])
def test_few_samples_that_all_differ_prove_nothing(count):
    wrong, right = ({"n": np.ones(count), "hit": np.full(count, hit)} for hit in (0.0, 100.0))
    found = differences(wrong, right, share, range(count))["share"]
    assert (found["difference"], found["differing"]) == (100, count)
    assert found["p"] == pytest.approx(max(2.0 ** (1 - count), 2 / 2001))
    assert (found["low"], found["high"]) == ((100, 100) if count >= LEAST else (None, None))


def test_a_mean_of_equal_samples_has_no_interval():
    columns = {"cider": np.zeros(20), "other": np.arange(20.0), "n": np.ones(20)}

    def figures(sums):
        return {name: sums[name] / sums["n"] for name in ("cider", "other")}

    found = intervals(columns, figures, range(20), means=("cider", "other"))
    assert found["cider"] is None
    assert found["other"] is not None
    assert intervals(columns, figures, range(20))["cider"] is not None


def test_a_share_of_none_or_all_has_wilson_s_interval():
    for hit, expected in ((0.0, wilson(0, 8)), (100.0, wilson(8, 8))):
        columns = {"n": np.ones(16), "hit": np.full(16, hit)}
        low, high = intervals(columns, share, [i // 2 for i in range(16)])["share"]
        assert (low, high) == pytest.approx([100 * end for end in expected])


def test_one_group_that_is_partly_right_has_no_interval():
    columns = {"n": np.ones(2), "hit": np.array([0.0, 100.0])}
    assert intervals(columns, share, ["a", "a"])["share"] is None
