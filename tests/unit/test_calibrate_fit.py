"""The statistics of a calibration: known truths are found again, bounds are the textbook's, searches stop in order."""

import json
from dataclasses import replace

import numpy as np
import pytest
from calibrate_fakes import TARGET, observed
from scipy.stats import beta

from heisd.bench.observed import GOOD_BINS
from heisd.bench.skip_fit import (
    adaptive_similarity,
    area_under_curve,
    calibration_curve,
    clopper_pearson_high,
    clopper_pearson_low,
    fit_score,
    quality,
)
from heisd.bench.suite_fit import fit_settings, fit_suite, good_action, halves, kept_deviation_bins
from heisd.bench.watch_fit import fit_watch, watch_evidence
from heisd.errors import BadArtifact, BadInput
from heisd.kinematics import Distance
from heisd.presets.calibration import Calibration
from heisd.watch import DEFAULT, ViewLimits


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (59, 59), (199, 200)])
def test_clopper_pearson_is_the_beta_quantile(k, n):
    low = 0.0 if k == 0 else beta.ppf(0.05, k, n - k + 1)
    high = 1.0 if k == n else beta.ppf(0.95, k + 1, n - k)
    assert clopper_pearson_low(k, n) == pytest.approx(low, abs=1e-12)
    assert clopper_pearson_high(k, n) == pytest.approx(high, abs=1e-12)
    assert clopper_pearson_low(k, n) <= k / n <= clopper_pearson_high(k, n)


def test_without_a_sample_nothing_is_known():
    assert (clopper_pearson_low(0, 0), clopper_pearson_high(0, 0)) == (0.0, 1.0)
    with pytest.raises(BadInput, match="k of n"):
        clopper_pearson_low(3, 2)


def test_a_known_logistic_is_recovered(rng):
    X = rng.normal([5.0, -2.0, 100.0], [2.0, 0.5, 30.0], (40_000, 3))
    logit = 0.7 + 1.5 * (X[:, 0] - 5.0) / 2.0 - 0.8 * (X[:, 1] + 2.0) / 0.5
    is_good = rng.random(len(X)) < 1 / (1 + np.exp(-logit))
    score = fit_score(("a", "b", "noise"), X, is_good, l2=0.0)
    assert score.bias == pytest.approx(0.7, abs=0.06)
    assert score.weight == pytest.approx((1.5, -0.8, 0.0), abs=0.06)
    some = X[:5]
    promised = [score(dict(zip(("a", "b", "noise"), row, strict=True))) for row in some.tolist()]
    assert promised == pytest.approx((1 / (1 + np.exp(-logit[:5]))).tolist(), abs=0.03)


def test_a_penalty_shrinks_and_separable_data_stay_finite(rng):
    x = rng.normal(size=(400, 1))
    is_good = x[:, 0] > 0
    assert abs(fit_score(("a",), x, is_good, l2=1.0).weight[0]) < abs(fit_score(("a",), x, is_good).weight[0]) < 100


def test_features_that_never_change_drop_out_and_one_class_leaves_its_share():
    X = np.column_stack([np.full(50, 0.1 + 0.2), np.linspace(0, 1, 50)])
    score = fit_score(("constant", "b"), X, np.ones(50, dtype=bool))
    assert score.names == ("b",)
    assert score.weight == (0.0,)
    assert score({"b": 0.3}) == pytest.approx(50.5 / 51)
    with pytest.raises(BadInput, match="finite features"):
        fit_score(("a",), np.array([[np.nan]]), np.array([True]))
    with pytest.raises(BadInput, match="finite features"):
        fit_score(("a",), np.empty((0, 1)), np.empty(0, dtype=bool))


def test_area_under_curve_counts_pairs(rng):
    p, y = rng.integers(0, 5, 40) / 5, rng.random(40) < 0.4
    good, bad = p[y], p[~y]
    by_pairs = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    assert area_under_curve(p, y) == pytest.approx(by_pairs)
    assert area_under_curve(p, np.ones(40, dtype=bool)) is None
    assert quality(np.empty(0), np.empty(0, dtype=bool)) == {"n": 0, "n_good": 0, "auc": None, "curve": []}


def test_the_curve_holds_every_row_once(rng):
    p = np.append(rng.random(500), [0.0, 1.0])
    y = rng.random(502) < p
    curve = calibration_curve(p, y)
    assert sum(row["n"] for row in curve) == 502
    assert all(row["low"] <= row["score"] <= row["high"] for row in curve)
    assert sum(row["n"] * row["good"] for row in curve) == pytest.approx(y.sum())


