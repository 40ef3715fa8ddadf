"""Fixed, Replay and HeiSD's boundary: the 2:1 pattern, the fallback, the adaptive threshold."""

import math
from dataclasses import replace

import pytest
import route_fakes as fakes
from hypothesis import given, settings
from hypothesis import strategies as st
from route_fakes import CONTEXT, GUESS, NAN, draft, kinds, outcome, phase

from heisd.accept import exact, relaxed
from heisd.route.base import Memory, Plan, Reason, Route, RouteKind
from heisd.route.fixed import Fixed, Replay
from heisd.route.heisd import AdaptiveSkip, HeisdBoundary
from heisd.types import StopReason, TokenOrigin, Verdict

THETA = fakes.ranges().fused_threshold
FAST, SLOW, UNKNOWN = phase(fused=THETA + 0.01), phase(fused=THETA), phase(fused=NAN)
BOUNDARY = HeisdBoundary(fakes.ranges(), fast_rule=exact, slow_rule=relaxed)
ADAPTIVE = replace(BOUNDARY, skip=AdaptiveSkip(0.9))
HIT = [draft()]


def test_fixed_always_checks_with_the_same_proposers_and_remembers_nothing() -> None:
    router = Fixed(drafters=("a",), later=("b",))
    memory = router.begin()
    assert router.plan(None, memory) == Plan((), ("a",), ("b",))
    assert router.decide(CONTEXT, None, HIT, memory) == Route(RouteKind.SPECULATE, Reason.ALWAYS)
    assert router.remember(memory, outcome(fakes.checked(), 3)) == memory


def test_replay_executes_memory_and_asks_the_target_only_where_memory_is_silent() -> None:
    router = Replay("retrieval")
    assert router.plan(None, router.begin()) == Plan(("retrieval",))
    assert kinds(router, [(None, HIT, 7)] * 20) == "S" * 20
    assert kinds(router, [(None, HIT, 7), (None, [], 7), (None, HIT, 7)]) == "SFS"
    assert router.decide(CONTEXT, None, HIT, router.begin()).tokens == GUESS


def test_two_steps_unverified_and_the_third_is_checked() -> None:
    assert kinds(BOUNDARY, [(FAST, HIT, 7)] * 9) == "SSPSSPSSP"
    assert kinds(BOUNDARY, [(FAST, HIT, 0)] * 9) == "SSPSSPSSP"  # whatever the check says


@pytest.mark.parametrize("n_skips", [0, 1, 2, 5])
def test_the_pattern_is_n_to_one(n_skips: int) -> None:
    router = replace(BOUNDARY, n_skips=n_skips)
    assert kinds(router, [(FAST, HIT, 7)] * 24) == (("S" * n_skips + "P") * 24)[:24]


@pytest.mark.parametrize(("between", "letter"), [((SLOW, []), "P"), ((FAST, []), "F"), ((UNKNOWN, HIT), "F")])
def test_the_count_begins_anew_after_a_slow_step_a_failed_look_up_and_unknown_motion(
    between: tuple[fakes.PhaseSignal, list[fakes.Draft]], letter: str
) -> None:
    steps = [(FAST, HIT, 7), (*between, 7), *[(FAST, HIT, 7)] * 3]
    assert kinds(BOUNDARY, steps) == f"S{letter}SSP"


def test_unknown_motion_asks_nobody_and_decodes() -> None:
    for unknown in (UNKNOWN, None):
        assert BOUNDARY.plan(unknown, Memory()) == Plan(())
        assert BOUNDARY.decide(CONTEXT, unknown, HIT, Memory()) == Route(RouteKind.FULL, Reason.UNKNOWN_MOTION)


def test_the_threshold_itself_is_slow_and_slow_motion_is_the_drafters() -> None:
    assert BOUNDARY.plan(SLOW, Memory()) == Plan((), drafters=("eagle",), later=("eagle",))
    assert BOUNDARY.plan(FAST, Memory()) == Plan(("retrieval",))
    slow = BOUNDARY.decide(CONTEXT, SLOW, HIT, Memory())
    fast = BOUNDARY.decide(CONTEXT, FAST, HIT, Memory(n_skips=2))
    assert (slow.reason, slow.rule, slow.kind) == (Reason.FINE, relaxed, RouteKind.SPECULATE)
    assert (fast.reason, fast.rule, fast.kind) == (Reason.ENOUGH_SKIPS, exact, RouteKind.SPECULATE)


