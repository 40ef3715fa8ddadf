"""Calibrated skips: every reason to refuse, the audit's share, monotone in the threshold, bounded over any sequence."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import route_fakes as fakes
from hypothesis import given, settings
from hypothesis import strategies as st
from route_fakes import CONTEXT, FIRST, GUESS, NAN, act, draft, outcome, phase
from scene_fakes import observed, table_top

from heisd.accept import exact
from heisd.errors import BadInput
from heisd.kinematics.gripper import GripperState
from heisd.route.base import WITHDRAWALS, Always, Memory, Plan, Reason, Route, RouteKind
from heisd.route.calibrated import AUDITED_SHARE, CalibratedSkip, SkipScore, is_audited, skip_features
from heisd.types import Draft
from heisd.watch import Alarm, Sight, Watch

# P(good) falls with the distance from the last action; half at 10 bins.
SCORE = SkipScore(("change_bins", "similarity"), (10.0, 0.0), (2.0, 1.0), (-1.0, 0.0), 0.0)
ROUTER = CalibratedSkip(
    SCORE, 0.9, fakes.ranges(), exact, "retrieval", ("retrieval", "parallel"), ("eagle",), ("eagle",),
    min_similarity=0.5,
)  # fmt: skip
GOOD = draft(similarity=0.95, gripper_event_in=9.0)
STEP = next(step for step in range(100) if not is_audited(step, AUDITED_SHARE))
READY = Memory(step=STEP, last_tokens=GUESS)
AUDITED = next(step for step in range(1000) if is_audited(step, AUDITED_SHARE))


def route(drafts: list[Draft], memory: Memory = READY, router: CalibratedSkip = ROUTER, **readings: object) -> Route:
    return router.decide(CONTEXT, phase(**readings), drafts, memory)


def moved(bins: int, place: int = 0) -> tuple[int, ...]:
    return tuple(token + bins * (i == place) for i, token in enumerate(GUESS))


def test_nothing_speaks_against_it() -> None:
    decided = route([GOOD])
    assert (decided.kind, decided.reason, decided.tokens) == (RouteKind.SKIP, Reason.TOLERANT, GUESS)
    assert decided.score == pytest.approx(1 / (1 + math.exp(-5)))
    assert ROUTER.plan(phase(), READY) == Plan(("retrieval", "parallel"), ("eagle",), ("eagle",))


def gripper(**changes: object) -> GripperState:
    return replace(fakes.FREE, **changes)


@pytest.mark.parametrize(
    ("memory", "readings"),
    [
        (Memory(step=STEP), {}),
        (replace(READY, is_rejected=True), {}),
        (replace(READY, n_skips=2), {}),
        (replace(READY, sight=Sight(alarm=Alarm.DARK, n_left=3)), {}),
        (READY, {"gripper": gripper(steps_since_change=3)}),
    ],
)
def test_witnesses_are_heard_only_where_a_skip_is_possible(memory: Memory, readings: dict[str, object]) -> None:
    """Whom nobody needs nobody asks; that they were not asked is then no reason to refuse, nor to withdraw skips."""
    plan = ROUTER.plan(phase(**readings), memory)
    assert (plan.scouts, plan.drafters) == ((), ("retrieval", "eagle"))
    unheard, heard = (route([evidence], memory, **readings) for evidence in (draft(), GOOD))
    assert unheard.reason is heard.reason
    assert unheard.reason not in (Reason.SCENE, Reason.NOVEL)


@pytest.mark.parametrize(
    ("drafts", "memory", "readings", "reason"),
    [
        ([], READY, {}, Reason.NO_GUESS),
        ([replace(GOOD, source="parallel")], READY, {}, Reason.NO_GUESS),
        ([GOOD], Memory(step=STEP), {}, Reason.NO_GUESS),  # nothing was executed yet
        ([draft(tokens=GUESS[:6], similarity=0.95)], READY, {}, Reason.NO_GUESS),  # not a whole action
        ([draft(tokens=moved(2, 6), similarity=0.95)], READY, {}, Reason.GRIPPER),  # the guess moves the gripper
        ([GOOD, draft("parallel", moved(-2, 6))], READY, {}, Reason.GRIPPER),  # somebody else's does
        ([draft(similarity=0.95, gripper_event_in=3.0)], READY, {}, Reason.GRIPPER),
        ([GOOD, draft("parallel", gripper_event_in=0.0)], READY, {}, Reason.GRIPPER),
        ([draft(similarity=0.95, gripper_event_in=NAN)], READY, {}, Reason.GRIPPER),
        ([GOOD], READY, {"gripper": gripper(steps_since_change=1)}, Reason.GRIPPER),
        ([GOOD], READY, {"gripper": gripper(steps_since_change=3)}, Reason.GRIPPER),
        ([draft(similarity=0.49, gripper_event_in=9.0)], READY, {}, Reason.SCENE),
        ([draft(similarity=NAN)], READY, {}, Reason.SCENE),
        ([draft(similarity=0.9, text_similarity=0.99)], READY, {}, Reason.WORDING),
        ([draft(similarity=0.9, text_similarity=NAN)], READY, {}, Reason.WORDING),
        ([draft()], READY, {}, Reason.SCENE),  # memory says nothing
        ([GOOD], replace(READY, is_rejected=True), {}, Reason.REJECTED),
        ([GOOD], replace(READY, n_skips=2), {}, Reason.ENOUGH_SKIPS),
        ([draft(tokens=moved(9), similarity=0.95)], READY, {}, Reason.UNSURE),
        ([GOOD], replace(READY, step=AUDITED), {}, Reason.AUDIT),
    ],
)
def test_every_reason_to_check_instead(
    drafts: list[Draft], memory: Memory, readings: dict[str, object], reason: Reason
) -> None:
    decided = route(drafts, memory, **readings)
    assert (decided.kind, decided.reason, decided.rule) == (RouteKind.SPECULATE, reason, exact)


@pytest.mark.parametrize(
    ("drafts", "readings"),
    [
        ([draft(similarity=0.5)], {}),  # the least that is known
        ([draft(tokens=moved(1, 6), similarity=0.95)], {}),  # the two ids of a saturated gripper are one command
        ([draft(similarity=0.95, gripper_event_in=4.0)], {}),
        ([GOOD], {"gripper": gripper(steps_since_change=4)}),
        ([GOOD], {"fused": NAN, "speed_mm": NAN}),  # weighed as 0: the score's business
    ],
)
def test_just_inside_of_every_bound_is_skipped(drafts: list[Draft], readings: dict[str, object]) -> None:
    assert route(drafts, **readings).kind is RouteKind.SKIP


def test_a_control_without_memory_needs_no_similarity() -> None:
    hold = replace(
        ROUTER, source="persistence", scouts=("persistence",), min_similarity=-math.inf,
        score=SkipScore(("change_bins",), (10.0,), (2.0,), (-1.0,), 0.0),
    )  # fmt: skip
    assert route([draft("persistence")], router=hold).kind is RouteKind.SKIP


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["agreement_of_nobody", "similarity"])
def test_a_feature_that_is_missing_or_not_finite_never_skips(threshold: float, name: str) -> None:
    score = SkipScore((name,), (0.0,), (1.0,), (1.0,), 50.0)
    router = replace(ROUTER, score=score, threshold=threshold, min_similarity=-math.inf)
    for evidence in ({}, {"similarity": NAN}, {"similarity": math.inf}, {"similarity": -math.inf}):
        decided = route([draft(**evidence)], router=router)
        assert (decided.reason, decided.score) == (Reason.UNSURE, 0.0)


def test_the_score_is_a_probability_and_bad_tables_are_refused() -> None:
    assert SCORE({"change_bins": 10.0, "similarity": 0.0}) == 0.5
    assert SCORE({"change_bins": 12.0, "similarity": 7.0}) == pytest.approx(1 / (1 + math.e))
    assert (
        0 < SCORE({"change_bins": 1e9, "similarity": 0.0}) < SCORE({"change_bins": -1e9, "similarity": 0.0}) < 1 + 1e-9
    )
    for scale, weight in (((0.0,), (1.0,)), ((1.0,), (1.0, 2.0)), ((NAN,), (1.0,))):
        with pytest.raises(BadInput, match="scale above 0"):
            SkipScore(("a",), (0.0,), scale, weight, 0.0)


def test_the_source_must_be_asked() -> None:
    with pytest.raises(BadInput, match="one of the scouts"):
        replace(ROUTER, source="kalman")


def test_features_are_distances_over_the_motion_tokens() -> None:
    source = replace(draft(similarity=0.8), log_probs=((-0.5,) * 6 + (-60.0,),))
    others = [draft("parallel", moved(-7, 3), extra=1.0), draft("kalman", moved(40, 6)), draft("short", GUESS[:2])]
    memory = replace(READY, last_tokens=moved(5, 5), n_skips=1)
    assert skip_features(source, [source, *others], phase(fused=NAN, speed_mm=3.0), memory) == {
        "similarity": 0.8, "extra": 1.0, "agreement_bins": 7.0, "change_bins": 5.0, "confidence": -0.5,
        "fused": 0.0, "speed_mm": 3.0, "n_skips": 1.0,
    }  # fmt: skip


def test_audits_are_a_twentieth_of_the_steps_spread_evenly_and_fixed() -> None:
    audited = [step for step in range(10 * 1009) if is_audited(step, AUDITED_SHARE)]
    assert len(audited) / (10 * 1009) == pytest.approx(AUDITED_SHARE, abs=0.001)
    assert max(b - a for a, b in pairwise(audited)) < 60
    assert not any(is_audited(step, 0.0) for step in range(2000))
    assert all(is_audited(step, 1.0) for step in range(2000))


def test_an_audit_checks_what_a_skip_would_have_executed() -> None:
    audit = route([GOOD], replace(READY, step=AUDITED))
    assert audit.kind is RouteKind.SPECULATE
    assert audit.only is not None
    assert audit.only.chains == (route([GOOD], READY).tokens,)


def test_an_audit_is_drawn_among_the_eligible_steps_only() -> None:
    for memory in (replace(READY, is_rejected=True), replace(READY, n_skips=2)):
        assert route([GOOD], replace(memory, step=AUDITED)).reason is not Reason.AUDIT
    assert route([draft(tokens=moved(9), similarity=0.9)], replace(READY, step=AUDITED)).reason is Reason.UNSURE


TOKENS = st.tuples(*[st.integers(FIRST, FIRST + 60)] * 6, st.sampled_from([FIRST, FIRST + 1, FIRST + 128]))
DRAFTS = st.lists(
    st.builds(
        lambda source, tokens, similarity, soon: draft(source, tokens, similarity=similarity, gripper_event_in=soon),
        st.sampled_from(["retrieval", "parallel"]),
        TOKENS,
        st.sampled_from([0.2, 0.5, 0.9, NAN]),
        st.sampled_from([0.0, 3.0, 4.0, math.inf, NAN]),
    ),
    max_size=3,
)
PHASES = st.builds(
    lambda fused, since: phase(fused=fused, gripper=gripper(steps_since_change=since)),
    st.sampled_from([0.0, 0.9, NAN]),
    st.sampled_from([None, 1, 3, 4, 20]),
)
MEMORIES = st.builds(
    Memory, step=st.integers(0, 400), n_skips=st.integers(0, 3), is_rejected=st.booleans(), last_tokens=TOKENS
)
THRESHOLDS = st.sampled_from([0.0, 0.3, 0.9, 1.0])


@settings(deadline=None)
@given(DRAFTS, PHASES, MEMORIES, THRESHOLDS, THRESHOLDS)
def test_a_stricter_threshold_never_skips_more(
    drafts: list[Draft], now: fakes.PhaseSignal, memory: Memory, a: float, b: float
) -> None:
    loose, strict = (
        replace(ROUTER, threshold=t).decide(CONTEXT, now, drafts, memory).kind is RouteKind.SKIP for t in sorted((a, b))
    )
    assert loose or not strict


@settings(deadline=None)
@given(DRAFTS, PHASES, MEMORIES, THRESHOLDS)
def test_no_skip_near_a_gripper_event_after_a_rejection_or_outside_of_what_is_known(
    drafts: list[Draft], now: fakes.PhaseSignal, memory: Memory, threshold: float
) -> None:
    router = replace(ROUTER, threshold=threshold)
    decided = router.decide(CONTEXT, now, drafts, memory)
    assert decided == router.decide(CONTEXT, now, drafts, memory)
    if decided.kind is not RouteKind.SKIP:
        return
    assert all(abs(d.chains[0][6] - memory.last_tokens[6]) <= 1 for d in drafts)
    assert all(d.evidence["gripper_event_in"] > 3 for d in drafts)
    assert now.gripper.steps_since_change not in (1, 2, 3)
    assert not memory.is_rejected
    assert memory.n_skips < 2
    assert decided.tokens == next(d for d in drafts if d.source == "retrieval").chains[0]
    assert any(d.evidence["similarity"] >= 0.5 for d in drafts)


@settings(deadline=None)
@given(st.lists(st.tuples(DRAFTS, PHASES, st.integers(0, 7)), max_size=40), st.integers(0, 4))
def test_no_sequence_of_events_brings_more_skips_in_a_row(
    steps: list[tuple[list[Draft], fakes.PhaseSignal, int]], n_skips: int
) -> None:
    router = replace(ROUTER, threshold=0.0, n_skips=n_skips)
    memory, in_a_row = router.begin(), 0
    for drafts, now, n_kept in steps:
        decided, memory = act(router, memory, now, drafts, n_kept)
        in_a_row = in_a_row + 1 if decided.kind is RouteKind.SKIP else 0
        assert in_a_row <= n_skips


def test_a_rejection_holds_until_a_check_likes_the_guesses_again() -> None:
    rejected = ROUTER.remember(READY, outcome(fakes.checked(Reason.UNSURE), 5))
    assert rejected.is_rejected
    assert route([GOOD], replace(rejected, step=STEP)).reason is Reason.REJECTED
    assert not ROUTER.remember(rejected, outcome(fakes.checked(Reason.REJECTED), 6)).is_rejected
    assert rejected.last_tokens == GUESS


@pytest.mark.parametrize("alarm", Alarm)
def test_an_alarm_withdraws_the_right_to_skip_before_anything_else_is_asked(alarm: Alarm) -> None:
    memory = replace(READY, sight=Sight(alarm=alarm, n_left=3))
    for drafts in ([GOOD], [], [draft(tokens=moved(2, 6), similarity=0.95)]):
        for step in (STEP, AUDITED):  # an audit samples eligible steps, and this is none
            decided = route(drafts, replace(memory, step=step))
            assert (decided.kind, decided.reason, decided.rule) == (RouteKind.SPECULATE, alarm.value, exact)
            assert decided.reason in WITHDRAWALS


def test_what_memory_does_not_know_withdraws_skips_for_the_stated_steps() -> None:
    router = replace(ROUTER, watch=replace(fakes.TRUSTING, min_similarity=0.6, hold_steps=4), audited_share=0.0)
    memory, reasons = READY, []
    for seen, similarity in zip(observed([table_top(i) for i in range(12)]), [0.9, 0.59, *[0.9] * 10], strict=True):
        decided, memory = act(router, router.see(seen, memory), phase(), [draft(similarity=similarity)])
        reasons.append(decided.reason)
        memory = replace(memory, n_skips=0)
    assert reasons == [Reason.TOLERANT] + [Reason.NOVEL] * 5 + [Reason.TOLERANT] * 6


def test_novelty_that_stays_withdraws_skips_for_good_and_says_so_before_a_gripper_event() -> None:
    router = replace(ROUTER, watch=replace(fakes.TRUSTING, min_similarity=0.6, hold_steps=2))
    unknown = draft(similarity=0.55, gripper_event_in=0.0)
    assert route([unknown], router=router).reason is Reason.NOVEL
    memory = READY
    for seen in observed([table_top(i) for i in range(15)]):
        decided, memory = act(router, router.see(seen, memory), phase(), [unknown])
        assert decided.reason is Reason.NOVEL


def test_a_control_without_memory_is_never_novel() -> None:
    hold = replace(
        ROUTER, source="persistence", scouts=("persistence",), min_similarity=-math.inf,
        watch=Watch(min_similarity=0.6), score=SkipScore((), (), (), (), 50.0),
    )  # fmt: skip
    assert route([draft("persistence")], router=hold).kind is RouteKind.SKIP


def test_a_rule_that_does_not_look_remembers_nothing_of_what_it_is_shown() -> None:
    seen = next(iter(observed([table_top(0)])))
    assert Always().see(seen, READY) is READY
    assert set(ROUTER.see(seen, READY).sight.looks) == {"agentview", "wrist"}
