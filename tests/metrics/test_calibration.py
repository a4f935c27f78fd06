"""The fit beside scipy-free gradient descent and where the truth is known; ECE by hand."""

import numpy as np
import pytest

from multiway.metrics.calibration import ece, fit, held_out, sigmoid


def drawn(count, scale, bias, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 4, count)
    return scores, rng.random(count) < sigmoid(scale * scores + bias)


def test_finds_the_scale_and_bias_that_made_the_labels():
    scores, labels = drawn(20_000, 0.5, -1.0)
    assert fit(scores, labels) == pytest.approx((0.5, -1.0), abs=0.05)
    assert fit(1e4 * scores, labels) == pytest.approx((0.5e-4, -1.0), rel=0.06)
    scores, labels = drawn(20_000, 0.5, 0.0)
    scale, bias = fit(scores, labels, "temperature")
    assert scale == pytest.approx(0.5, abs=0.03)
    assert bias == 0


def test_is_where_the_gradient_vanishes():
    scores, labels = drawn(200, 0.3, 0.4, seed=2)
    scale, bias = fit(scores, labels)
    ones, zeros = labels.sum(), (~labels).sum()
    target = np.where(labels, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    residual = sigmoid(scale * scores + bias) - target
    assert abs(residual.sum()) < 1e-6
    assert abs((residual * scores).sum()) < 1e-5


def test_parted_scores_stay_finite_and_one_label_is_refused():
    scores = np.array([-2.0, -1.0, 1.0, 2.0] * 5)
    scale, bias = fit(scores, scores > 0)
    assert 0 < scale < 50
    assert abs(bias) < 1
    with pytest.raises(ValueError, match="both labels"):
        fit(scores, scores > 9)


def test_ece_by_hand():
    p = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    labels = np.array([False, True, True, True, False])
    # bins of 1/2: |0.1 - 1| and |2.9 - 2| over five pairs
    assert ece(p, labels, bins=2) == pytest.approx((0.9 + 0.9) / 5)
    assert ece(labels.astype(float), labels) == 0


def test_held_out_probabilities_are_calibrated_where_raw_ones_are_not():
    scores, labels = drawn(4000, 0.25, -0.5, seed=5)
    groups = [str(i // 2) for i in range(len(scores))]
    after = ece(held_out(scores, labels, groups), labels)
    assert after < 0.03 < ece(sigmoid(scores), labels)
