"""KERV's routes: cooldown, tolerance, who completes an action."""

from functools import partial

import numpy as np
import pytest
import route_fakes as fakes
from route_fakes import CONTEXT, GUESS, outcome

from heisd.accept import scheduled_tolerance_bins
from heisd.errors import BadInput
from heisd.kinematics import variability_update
from heisd.route.base import Memory, Outcome, Plan, Reason, Route, RouteKind
from heisd.route.kerv import COOLDOWN_STEPS, KervCode, KervPaper, accepted_deviations_bins
from heisd.types import TokenOrigin

K_HIGH = 4.0
RANGES = fakes.kin.ranges(window=15, suite="toy")
SIZES = (0.01,) * 6 + (0.0,)


def paper() -> KervPaper:
    from dataclasses import replace

    return KervPaper(replace(RANGES, variability_high=K_HIGH), SIZES)


def tolerance(route: Route) -> int:
    assert isinstance(route.rule, partial)
    r_bins = route.rule.keywords["tolerance_bins"]
    assert r_bins == route.score
    return int(r_bins)


def filled(route: Route) -> Outcome:
    return Outcome(route, (fakes.verdict(3), fakes.verdict(3, origin=TokenOrigin.COMPENSATED)), (0, 4), GUESS)


def test_ranges_without_variability_are_refused() -> None:
    with pytest.raises(BadInput, match="variability_high"):
        KervPaper(RANGES, SIZES)


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
    assert tolerance(paper().decide(CONTEXT, None, [], Memory(variability=k))) == r_bins


def test_variability_follows_the_bins_of_relaxed_tokens_alone() -> None:
    router, route = paper(), Route(RouteKind.SPECULATE, Reason.COOLDOWN)
    relaxed = fakes.verdict(2, origin=TokenOrigin.RELAXED, deviation_bins=4)
    made_up = fakes.verdict(2, origin=TokenOrigin.COMPENSATED, deviation_bins=90)
    came = Outcome(route, (relaxed, made_up), (1, 4), GUESS)
    assert accepted_deviations_bins(came) == [0, 4, 4, 0, 0, 0, 0]
    k = router.remember(Memory(variability=2.0), came).variability
    sigma = RANGES.action_change_sigma
    assert k == variability_update(2.0, [0, 4, 4, 0, 0, 0, 0], np.asarray(SIZES), sigma)
    assert router.remember(Memory(variability=2.0), outcome(route, 3)).variability == pytest.approx(1.6)


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
