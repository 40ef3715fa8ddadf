"""Speculation that does not pay: exact arithmetic of a step's worth, pauses, trials, doubling."""

from dataclasses import replace

import pytest
import route_fakes as fakes
from hypothesis import given, settings
from hypothesis import strategies as st
from route_fakes import CONTEXT, GUESS, draft, outcome, phase

from heisd.accept import exact
from heisd.errors import BadInput
from heisd.route.base import Ledger, Memory, Outcome, Plan, Reason, Route, RouteKind
from heisd.route.calibrated import CalibratedSkip, SkipScore
from heisd.route.costs import Costs
from heisd.route.fixed import Fixed
from heisd.route.heisd import HeisdBoundary
from heisd.route.paying import Paying, gain_ms
from heisd.watch import Alarm, Watch

COSTS = Costs(
    vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.125, tree_ms=0.25, lookup_ms=0.5, drafter_ms=1.0,
    redraft_ms=0.5, eagle_ms=2.0, overhead_ms=0.25,
)  # fmt: skip
INNER = Fixed(drafters=("parallel",), later=("parallel",))
ROUTER = Paying(INNER, COSTS, window=4, pause_steps=6, max_pause_steps=20)
CHECK = Route(RouteKind.SPECULATE, Reason.ALWAYS)
BOTH = ("parallel", "retrieval")
WIN = outcome(CHECK, 6, forwards=1, drafters=BOTH)  # 6 * 1.5 - 6 * 0.125 - 1.5 = 6.75
LOSS = outcome(CHECK, 0, drafters=BOTH)  # - 0.75 - 1.5 = -2.25


def letters(router: Paying, came: list[Outcome], memory: Memory | None = None) -> str:
    """F where nobody is asked; what comes of a speculation is the next of ``came``."""
    memory, text, waiting = memory or router.begin(), "", iter(came)
    for _ in came:
        route = router.decide(CONTEXT, None, [], memory)
        text += "F" if route.kind is RouteKind.FULL else "P"
        memory = router.remember(memory, outcome(route) if text[-1] == "F" else next(waiting))
    return text


def test_the_worth_of_a_step_is_forwards_saved_less_rows_and_asking() -> None:
    assert gain_ms(COSTS, WIN) == 6 * 1.5 - 6 * 0.125 - (0.5 + 1.0)
    assert gain_ms(COSTS, LOSS) == -6 * 0.125 - (0.5 + 1.0)
    assert gain_ms(COSTS, outcome(CHECK, drafters=BOTH)) == -1.5  # asked in vain
    twice = outcome(CHECK, 2, 1, forwards=4, rows=8, drafters=BOTH)
    assert gain_ms(COSTS, twice) == 3 * 1.5 - 16 * 0.125 - (0.25 + 0.5) - 1.5
    assert gain_ms(COSTS, replace(twice, n_later_checks=2)) == gain_ms(COSTS, twice) - 0.75  # both behind the prefill
    again = replace(
        outcome(CHECK, 2, rows=8, drafters=BOTH), n_forwards=8, is_redone=True
    )  # one forward with guesses, then seven
    assert gain_ms(COSTS, again) == -COSTS.prefill_ms - 8 * 0.125 - 1.5
    assert gain_ms(replace(COSTS, check_ms=0.25), twice) == gain_ms(COSTS, twice) - 2 * 0.25


def test_whom_the_rule_asks_before_it_decides_is_no_price_of_the_check() -> None:
    asked = [gain_ms(COSTS, outcome(CHECK, 0, drafters=names)) for names in ((), ("parallel",), ("retrieval",))]
    assert asked == [-0.75, -0.75 - 1.0, -0.75 - 0.5]


