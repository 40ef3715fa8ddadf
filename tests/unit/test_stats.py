"""Intervals against closed forms and coverage, not against another implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from heisd.bench.stats import Z95, distribution, paired_difference, ratio_of_sums, wilson


def test_z_is_the_normal_quantile():
    assert pytest.approx(norm.ppf(0.975)) == Z95


@given(st.integers(1, 400), st.data())
def test_wilson_bounds_solve_the_score_equation(n, data):
    k = data.draw(st.integers(0, n))
    rate = wilson(k, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    for bound in {rate.low, rate.high} - {0.0, 1.0}:
        assert abs(k / n - bound) == pytest.approx(Z95 * np.sqrt(bound * (1 - bound) / n), abs=1e-9)


def test_wilson_known_values():
    # Half-widths that the evaluation protocol quotes: +-3.8 points at n = 500, +-12 at n = 50.
    assert (wilson(375, 500).high - wilson(375, 500).low) / 2 == pytest.approx(0.038, abs=0.0005)
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="5 successes in 4"):
        wilson(5, 4)


@given(st.integers(1, 300))
def test_tango_without_any_difference_has_its_closed_form(n):
    found = paired_difference([True] * n, [True] * n)
    assert found.value == 0
    assert found.high == pytest.approx(Z95**2 / (n + Z95**2), rel=1e-6)
    assert found.low == pytest.approx(-found.high, rel=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_tango_is_antisymmetric_and_contains_its_estimate(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert -1 <= forward.low <= forward.value <= forward.high <= 1
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low), abs=1e-6)


def test_tango_with_one_discordant_pair():
    # One discordant pair in 44: the interval must hold zero and its own estimate.
    found = paired_difference([False] + [True] * 43, [True] * 44)
    assert found.value == pytest.approx(1 / 44)
    assert found.low < 0 < found.high


def test_tango_covers_the_truth(rng):
    """Coverage of a 5-point difference over 400 simulated experiments of 100 pairs stays near 95 %."""
    inside = 0
    for _ in range(400):
        a = rng.random(100) < 0.9
        flip = rng.random(100)
        b = np.where(a, flip > 0.08, flip < 0.22)
        truth = 0.1 * 0.22 - 0.9 * 0.08
        found = paired_difference(a.tolist(), b.tolist())
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / 400 <= 0.99


def test_ratio_of_sums_is_not_a_mean_of_ratios():
    found = ratio_of_sums([10.0, 1.0], [1.0, 1.0])
    assert found.value == pytest.approx(5.5)
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(10.0)
    assert ratio_of_sums([], []) is None
    assert ratio_of_sums([1.0], [0.0]) is None


def test_constant_ratio_has_no_width_and_repeats(rng):
    bottom = rng.random(30) + 0.1
    found = ratio_of_sums((2 * bottom).tolist(), bottom.tolist())
    assert (found.low, found.value, found.high) == pytest.approx((2, 2, 2))
    noisy = rng.random(30)
    assert ratio_of_sums(noisy.tolist(), bottom.tolist()) == ratio_of_sums(noisy.tolist(), bottom.tolist())


def test_an_empty_distribution_is_none_not_zero():
    assert distribution([]) == {"n": 0, "p50": None, "p95": None, "p99": None, "mean": None}
    assert distribution([1.0, 2.0, 3.0])["p50"] == 2.0
