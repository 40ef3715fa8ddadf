"""Rounds: what makes one full, what may be skipped, and what is remembered of it."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import route_fakes as fakes
from fake_chunks import FakeChunkPolicy, FakeContext, Scripted, chunk
from scene_fakes import observed, picture, table_top, texture

from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.errors import BadInput
from heisd.kinematics import PhaseSignal
from heisd.kinematics.gripper import GripperState
from heisd.policies.config import SamplingConfig
from heisd.policies.flow.policy import glance
from heisd.route.base import Memory, Outcome, Plan, Reason, RoundMemory, Route, RouteKind
from heisd.route.chunk_skips import TwoToOne
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import MemorySink
from heisd.types import ChunkDraft, ImageArray, Observation, RoundRecord, StepRecord
from heisd.watch import Alarm, Sight, Watch

FULL = RoundRecord(8, n_prefills=1)
ACCEPTED = RoundRecord(8, n_chunks=2, n_judged=8, n_accepted=8, stop="complete")
CUT = RoundRecord(3, n_chunks=2, n_judged=8, n_accepted=3, stop="gripper")
PARTLY = RoundRecord(3, n_chunks=2, n_judged=8, n_accepted=3, stop="over tolerance")
SKIPPED = RoundRecord(8)
OPENED = GripperState(False, None, 0.08, 0.0, False)


def context(similarity: float = 1.0) -> FakeContext:
    return FakeContext("", cast(Any, np.ones(2)), 1, similarity)


def rounds(*, n_skips: int = 0, **fallbacks: Any) -> Rounds:
    skip = TwoToOne("retrieval", n_skips, fakes.ranges()) if n_skips else None
    return Rounds(("retrieval", "tail"), Fallbacks(**fallbacks), fakes.ranges(), skip)


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
    assert after(router, FULL, PARTLY).rounds == RoundMemory(True, 1, 11, unseen_steps=3, n_actions=3)
    assert reason(router, after(router, FULL, PARTLY))[0] == "speculate"
    assert reason(router, after(router, FULL, ACCEPTED)) == ("full", "prefix too old")
    assert reason(router, after(router, FULL, ACCEPTED, FULL))[0] == "speculate"


def test_rounds_and_control_steps_without_a_look_are_counted() -> None:
    router = rounds()

    def behind(*came: tuple[RoundRecord, bool]) -> RoundMemory:
        memory, route = router.begin(), Route(RouteKind.SKIP, Reason.ALWAYS)
        for record, looked in came:
            memory = router.remember(memory, Outcome(route, (), (), (), round=record, looked=looked))
        return memory.rounds

    def counts(*came: tuple[RoundRecord, bool]) -> tuple[int, int]:
        return behind(*came).n_unseen, behind(*came).unseen_steps

    begun, blind, seen = (FULL, True), (SKIPPED, False), (SKIPPED, True)
    assert counts() == (0, 0)
    assert counts(begun) == (0, 8)  # the pictures are those of its first control step
    assert counts(begun, blind) == (1, 16)
    assert counts(begun, blind, (PARTLY, False)) == (2, 19)
    assert counts(begun, blind, blind, seen) == (0, 8)  # a skip that looks
    assert counts(begun, blind, blind, (PARTLY, True)) == (0, 3)  # a verification
    assert counts(begun, blind, blind, begun) == (0, 8)  # a full round
    assert counts(begun, blind, blind, seen, blind) == (1, 16)
    assert behind(begun, blind, seen).age_steps == 24  # a look leaves the prefix as old as it is


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
    plan = router.plan(None, after(router, FULL))
    assert (plan.scouts, plan.drafters) == (("retrieval",), ("tail",))
    for certain in (router.begin(), after(router, FULL, CUT)):  # of a full round: nobody is asked for nothing
        plan = router.plan(None, certain)
        assert (plan.scouts, plan.drafters) == ((), ())
    assert rounds().plan(None, after(router, FULL)).drafters == ("retrieval", "tail")
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


def test_an_alarm_withdraws_whatever_else_holds_and_nobody_is_asked() -> None:
    router = replace(rounds(n_skips=2, min_similarity=0.8), watch=Watch())
    for alarm in (Alarm.DARK, Alarm.FROZEN, Alarm.NOISY, Alarm.JUMP, Alarm.NOVEL):
        memory = replace(after(router, FULL), sight=Sight(alarm=alarm))
        assert reason(router, memory) == ("full", alarm.value)
        assert reason(router, memory, context(0.1)) == ("full", alarm.value)
        assert reason(router, replace(memory, rounds=RoundMemory())) == ("full", alarm.value)
        assert router.plan(None, memory) == Plan(())
    assert router.plan(None, after(router, FULL)).drafters == ("tail",)


def watched(images: list[ImageArray], watch: Watch | None, *, executed: int = 4) -> list[StepRecord]:
    """An episode in which every round may speculate, and the cameras show these pictures."""
    return watched_of(list(observed(images)), watch, executed=executed)


class Unread(dict[str, ImageArray]):
    """Pictures that nobody may look at."""

    def _refused(self, *_: Any) -> Any:
        raise AssertionError("a picture was read at a step that has its action in hand")

    __getitem__ = __iter__ = __contains__ = keys = values = items = get = _refused


def watched_of(seen: list[Observation], watch: Watch | None, *, executed: int = 4) -> list[StepRecord]:
    policy, sink = FakeChunkPolicy(), MemorySink()
    router = Rounds(("scripted",), Fallbacks(), fakes.ranges(), watch=watch)
    loop = ChunkEngine(
        policy, sampling=SamplingConfig(euler_steps=1, executed=executed), router=router, sink=sink,
        proposers={"scripted": Scripted(chunk(0.5))}, rule=EndpointTest.uniform((0.1,), 0.15),
    )  # fmt: skip
    for each in seen:
        assert loop.will_look == (len(sink.records) % executed == 0)
        loop.act(each)
    return sink.records


N_SEEN = 48
PLAIN = [table_top(i) for i in range(N_SEEN)]
FAULTS = {  # picture of a faulty camera, the alarm, and how many rounds do not notice
    "dark": (lambda i: np.zeros_like(PLAIN[i]), "camera dark", 0),
    "frozen": (lambda i: PLAIN[9], "camera frozen", 1),  # noqa: ARG005
    "noisy": (lambda i: np.random.default_rng(i).integers(0, 256, PLAIN[i].shape, dtype=np.uint8), "camera noisy", 0),
    "jumped": (lambda i: picture(texture(8, 128)), "picture jumped", 0),  # noqa: ARG005
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_rounds_see_makes_them_full_as_long_as_the_watch_says(fault: str) -> None:
    broken, alarm, n_unnoticed = FAULTS[fault]
    images = [broken(i) if 10 <= i < 18 else PLAIN[i] for i in range(N_SEEN)]  # the rounds at 12 and 16 see it
    records = watched(images, Watch(hold_steps=9))
    routes = {i: (r.route, r.reason) for i, r in enumerate(records) if r.route != "chunk"}
    assert sorted(routes) == list(range(0, N_SEEN, 4))
    assert routes[0] == ("full", "no prefix yet")
    first = 12 + 4 * n_unnoticed
    assert {routes[i] for i in range(4, first, 4)} == {("speculate", "always")}
    # The last odd picture is that of the round at 20, which jumps back; a frozen one that goes on jumps nowhere.
    last = 20 if fault != "frozen" else 16
    held = list(range(first, last + 9, 4))
    assert {routes[i][0] for i in held} == {"full"}
    assert routes[first][1] == alarm
    assert all(records[i].asked == {} for i in held)
    after_it = [i for i in routes if i > last + 9]
    assert {routes[i] for i in after_it} == {("speculate", "always")}
    # What is read from then on is no picture of the fault: the hold is longer than a chunk.
    behind = records[after_it[0]].round
    assert behind is not None
    assert after_it[0] - behind.prefix_age_steps > last


@pytest.mark.parametrize("fault", FAULTS)
def test_pictures_that_no_round_sees_do_no_harm_and_are_not_read(fault: str) -> None:
    broken = FAULTS[fault][0]
    unread = Unread()
    seen = [
        replace(each, images=each.images if i % 4 == 0 else unread)
        for i, each in enumerate(observed([broken(i) if i % 4 else PLAIN[i] for i in range(N_SEEN)]))
    ]
    records = watched_of(seen, Watch(hold_steps=9))
    assert {(r.route, r.reason) for r in records[4:]} == {("speculate", "always"), ("chunk", "action in hand")}


def test_without_a_watch_no_picture_is_looked_at() -> None:
    images = [np.zeros_like(PLAIN[0])] * 12
    assert {r.route for r in watched(images, None)[4:]} == {"speculate", "chunk"}
    assert {r.reason for r in watched(images, Watch())} == {"camera dark", "action in hand"}


def test_a_scene_that_turns_slowly_into_another_is_the_prefixs_check_alone() -> None:
    """Why both are there: no step of a slow change is an alarm, and its sum is a picture unlike the prefix's."""
    elsewhere = picture(texture(8, 128)).astype(np.float64)
    images = [np.round((1 - i / 40) * PLAIN[0] + i / 40 * elsewhere).astype(np.uint8) for i in range(41)]
    assert {r.reason for r in watched(images, Watch())[1:]} == {"always", "action in hand"}
    assert float((glance(images[0]) * glance(images[-1])).sum()) < 0.1