def test_the_similarity_search_stops_at_the_first_failure():
    # Good at the top, bad in the middle, good again below: what lies behind the failure must not be reached, though
    # with it a looser threshold would pass.
    similarity = np.linspace(1.0, 0.0, 4000)
    is_good = np.ones(4000, dtype=bool)
    is_good[400:480] = False
    minimum, tried = adaptive_similarity(similarity, is_good)
    assert [rung["passes"] for rung in tried] == [True, True, False]
    assert minimum == tried[1]["similarity"] == similarity[399]
    whole = clopper_pearson_low(int(is_good.sum()), 4000)
    assert whole > 0.95


def test_no_similarity_is_good_enough_or_there_are_too_few_frames():
    s = np.linspace(0.5, 0.9, 500)
    minimum, tried = adaptive_similarity(s, np.zeros(500, dtype=bool))
    assert (minimum, len(tried)) == (1.0, 1)
    assert adaptive_similarity(s[:40], np.ones(40, dtype=bool)) == (1.0, [])  # 58 would not do, whatever they say
    assert adaptive_similarity(np.empty(0), np.empty(0, dtype=bool)) == (1.0, [])
    assert adaptive_similarity(s, np.ones(500, dtype=bool))[0] == s.min()


def test_halves_do_not_depend_on_the_order_and_share_nothing(tmp_path):
    episodes = observed(tmp_path, 5)
    first, second = halves(episodes)
    assert {e.key for e in first} | {e.key for e in second} == {e.key for e in episodes}
    assert (len(first), len(second)) == (3, 2)
    assert halves(episodes[::-1]) == (first, second)


def test_a_suite_is_fitted_and_survives_its_file(tmp_path):
    fitted = fit_suite("toy", TARGET, observed(tmp_path / "rows", 8))
    fitted.save(tmp_path / "toy.json")
    again = Calibration.load(tmp_path / "toy.json", TARGET.sha256)
    assert again == fitted
    assert (again.paper_ranges().window, again.paper_ranges().distance) == (15, Distance.PATH)
    assert (again.code_ranges().window, again.code_ranges().distance) == (5, Distance.LAST_POINT)
    assert again.code_ranges().variability_high > 0
    assert "parallel" in again.evidence["variability_high"]["how"]
    assert len(again.kalman_noise().process) == 7
    assert again.skip_setting("hybrid").n_skips == 0
    assert again.skip_setting("hybrid").evidence["auc"] > 0.7  # similarity tells good from bad in these episodes


def test_scores_use_the_fitted_ranges_and_memory_only_where_there_is_one(tmp_path):
    episodes = observed(tmp_path, 8)
    ranges = fit_suite("toy", TARGET, episodes).code_ranges()
    settings = fit_settings(episodes, ranges)
    score = settings["hybrid"].score
    assert "change_bins" not in score.names  # never changes here
    fused = np.concatenate([e.fused(ranges)[1:] for e in halves(episodes)[0]])
    assert score.mean[score.names.index("fused")] == pytest.approx(fused.mean())  # not the rows' own, which are 0
    every = np.concatenate([[step.similarity for step in e.steps] for e in episodes])
    assert settings["hybrid"].min_similarity == pytest.approx(np.percentile(every, 1))


def test_a_skip_without_a_look_is_good_when_its_own_guess_was(tmp_path):
    """Not when the source's at that step's look was; and how old the look is may be weighed."""
    episodes = observed(tmp_path, 8)
    rng = np.random.default_rng(0)

    def glanced(step):
        n_skips = int(rng.integers(0, 6))
        guess = replace(step.guesses["parallel"], distance_bins=40 if n_skips > 2 else 0)
        case = replace(step.cases["coast"], guess=guess, features={**step.cases["coast"].features, "n_skips": n_skips})
        return replace(step, cases={**step.cases, "coast": case})

    aged = [replace(e, steps=(e.steps[0], *map(glanced, e.steps[1:]))) for e in episodes]
    ranges = fit_suite("toy", TARGET, episodes).code_ranges()
    settings = fit_settings(aged, ranges)
    assert settings["coast"].evidence["auc"] > 0.95 > settings["hybrid"].evidence["auc"]
    assert "n_skips" in settings["coast"].score.names
    assert "n_skips" not in settings["hybrid"].score.names