def test_a_table_for_whom_is_asked() -> None:
    assert COSTS.asking(("parallel",)) == replace(COSTS, lookup_ms=0.0)
    assert COSTS.asking(("retrieval",)) == replace(COSTS, drafter_ms=0.0, redraft_ms=0.0)
    assert COSTS.asking(("eagle", "kalman")) == replace(COSTS, lookup_ms=0.0, drafter_ms=0.0, redraft_ms=2.0)
    assert COSTS.plain_ms(7) == 1.0 + 4.0 + 9.0 + 0.25


@pytest.mark.parametrize("wrong", [{"row_ms": -1.0}, {"prefill_ms": 0.0}, {"decode_ms": 0.0}, {"lookup_ms": fakes.NAN}])
def test_impossible_costs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="ms"):
        replace(COSTS, **wrong)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"pause_steps": 0}, {"max_pause_steps": 5}])
def test_impossible_schedules_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="window and pause_steps are 1 or more"):
        replace(ROUTER, **wrong)


def test_losing_speculation_pauses_is_tried_again_and_pauses_twice_as_long() -> None:
    assert letters(ROUTER, [LOSS] * 70) == (
        "PPPP" + "F" * 6 + "PPPP" + "F" * 12 + "PPPP" + "F" * 20 + "PPPP" + "F" * 16
    )


def test_winning_speculation_is_never_off() -> None:
    assert letters(ROUTER, [WIN] * 40) == "P" * 40


def test_it_stops_when_the_window_s_sum_falls_below_zero_and_not_before() -> None:
    # 6.75 - 3 * 2.25 = 0 still pays; the next loss makes it -9.
    assert letters(ROUTER, [WIN, LOSS, LOSS, LOSS, LOSS, *[WIN] * 8]) == "PPPPP" + "F" * 6 + "PP"


def test_a_trial_that_pays_forgets_the_earlier_pauses() -> None:
    text = letters(ROUTER, [*[LOSS] * 4, *[WIN] * 4, *[LOSS] * 30])
    assert text.startswith("PPPP" + "F" * 6 + "P" * 4)
    rest = text[14:]
    n_more = rest.index("F")
    assert rest[n_more : n_more + 7] == "F" * 6 + "P"


def test_a_pause_asks_nobody_and_says_why() -> None:
    memory = replace(ROUTER.begin(), ledger=Ledger(n_paused=2, last_pause=6))
    assert ROUTER.plan(None, memory) == Plan(())
    off = ROUTER.decide(CONTEXT, None, [draft()], memory)
    assert (off.kind, off.reason, off.overruled) == (RouteKind.FULL, Reason.NOT_PAYING, Reason.ALWAYS)
    assert ROUTER.plan(None, ROUTER.begin()) == INNER.plan(None, Memory())


def test_skips_and_full_steps_are_not_judged() -> None:
    memory = ROUTER.begin()
    for other in (Route(RouteKind.SKIP, Reason.TOLERANT, tokens=GUESS), Route(RouteKind.FULL, Reason.NO_GUESS)):
        for _ in range(10):
            memory = ROUTER.remember(memory, outcome(other))
    assert memory.ledger == Ledger()


BOUNDARY = HeisdBoundary(fakes.ranges(), fast_rule=exact, slow_rule=exact, n_skips=2)
SKIPPING = Paying(BOUNDARY, COSTS, window=4, pause_steps=6)


def test_a_rule_that_skips_goes_on_skipping_in_a_pause_but_checks_nothing() -> None:
    off = Ledger(n_paused=2, last_pause=6)
    fast, slow = phase(fused=0.99), phase(fused=0.0)
    memory = replace(SKIPPING.begin(), ledger=off)
    assert SKIPPING.plan(fast, memory) == Plan(("retrieval",))
    assert SKIPPING.plan(slow, memory) == Plan(())
    assert SKIPPING.decide(CONTEXT, fast, [draft()], memory).kind is RouteKind.SKIP
    checked = SKIPPING.decide(CONTEXT, fast, [draft()], replace(memory, n_skips=2))
    assert (checked.kind, checked.reason, checked.score) == (RouteKind.FULL, Reason.NOT_PAYING, 0.99)


