"""Ranges: fitted by the formulas, strict as JSON, and refused where they do not belong."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import kinematics_fakes as kf
import numpy as np
import pytest

from heisd.errors import BadInput, UnknownName
from heisd.kinematics import (
    Distance,
    MotionRanges,
    Reading,
    Solver,
    displacement_m,
    fit_ranges,
    phase_signal,
    spread_m,
    with_heisd_code_bounds,
)
from heisd.kinematics.ranges import normalised

RANGES = kf.ranges()


@pytest.mark.parametrize(("window", "distance"), [(5, Distance.LAST_POINT), (15, Distance.PATH)])
def test_bounds_and_thresholds_are_the_percentiles_of_the_formulas(window: int, distance: Distance) -> None:
    episodes = [kf.episode(seed, 40) for seed in range(3)]
    windows = [e.eef_pos_m[max(i - window, 0) : i] for e in episodes for i in range(3, 41)]
    D = np.array([displacement_m(w, distance) for w in windows])
    R = np.array([spread_m(w) for w in windows])
    top_d, top_r = np.percentile(D, 95), np.percentile(R, 95)
    F = 0.3 * np.clip((R - R.min()) / (top_r - R.min()), 0, 1) + 0.7 * np.clip((D - D.min()) / (top_d - D.min()), 0, 1)
    speed = 1e3 * np.concatenate([np.linalg.norm(np.diff(e.eef_pos_m, axis=0), axis=1)[1:] for e in episodes])
    r = fit_ranges(episodes, suite="toy", window=window, alpha=0.3, distance=distance)
    assert (r.displacement_min_m, r.displacement_max_m) == pytest.approx((D.min(), top_d))
    assert (r.spread_min_m, r.spread_max_m) == pytest.approx((R.min(), top_r))
    assert r.fused_threshold == pytest.approx(np.percentile(F, 25))
    assert (r.speed_gate_mm, r.speed_high_mm) == pytest.approx(tuple(np.percentile(speed, [25, 95])))


def test_dyqs_scales_and_kervs_sigma() -> None:
    episodes = [kf.episode(seed, 40) for seed in range(3)]
    actions = [e.actions for e in episodes]
    mu = [np.linalg.norm(a[max(i - 10, 0) : i, :3], axis=1).mean() for a in actions for i in range(1, 40)]
    turns = [np.linalg.norm(np.diff(a[:, 3:6], axis=0), axis=1) for a in actions]
    nu = [t[max(i - 5, 0) : i].mean() for t in turns for i in range(1, 39)]
    r = fit_ranges(episodes, suite="toy", window=15)
    assert r.translation_high == pytest.approx(np.percentile(mu, 95))
    assert r.rotation_change_high == pytest.approx(np.percentile(nu, 95))
    sigma = np.concatenate([np.diff(a, axis=0) for a in actions]).std(axis=0)
    assert r.action_change_sigma == pytest.approx(tuple(sigma))


def test_a_quarter_of_the_fitted_steps_is_below_the_threshold() -> None:
    tolerant = [
        phase_signal(kf.episode(seed).upto(n), RANGES).is_tolerant(Reading.FUSED)
        for seed in range(6)
        for n in range(3, 61)
    ]
    assert np.mean(tolerant) == pytest.approx(0.75, abs=0.01)


def test_nan_in_demonstrations_is_left_out() -> None:
    broken = kf.episode(0)
    broken.eef_pos_m[7] = math.nan
    broken.actions[20] = math.nan
    r = fit_ranges([broken, kf.episode(1)], suite="toy", window=5)
    assert all(math.isfinite(value) for value in r.as_dict().values() if isinstance(value, float))


@pytest.mark.parametrize("episodes", [[], [kf.motion_of(np.zeros((2, 3)))], [kf.motion_of(np.full((9, 3), np.nan))]])
def test_nothing_to_fit_to_is_an_error(episodes: list) -> None:
    with pytest.raises(BadInput, match="at least 3 finite positions"):
        fit_ranges(episodes, suite="toy", window=5)


def test_still_demonstrations_give_ranges_that_are_defined() -> None:
    r = fit_ranges([kf.motion_of(np.ones((9, 3)))], suite="toy", window=5)
    assert (r.displacement_max_m, r.spread_max_m, r.speed_high_mm, r.translation_high) == (0, 0, 0, 0)


def test_a_window_below_three_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 3 positions; got 2"):
        fit_ranges([kf.episode(0)], suite="toy", window=2)


def test_json_there_and_back() -> None:
    text = json.dumps(RANGES.as_dict(), allow_nan=False)
    assert MotionRanges.from_dict(json.loads(text)) == RANGES
    with_high = replace(RANGES, variability_high=2.5)
    assert MotionRanges.from_dict(with_high.as_dict()) == with_high
    without = {k: v for k, v in RANGES.as_dict().items() if k != "variability_high"}
    assert MotionRanges.from_dict(without) == RANGES


def test_unknown_and_missing_keys_are_named() -> None:
    values = RANGES.as_dict()
    values["thresold"] = values.pop("fused_threshold")
    with pytest.raises(
        BadInput, match=r"unknown key\(s\) \['thresold'\] and without \['fused_threshold'\]; known: .*alpha"
    ):
        MotionRanges.from_dict(values)


def test_one_key_too_many_or_too_few_is_enough() -> None:
    values = RANGES.as_dict()
    with pytest.raises(BadInput, match=r"unknown key\(s\) \['colour'\] and without \[\]"):
        MotionRanges.from_dict(values | {"colour": "red"})
    del values["alpha"]
    with pytest.raises(BadInput, match=r"unknown key\(s\) \[\] and without \['alpha'\]"):
        MotionRanges.from_dict(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("window", 2), ("window", 5.5), ("window", True), ("alpha", 1.5), ("alpha", "half"), ("speed_gate_mm", math.nan),
     ("speed_gate_mm", -1), ("displacement_min_m", 99.0), ("spread_min_m", 99.0), ("fused_threshold", 1.1),
     ("action_change_sigma", [1.0]), ("action_change_sigma", None), ("variability_high", 0.0),
     ("variability_high", math.inf), ("translation_high", None), ("spread_max_m", True)],
)  # fmt: skip
def test_impossible_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(BadInput):
        MotionRanges.from_dict(RANGES.as_dict() | {key: value})


@pytest.mark.parametrize(("key", "known"), [("solver", "centroid"), ("distance", "last_point")])
def test_unknown_names_list_the_known_ones(key: str, known: str) -> None:
    with pytest.raises(UnknownName, match=f"'circle'; known: .*{known}"):
        MotionRanges.from_dict(RANGES.as_dict() | {key: "circle"})


def test_another_window_solver_or_distance_is_refused() -> None:
    assert RANGES.require(window=15, solver=Solver.CENTROID, distance=Distance.PATH) is RANGES
    with pytest.raises(
        BadInput, match=r"toy are for window 15, not 5; solver centroid, not algebraic: .*fit them again"
    ):
        RANGES.require(window=5, solver=Solver.ALGEBRAIC)
    with pytest.raises(BadInput, match="distance path, not last_point"):
        RANGES.require(distance=Distance.LAST_POINT)


def test_published_constants_only_for_the_released_definitions() -> None:
    released = kf.ranges(window=5, distance=Distance.LAST_POINT)
    goal = with_heisd_code_bounds(released, "libero_goal")
    assert (goal.suite, goal.fused_threshold, goal.displacement_max_m) == ("libero_goal", 0.143210, 0.139051)
    assert goal.speed_gate_mm == released.speed_gate_mm
    with pytest.raises(BadInput, match="window 15, not 5"):
        with_heisd_code_bounds(RANGES, "libero_goal")
    with pytest.raises(UnknownName, match="known: libero_10, libero_goal"):
        with_heisd_code_bounds(released, "libero_90")


def test_normalised_never_falls() -> None:
    for low, high in [(0.0, 1.0), (0.2, 0.2), (0.0, 0.0), (1e-9, 5.0)]:
        values = [normalised(x, low, high) for x in np.linspace(0, 6, 400)]
        assert all(0 <= a <= b <= 1 for a, b in pairwise(values))
    assert math.isnan(normalised(math.nan, 0.0, 1.0))
