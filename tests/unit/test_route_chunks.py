"""Rounds: what makes one full, what may be skipped, and what is remembered of it."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import route_fakes as fakes
from fake_chunks import FakeContext, chunk

from heisd.errors import BadInput
from heisd.kinematics import PhaseSignal
from heisd.kinematics.gripper import GripperState
from heisd.route.base import Memory, Outcome, Reason, RoundMemory, Route, RouteKind
from heisd.route.chunks import Fallbacks, Rounds
from heisd.types import ChunkDraft, RoundRecord

FULL = RoundRecord(8, n_prefills=1)
ACCEPTED = RoundRecord(8, n_chunks=2, n_judged=8, n_accepted=8, stop="complete")
CUT = RoundRecord(3, n_chunks=2, n_judged=8, n_accepted=3, stop="gripper")
PARTLY = RoundRecord(3, n_chunks=2, n_judged=8, n_accepted=3, stop="over tolerance")
SKIPPED = RoundRecord(8)
OPENED = GripperState(False, None, 0.08, 0.0, False)


def context(similarity: float = 1.0) -> FakeContext:
    return FakeContext("", cast(Any, np.ones(2)), 1, similarity)


def rounds(*, n_skips: int = 0, **fallbacks: Any) -> Rounds:
    skips = {"skips_with": "retrieval", "n_skips": n_skips} if n_skips else {}
    return Rounds(("retrieval", "tail"), Fallbacks(**fallbacks), fakes.ranges(), **skips)


def after(router: Rounds, *came: RoundRecord, kind: RouteKind = RouteKind.SPECULATE) -> Memory:
    memory = router.begin()
    for record in came:
        route = Route(RouteKind.SKIP if record is SKIPPED else kind, Reason.ALWAYS)
        memory = router.remember(memory, Outcome(route, (), (), (), round=record))
    return memory


def reason(
    router: Rounds, memory: Memory, now: FakeContext | None = None, phase: PhaseSignal | None = None
) -> tuple[str, str]:
    route = router.decide(cast(Any, now or context()), phase or fakes.phase(gripper=OPENED), [], memory)
    return str(route.kind), str(route.reason)


def test_an_episode_begins_with_a_full_round() -> None:
    router = rounds()
    assert reason(router, router.begin()) == ("full", "no prefix yet")
    assert reason(router, after(router, FULL)) == ("speculate", "always")


def test_a_cut_at_the_gripper_makes_the_next_round_full_and_a_short_acceptance_does_not() -> None:
    router = rounds()
    assert reason(router, after(router, FULL, CUT)) == ("full", "full round due")
    assert reason(router, after(router, FULL, PARTLY)) == ("speculate", "always")
    assert reason(router, after(router, FULL, CUT, FULL)) == ("speculate", "always")


def test_a_period_counts_rounds_without_a_full_one() -> None:
    router = rounds(period=2)
    kinds = [reason(router, after(router, FULL, *[ACCEPTED] * n))[0] for n in range(4)]
    assert kinds == ["speculate", "speculate", "full", "full"]
    assert reason(router, after(router, FULL, SKIPPED, SKIPPED)) == ("full", "full round due")  # a skip counts too
    rejected = replace(ACCEPTED, n_accepted=0, n_prefills=1)
    assert reason(router, after(router, FULL, ACCEPTED, rejected, ACCEPTED))[0] == "speculate"


def test_age_counts_the_executed_control_steps() -> None:
    router = rounds(max_age_steps=14)
    assert after(router, FULL, PARTLY).rounds == RoundMemory(True, 1, 11, False)
    assert reason(router, after(router, FULL, PARTLY))[0] == "speculate"
    assert reason(router, after(router, FULL, ACCEPTED)) == ("full", "prefix too old")
    assert reason(router, after(router, FULL, ACCEPTED, FULL))[0] == "speculate"


def test_a_picture_unlike_the_prefixs_is_looked_at_in_full() -> None:
    router = rounds(min_similarity=0.8)
    memory = after(router, FULL)
    assert reason(router, memory, context(0.81))[0] == "speculate"
    for similarity in (0.79, float("nan")):
        assert reason(router, memory, context(similarity)) == ("full", "scene changed")
    assert reason(rounds(), memory, context(float("nan")))[0] == "speculate"  # a blind policy, no bound


def test_a_gripper_that_has_just_moved_is_looked_at_in_full() -> None:
    router = rounds(gripper_margin_steps=3)
    memory = after(router, FULL)
    for since, kind in ((1, "full"), (3, "full"), (4, "speculate"), (None, "speculate")):
        moved = fakes.phase(gripper=GripperState(True, since, 0.04, 0.0, False))
        assert reason(router, memory, phase=moved)[0] == kind


def test_two_skips_then_a_check_on_tolerant_motion() -> None:
    router = rounds(n_skips=2)
    plan = router.plan(None, router.begin())
    assert (plan.scouts, plan.drafters) == (("retrieval",), ("tail",))
    assert rounds().plan(None, router.begin()).drafters == ("retrieval", "tail")
    draft = ChunkDraft(chunk(0.5)[None], "retrieval", (0.0,))
    moving = fakes.phase(gripper=OPENED)

    def decide(memory: Memory, phase: PhaseSignal = moving, draft: ChunkDraft | None = draft) -> tuple[str, str]:
        route = router.decide(cast(Any, context()), phase, [draft] if draft else [], memory)
        assert route.chunk is (draft if route.kind is RouteKind.SKIP else None)
        return str(route.kind), str(route.reason)

    assert decide(router.begin(), moving)[0] == "full"
    assert decide(after(router, FULL)) == ("skip", "tolerant motion")
    assert decide(after(router, FULL, SKIPPED)) == ("skip", "tolerant motion")
    assert decide(after(router, FULL, SKIPPED, SKIPPED)) == ("speculate", "enough skips in a row")
    assert decide(after(router, FULL, SKIPPED, SKIPPED, ACCEPTED))[0] == "skip"
    assert decide(after(router, FULL), fakes.phase(fused=0.0, gripper=OPENED)) == ("speculate", "fine motion")
    assert decide(after(router, FULL), fakes.phase(fused=fakes.NAN, gripper=OPENED)) == ("speculate", "unknown motion")
    assert decide(after(router, FULL), draft=None) == ("speculate", "no guess")
    closes_later = ChunkDraft(chunk(0.5, [-1.0] * 5 + [1.0])[None], "retrieval", (0.0,))
    assert decide(after(router, FULL), draft=closes_later) == ("speculate", "gripper event near")
    unknown = fakes.phase(gripper=GripperState(None, None, 0.08, 0.0, False))
    assert decide(after(router, FULL), unknown) == ("speculate", "gripper event near")


def test_fallbacks_below_zero_are_refused() -> None:
    for wrong in ({"period": -1}, {"max_age_steps": -1}, {"gripper_margin_steps": -1}):
        with pytest.raises(BadInput, match="from 0 on"):
            Fallbacks(**wrong)
