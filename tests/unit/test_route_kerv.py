"""KERV's routes: cooldown, tolerance, who completes an action."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import route_fakes as fakes
from fake_target import CODEC
from hypothesis import given, settings
from hypothesis import strategies as st
from route_fakes import CONTEXT, GUESS, outcome

from heisd.accept import kinematic_tolerance_bins, scheduled_tolerance_bins
from heisd.errors import BadInput
from heisd.kinematics import PhaseSignal, bin_sizes
from heisd.propose.base import HISTORY_STEPS, History
from heisd.route.base import Memory, Outcome, Plan, Reason, Route, RouteKind, Router
from heisd.route.kerv import COOLDOWN_STEPS, AdaptiveTolerance, KervCode, KervPaper
from heisd.types import Action, IntArray, TokenOrigin

K_HIGH = 4.0
RANGES = replace(fakes.kin.ranges(window=15, suite="toy"), variability_high=K_HIGH)
SIZES = bin_sizes(CODEC.q01, CODEC.q99)
SIGMA = np.asarray(RANGES.action_change_sigma)
MOTION = Route(RouteKind.SPECULATE, Reason.COOLDOWN)
ACTION = Action(CODEC.decode(np.asarray(GUESS)), np.asarray(GUESS), (TokenOrigin.ACCEPTED,) * 7)


def paper() -> KervPaper:
    return KervPaper(RANGES)


def varied(k: float) -> PhaseSignal | None:
    """What an episode reads whose variability is ``k``."""
    return paper().read(replace(History.empty(7), deviation=np.asarray([k * SIGMA[0], *[0.0] * 6])))


def kept(bins: IntArray) -> Outcome:
    """An action of which the tokens that are so many bins off were kept all the same."""
    origins = tuple(TokenOrigin.RELAXED if n else TokenOrigin.ACCEPTED for n in bins)
    whole = replace(fakes.verdict(7), origins=origins, deviation_bins=tuple(map(int, bins)))
    return Outcome(MOTION, (whole,), (0,), GUESS)


def tolerance(route: Route) -> int:
    assert isinstance(route.rule, partial)
    r_bins = route.rule.keywords["tolerance_bins"]
    assert r_bins == route.score
    return int(r_bins)


def filled(route: Route) -> Outcome:
    return Outcome(route, (fakes.verdict(3), fakes.verdict(3, origin=TokenOrigin.COMPENSATED)), (0, 4), GUESS)


def test_ranges_without_variability_are_refused() -> None:
    with pytest.raises(BadInput, match="variability_high"):
        KervPaper(replace(RANGES, variability_high=None))


def test_the_drafter_speaks_behind_the_prefill_and_the_filter_may_complete_from_three_tokens_on() -> None:
    router = paper()
    assert router.plan(None, Memory()) == Plan((), later=("eagle",))
    route = router.decide(CONTEXT, None, [], router.begin())
    assert (route.reason, route.completed_by, route.completes_from) == (Reason.COMPENSATION, "kalman", 3)


def test_four_plain_steps_follow_a_compensation() -> None:
    router = paper()
    memory, reasons = router.begin(), []
    for _ in range(12):
        route = router.decide(CONTEXT, None, [], memory)
        reasons.append(route.reason)
        assert (route.completed_by == "") is (route.reason is Reason.COOLDOWN)
        memory = router.remember(memory, filled(route) if route.completed_by else outcome(route, 3))
    assert COOLDOWN_STEPS == 4
    assert reasons == ([Reason.COMPENSATION] + [Reason.COOLDOWN] * 4) * 2 + [Reason.COMPENSATION, Reason.COOLDOWN]


def test_an_offer_nobody_took_starts_no_cooldown() -> None:
    router = paper()
    route = router.decide(CONTEXT, None, [], router.begin())
    assert router.remember(router.begin(), outcome(route, 7)).cooldown == 0


@pytest.mark.parametrize(("k", "r_bins"), [(0.0, 15), (2.0, 10), (4.0, 5), (40.0, 5), (float("nan"), 5)])
def test_the_tolerance_falls_from_fifteen_to_five_with_variability(k: float, r_bins: int) -> None:
    assert tolerance(paper().decide(CONTEXT, varied(k), [], Memory())) == r_bins


def test_an_unknown_variability_is_the_strictest() -> None:
    untold = paper().read(replace(History.empty(7), deviation=None))
    assert [tolerance(paper().decide(CONTEXT, phase, [], Memory())) for phase in (None, untold)] == [5, 5]


def test_variability_follows_the_bins_of_relaxed_tokens_alone() -> None:
    relaxed = fakes.verdict(2, origin=TokenOrigin.RELAXED, deviation_bins=4)
    made_up = fakes.verdict(2, origin=TokenOrigin.COMPENSATED, deviation_bins=90)
    assert Outcome(MOTION, (relaxed, made_up), (1, 4), GUESS).deviation_bins == [0, 4, 4, 0, 0, 0, 0]
    assert outcome(MOTION, 3).deviation_bins == [0] * 7


@pytest.mark.parametrize("rule", [paper(), AdaptiveTolerance(RANGES, ("eagle",))], ids=["paper", "adaptive"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999))
def test_the_tolerance_is_that_of_the_recursion_over_all_steps_of_the_episode(rule: Router, seed: int) -> None:
    """However long ago: an episode of four times the remembered steps, against the published recursion on K itself."""
    rng = np.random.default_rng(seed)
    history, memory, k, seen = History.empty(7), rule.begin(), 0.0, []
    for poses in fakes.kin.proprioception(rng, 4 * HISTORY_STEPS):
        history = history.observed(poses)
        phase = rule.read(history)
        assert phase is not None
        assert phase.variability == pytest.approx(k, rel=1e-12, abs=1e-15)
        route = rule.decide(CONTEXT, phase, [], memory)
        seen.append((tolerance(route), kinematic_tolerance_bins(k, K_HIGH)))
        bins = rng.integers(0, 16, 7) * (rng.random(7) < rng.random())
        memory = rule.remember(memory, came := kept(bins))
        history = history.acted(ACTION, SIZES * came.deviation_bins)
        k = 0.8 * k + 0.2 * float((bins * SIZES / SIGMA).sum())
    assert [now for now, _ in seen] == [before for _, before in seen]
    assert len(set(seen)) > 3


def test_the_released_code_completes_every_fourth_step_from_any_place() -> None:
    router = KervCode(horizon=300)
    memory, forced = router.begin(), []
    for _ in range(12):
        route = router.decide(CONTEXT, None, [], memory)
        forced.append(route.completed_by)
        assert route.completes_from == 0
        memory = router.remember(memory, outcome(route, 3))
    assert forced == ["", "", "", "kalman_code"] * 3
    assert router.plan(None, memory) == Plan((), later=("eagle", "kalman_code"))


def test_the_released_code_s_tolerance_follows_its_schedule() -> None:
    router = KervCode(horizon=300)
    seen = [tolerance(router.decide(CONTEXT, None, [], Memory(step=t))) for t in range(300)]
    assert seen == [scheduled_tolerance_bins(t, horizon=300) for t in range(300)]
    assert (seen[0], seen[50], seen[75], seen[125], seen[299]) == (15, 11, 7, 3, 3)
    assert sorted(seen, reverse=True) == seen
