"""KERV's variability: the recursion, its closed form and its fit."""

import math

import numpy as np
import pytest

from heisd.accept import kinematic_tolerance_bins
from heisd.errors import BadInput
from heisd.kinematics import bin_sizes, faded, fit_variability_high, variability
from heisd.types import IntArray

Q01, Q99 = [-1.0, -0.5, -0.8, -0.1, -0.1, -0.2, 0.0], [1.0, 0.9, 0.8, 0.1, 0.2, 0.2, 1.0]
SIZES = bin_sizes(Q01, Q99)
SIGMA = (0.1, 0.2, 0.1, 0.05, 0.05, 0.1, 0.3)


def after(rows: IntArray | list[list[int]], before: float = 0.0, sigma: tuple[float, ...] = SIGMA) -> float:
    """K once these deviations in bins have come, from an M of ``before`` in every dimension."""
    deviation = np.full(7, before)
    for row in rows:
        deviation = faded(deviation, np.asarray(row) * SIZES)
    return variability(deviation, sigma)


def test_a_bin_is_its_share_of_the_range_and_the_gripper_never_counts() -> None:
    assert SIZES[:2] == pytest.approx([2 / 255, 1.4 / 255])
    assert SIZES[6] == 0
    assert after([[0, 0, 0, 0, 0, 0, 255]]) == 0


def test_the_recursion_is_the_formula(rng: np.random.Generator) -> None:
    rows = rng.integers(0, 16, (30, 7))
    k = after(rows)
    sums = (rows * SIZES / SIGMA).sum(axis=1)
    assert k == pytest.approx(sum(0.2 * 0.8 ** (29 - t) * sums[t] for t in range(30)))


def test_exact_steps_let_it_decay_and_larger_deviations_raise_it() -> None:
    assert after([[0] * 7], before=0.1) == pytest.approx(0.8 * variability(np.full(7, 0.1), SIGMA))
    values = [after([[bins] * 7], before=0.01) for bins in range(20)]
    assert values == sorted(values)
    tolerances = [kinematic_tolerance_bins(k, 3.0) for k in values]
    assert tolerances == sorted(tolerances, reverse=True)


def test_a_dimension_that_never_changes_says_nothing() -> None:
    assert after([[9, 0, 0, 0, 0, 0, 0]], sigma=(0.0, *SIGMA[1:])) == 0


def test_nan_stays_and_is_the_strictest_tolerance() -> None:
    k = after([[0] * 7], before=math.nan)
    assert math.isnan(k)
    assert kinematic_tolerance_bins(k, 1.0) == 5


@pytest.mark.parametrize("bins", [[0] * 6, [-1] * 7, [math.nan] * 7, [[9] * 7]])
def test_impossible_deviations_are_refused(bins: list) -> None:
    with pytest.raises(BadInput):
        fit_variability_high([[bins]], SIZES, SIGMA)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(BadInput, match="decay"):
        fit_variability_high([[[9] * 7]], SIZES, SIGMA, decay=decay)


def test_the_fit_is_the_percentile_and_every_episode_starts_at_zero(rng: np.random.Generator) -> None:
    episodes = [rng.integers(0, 10, (20, 7)) for _ in range(4)]
    values = [after(rows[:n]) for rows in episodes for n in range(1, 21)]
    assert fit_variability_high(episodes, SIZES, SIGMA) == pytest.approx(np.percentile(values, 95))


@pytest.mark.parametrize("episodes", [[], [np.zeros((5, 7), int)]])
def test_nothing_relaxed_is_nothing_to_fit(episodes: list) -> None:
    with pytest.raises(BadInput, match="relaxed rule first"):
        fit_variability_high(episodes, SIZES, SIGMA)