def test_a_skip_executes_the_best_guess_and_reports_what_it_was_compared_with() -> None:
    route = BOUNDARY.decide(CONTEXT, FAST, HIT, Memory())
    assert (route.kind, route.tokens, route.score) == (RouteKind.SKIP, GUESS, FAST.fused)
    similar = ADAPTIVE.decide(CONTEXT, FAST, [draft(similarity=0.95)], Memory())
    assert (similar.kind, similar.score) == (RouteKind.SKIP, 0.95)


@pytest.mark.parametrize(
    ("evidence", "letter"),
    [({"similarity": 0.9}, "S"), ({"similarity": 0.8999}, "P"), ({}, "P"), ({"similarity": NAN}, "P")],
)
def test_the_paper_s_rule_skips_from_its_minimum_on(evidence: dict[str, float], letter: str) -> None:
    assert kinds(ADAPTIVE, [(FAST, [draft(**evidence)], 7)]) == letter


def test_the_paper_s_rule_is_bounded_too() -> None:
    assert kinds(ADAPTIVE, [(FAST, [draft(similarity=1.0)], 7)] * 9) == "SSPSSPSSP"


def after(memory: Memory, n_kept: int, reason: Reason = Reason.UNSURE, at: int = 0) -> Memory:
    return ADAPTIVE.remember(memory, outcome(fakes.checked(reason), n_kept, at=at))


def test_rejection_raises_the_minimum_and_acceptance_lowers_it_by_a_quarter() -> None:
    raised = after(Memory(), 2)
    assert raised.threshold == pytest.approx(0.905)
    assert after(raised, 6).threshold == pytest.approx(0.90375)
    assert after(after(Memory(), 2), 5).threshold == pytest.approx(0.91)  # 5 of 6 motion tokens: a rejection


def test_the_minimum_never_falls_below_its_calibration_nor_rises_above_one() -> None:
    memory = Memory()
    for _ in range(50):
        memory = after(memory, 7)
        assert memory.threshold == 0.9
    for _ in range(50):
        memory = after(memory, 0)
    assert memory.threshold == 1.0


def test_skips_full_steps_and_the_drafter_s_own_failures_leave_the_minimum_alone() -> None:
    raised = after(Memory(), 2)
    skip = Route(RouteKind.SKIP, Reason.TOLERANT, tokens=GUESS)
    for other in (
        ADAPTIVE.remember(raised, fakes.skipped(skip)),
        ADAPTIVE.remember(raised, outcome(Route(RouteKind.FULL, Reason.NO_GUESS))),
        ADAPTIVE.remember(raised, outcome(fakes.checked())),  # nothing to check
        after(raised, 2, Reason.FINE, at=1),
        after(raised, 7, Reason.FINE, at=1),
    ):
        assert other.threshold == raised.threshold


def test_only_the_first_verification_judges_memory() -> None:
    later = Verdict(GUESS[3:5], (TokenOrigin.ACCEPTED, TokenOrigin.DECODED), (0, 0), (), 1, StopReason.MISMATCH, "x")
    kept = outcome(fakes.checked(), 6)
    both = replace(kept, verdicts=(*kept.verdicts, later), positions=(0, 3))
    assert ADAPTIVE.remember(Memory(threshold=0.95), both).threshold == pytest.approx(0.94875)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([FAST, SLOW, UNKNOWN]),
        st.sampled_from([[], HIT, [draft(similarity=0.95)], [draft(similarity=0.5)]]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS, st.integers(0, 4), st.booleans())
def test_no_sequence_of_events_brings_more_skips_in_a_row(
    steps: list[tuple[fakes.PhaseSignal, list[fakes.Draft], int]], n_skips: int, adapts: bool
) -> None:
    router = replace(ADAPTIVE if adapts else BOUNDARY, n_skips=n_skips)
    letters = kinds(router, steps)
    assert "S" * (n_skips + 1) not in letters
    assert letters == kinds(router, steps)  # and the same events bring the same routes
    assert math.isnan(router.begin().threshold)