def test_what_good_means_in_millimetres_and_degrees():
    good = good_action(TARGET.bin_sizes)
    assert good["bins"] == GOOD_BINS == 15
    assert good["mm"][0] == pytest.approx(15 * 1.8 / 255 * 50, abs=1e-3)
    assert good["deg"][0] == pytest.approx(15 * 0.2 / 255 * np.degrees(0.5), abs=1e-3)


def test_deviations_are_kept_up_to_the_first_miss(tmp_path):
    step = observed(tmp_path, 1)[0].steps[3]
    tokens = np.asarray(step.tokens)
    guess = tokens + [9, -4, 10, 2, 0, 0, 0]
    changed = type(step.guesses["parallel"])(tuple(guess.tolist()), 10, True)
    step.guesses["parallel"] = changed
    assert kept_deviation_bins(step, "parallel").tolist() == [9, 4, 0, 0, 0, 0, 0]
    assert kept_deviation_bins(step, "nobody").tolist() == [0] * 7


def test_ranges_come_from_solved_episodes(tmp_path):
    solved, failed = observed(tmp_path / "a", 3), observed(tmp_path / "b", 6, success=False)[3:]
    both, of_solved = fit_suite("toy", TARGET, [*solved, *failed]), fit_suite("toy", TARGET, solved)
    assert (both.motion_code, both.watch) == (of_solved.motion_code, of_solved.watch)
    assert both.watch != fit_watch([*solved, *failed])
    assert "no episode was solved" in fit_suite("toy", TARGET, failed).evidence["notes"][0]


def test_no_step_that_the_watch_was_fitted_to_is_an_alarm_and_every_limit_is_one_of_them_with_its_margin(tmp_path):
    episodes = observed(tmp_path, 6)
    watch = fit_watch(episodes)
    assert set(watch.cameras) == {"agentview", "wrist"}
    steps = [step for episode in episodes for step in episode.steps]
    for camera, limits in watch.cameras.items():
        views = [step.views[camera] for step in steps]
        assert {limits.alarm(view) for view in views} == {None}
        for name in ("min_contrast", "max_noise", "min_peak", "max_change"):
            factor = 1.26 if name.startswith("min") else 1 / 1.26
            tighter = replace(limits, **{name: getattr(limits, name) * factor})
            assert 0 < sum(tighter.alarm(view) is not None for view in views) < len(views) / 10
        assert limits.max_frozen == 1
    assert watch.min_similarity == pytest.approx(1 - 1.25 * (1 - min(step.similarity for step in steps)))
    assert not any(watch.is_novel(step.similarity) for step in steps)


def test_new_episodes_pass_a_limit_as_rarely_as_stated(tmp_path):
    everything = observed(tmp_path, 60)
    n, passed = 9, []
    for first in range(0, 60, n + 1):
        *fitted_to, new = everything[first : first + n + 1]
        watch = fit_watch(fitted_to)
        passed.append(any(watch.is_novel(step.similarity) for step in new.steps))
    assert watch_evidence(everything[:n])["alarmed_share_of_episodes_at_most"] == 1 / (n + 1)
    assert np.mean(passed) <= 3 / (n + 1)  # six draws of one in ten


def test_rows_of_older_versions_leave_the_default_limits(tmp_path):
    episodes = observed(tmp_path, 2)
    old = [replace(e, steps=tuple(replace(s, views={}, similarity=np.nan) for s in e.steps)) for e in episodes]
    assert fit_watch(old) == DEFAULT
    assert fit_suite("toy", TARGET, old).watch == DEFAULT


def test_the_watch_is_part_of_the_file_and_a_file_without_one_has_the_default(tmp_path):
    path = tmp_path / "toy.json"
    fitted = fit_suite("toy", TARGET, observed(tmp_path / "rows", 4))
    fitted.save(path)
    assert Calibration.load(path, TARGET.sha256).watch == fitted.watch != DEFAULT
    assert fitted.evidence["watch"]["n_episodes"] == 4
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name != "watch"}))
    assert Calibration.load(path, TARGET.sha256).watch == DEFAULT
    for wrong in ({"hold_steps": -1}, {"cameras": {"wrist": {"min_peak": None}}}, {"hold_steps": "long"}):
        path.write_text(json.dumps({**values, "watch": wrong}))
        with pytest.raises(BadArtifact, match=r"toy\.json"):
            Calibration.load(path, TARGET.sha256)
    assert ViewLimits(**values["watch"]["cameras"]["wrist"]) == fitted.watch.cameras["wrist"]