def test_audits_are_verified_in_a_pause_too() -> None:
    class Auditing(Fixed):
        def decide(self, *_: object) -> Route:  # type: ignore[override]
            return Route(RouteKind.SPECULATE, Reason.AUDIT)

    memory = replace(SKIPPING.begin(), ledger=Ledger(n_paused=2, last_pause=6))
    assert replace(SKIPPING, router=Auditing()).decide(CONTEXT, None, [], memory).reason is Reason.AUDIT


def test_the_router_s_own_memory_is_kept() -> None:
    after = SKIPPING.remember(replace(SKIPPING.begin(), n_skips=1), outcome(CHECK, 2))
    assert (after.step, after.n_skips, after.is_rejected) == (1, 0, True)
    assert after.ledger.gains_ms == (gain_ms(COSTS, outcome(CHECK, 2)),)


def test_a_pause_leaves_a_refusal_in_force() -> None:
    """Plain decoding verifies nothing: it says nothing for the guesses that were refused before."""
    memory = SKIPPING.remember(SKIPPING.begin(), outcome(CHECK, 2))
    memory = replace(memory, ledger=Ledger(n_paused=2, last_pause=6))
    off = SKIPPING.decide(CONTEXT, phase(fused=0.0), [draft()], memory)
    assert off.reason is Reason.NOT_PAYING
    assert SKIPPING.remember(memory, outcome(off)).is_rejected


def test_what_memory_does_not_know_withdraws_skips_in_a_pause_too() -> None:
    score = SkipScore((), (), (), (), 50.0)
    skipper = CalibratedSkip(
        score, 0.5, fakes.ranges(), exact, "retrieval", ("retrieval",), audited_share=0.0,
        watch=Watch(min_similarity=0.9, hold_steps=5),
    )  # fmt: skip
    router = Paying(skipper, COSTS)
    memory = replace(router.begin(), last_tokens=GUESS, ledger=Ledger(n_paused=9, last_pause=40))
    off = router.decide(CONTEXT, phase(), [draft(similarity=0.1)], memory)
    assert (off.kind, off.reason, off.overruled) == (RouteKind.FULL, Reason.NOT_PAYING, Reason.NOVEL)
    assert router.remember(memory, outcome(off)).sight.alarm is Alarm.NOVEL


def test_where_a_skip_is_ruled_out_a_pause_asks_nobody() -> None:
    skipper = CalibratedSkip(
        SkipScore((), (), (), (), 50.0), 0.5, fakes.ranges(), exact, "parallel", ("parallel", "retrieval"),
        later=("parallel",), n_skips=1,
    )  # fmt: skip
    router = Paying(skipper, COSTS)
    free = replace(router.begin(), last_tokens=GUESS)
    spent, off = replace(free, n_skips=1), Ledger(n_paused=2, last_pause=6)
    assert router.plan(phase(), free) == Plan(("parallel", "retrieval"), later=("parallel",))
    assert router.plan(phase(), spent) == Plan((), ("parallel",), ("parallel",))
    assert router.plan(phase(), replace(free, ledger=off)) == Plan(("parallel", "retrieval"))
    assert router.plan(phase(), replace(spent, ledger=off)) == Plan(())


@settings(deadline=None)
@given(st.lists(st.sampled_from([WIN, LOSS, outcome(CHECK, 1, drafters=BOTH), outcome(CHECK)]), max_size=120))
def test_the_schedule_is_a_function_of_what_came_and_no_pause_outlasts_its_bound(came: list[Outcome]) -> None:
    text = letters(ROUTER, came)
    assert text == letters(ROUTER, came)
    assert "F" * 21 not in text
    assert text[:4] == "PPPP"[: len(text)]
    trials = [trial for trial in text.split("F") if trial]
    assert all(len(trial) >= 4 for trial in trials[:-1])
