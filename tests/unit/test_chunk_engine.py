"""Rounds of a chunk policy: receding horizon, accounting, rejection within the call, noise that repeats."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fake_chunks import HORIZON, FakeChunkPolicy, Scripted, chunk, observations

import tiny_flows as flows
import tiny_policies as tiny
from heisd.accept_chunk import EndpointTest
from heisd.bench.latency_profile import load_profile
from heisd.engine import ChunkEngine
from heisd.errors import BadInput
from heisd.kinematics.defaults import LIBERO
from heisd.policies.config import SamplingConfig
from heisd.policies.flow.naive import NaiveFlow
from heisd.propose.base import ChunkProposer
from heisd.route.base import Always, Memory, Reason, Route, RouteKind
from heisd.route.chunks import Fallbacks, Rounds
from heisd.route.fixed import Full
from heisd.telemetry import MemorySink
from heisd.types import ChunkDraft
from heisd.watch import Alarm

SAMPLING = SamplingConfig(euler_steps=3, executed=4)
RULE = EndpointTest.uniform((0.1, 0.05), 0.15)


def engine(policy: FakeChunkPolicy, *proposers: ChunkProposer, rule: EndpointTest | None = RULE) -> ChunkEngine:
    named = {f"p{i}": proposer for i, proposer in enumerate(proposers)}
    return ChunkEngine(
        policy, sampling=SAMPLING, proposers=named, rule=rule, router=Always() if named else None, sink=MemorySink()
    )


def values(policy: FakeChunkPolicy, value: float) -> np.ndarray:
    return policy.codec.denormalise_chunk(chunk(value)[0])


def test_a_chunk_is_executed_until_the_next_round() -> None:
    policy = FakeChunkPolicy()
    loop = engine(policy)
    actions = [loop.act(seen) for seen in observations(9)]
    assert policy.calls == ["encode", "prefill", "denoise 3"] * 3  # at steps 0, 4 and 8, nothing in between
    for step, action in enumerate(actions):
        np.testing.assert_allclose(action.values, values(policy, (1 + step // 4) / 100))
        assert action.tokens.tolist() == policy.codec.encode(action.values).tolist()
    records = loop.sink.records
    assert [r.route for r in records] == ["full", "chunk", "chunk", "chunk"] * 2 + ["full"]
    assert {r.reason for r in records if r.route == "chunk"} == {"action in hand"}
    assert [r.lm_forwards for r in records] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert all(r.origins == {"decoded": 7} for r in records)
    first, second = records[0], records[1]
    assert list(first.stage_ms) == ["route", "encode", "propose", "prefill", "denoise", "act", "record"]
    assert list(second.stage_ms) == ["act", "record"]
    assert second.round is None
    assert first.round is not None
    assert (first.round.n_actions, first.round.n_prefills, first.round.n_expert_passes) == (4, 1, 3)
    assert not first.round.is_rejected


class Gripping(FakeChunkPolicy):
    """Closes the gripper with its third chunk's last action, and all along its fourth."""

    def denoise(self, prefix: int, context: Any, noise: np.ndarray, n_steps: int) -> np.ndarray:
        found = super().denoise(prefix, context, noise, n_steps)
        if self.n_full == 3:
            found[-1, 6] = 1.0
        if self.n_full == 4:
            found[:, 6] = 1.0
        return found


@dataclass(frozen=True)
class Said(Full):
    """Always the same route."""

    route: Route

    def decide(self, *_: Any) -> Route:
        return self.route


def executed(loop: ChunkEngine, n: int) -> list[int]:
    for seen in observations(n):
        loop.act(seen)
    return [record.round.n_actions for record in loop.sink.records if record.round is not None]


def calm_loop(router: Any = None, **options: Any) -> ChunkEngine:
    return ChunkEngine(Gripping(), sampling=SAMPLING, calm_executed=5, router=router, sink=MemorySink(), **options)


def test_a_chunk_that_leaves_the_gripper_alone_is_executed_further() -> None:
    assert executed(ChunkEngine(Gripping(), sampling=SAMPLING, sink=MemorySink()), 20) == [4] * 5
    # The third moves it behind what is executed, the fourth with its first action; the fifth opens it again.
    loop = calm_loop()
    assert executed(loop, 24) == [5, 5, 4, 4, 4, 5]
    loop.reset()  # the gripper that was last is forgotten: chunks are calm by themselves
    loop.sink.records.clear()
    assert executed(loop, 6) == [5, 5]


def test_with_a_delay_as_much_of_a_calm_chunk_is_left_in_hand_as_of_any() -> None:
    loop = calm_loop(delay_steps=1)
    actions = [loop.act(seen) for seen in observations(11)]
    rounds = [(i, r.round.n_actions, r.round.n_frozen) for i, r in enumerate(loop.sink.records) if r.round is not None]
    assert rounds == [(0, 5, 0), (5, 5, 1), (10, 4, 1)]
    np.testing.assert_array_equal(actions[5].values, actions[4].values)  # still the first chunk's


@pytest.mark.parametrize("reason", Reason)
def test_a_round_that_is_full_for_something_uneasy_goes_no_further(reason: Reason) -> None:
    n = 4 if reason in {*(Reason(alarm.value) for alarm in Alarm), Reason.GRIPPER, Reason.SCENE} else 5
    assert executed(calm_loop(Said(Route(RouteKind.FULL, reason))), 6)[0] == n


def test_skips_and_accepted_drafts_go_as_far_as_ever() -> None:
    skip = Route(RouteKind.SKIP, Reason.TOLERANT, chunk=ChunkDraft(chunk(0.5)[None], "p", (0.0,)))
    assert executed(calm_loop(Said(skip)), 12) == [4, 4, 4]
    drafted = {"p0": Scripted(chunk(0.5))}
    assert executed(calm_loop(Always(), rule=RULE, proposers=drafted), 13) == [5, 4, 4]


@pytest.mark.parametrize(("calm", "delay", "said"), [(3, 0, "4, as of any"), (6, 1, "less a delay of 1"), (7, 0, "7")])
def test_calm_chunks_of_no_length_that_can_be_are_refused(calm: int, delay: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ChunkEngine(FakeChunkPolicy(), sampling=SAMPLING, calm_executed=calm, delay_steps=delay)


def test_a_latency_profile_prices_what_the_loop_says_of_its_rounds() -> None:
    loop = ChunkEngine(
        FakeChunkPolicy(gap=0.1), sampling=SAMPLING, proposers={"draft_head": Scripted(chunk(0.5))}, rule=RULE,
        router=Rounds(("draft_head",), Fallbacks(period=2), LIBERO), sink=MemorySink(),
    )  # fmt: skip
    for seen in observations(12):
        loop.act(seen)
    meter, in_hand = load_profile("pi0-rtx4090d-torch").meter(), [0.0] * 3
    charged = [meter.charge_ms(record) for record in loop.sink.records]
    full_ms, flash_ms = 58.0, 18.2
    assert charged == pytest.approx([full_ms, *in_hand, flash_ms, *in_hand, flash_ms, *in_hand])
    assert [record.asked for record in loop.sink.records[::4]] == [{}, {"draft_head": 1}, {"draft_head": 1}]


def test_an_accepted_draft_is_executed_behind_the_stale_prefix() -> None:
    policy, drafter = FakeChunkPolicy(gap=0.1), Scripted(chunk(0.5))
    loop = engine(policy, drafter)
    actions = [loop.act(seen) for seen in observations(12)]
    # no prefix yet: full. Then two rounds read the prefix of the first picture with the state of their own.
    assert policy.calls == [
        "encode", "prefill", "denoise 3", "encode", "endpoints 1<-2 1x2", "encode", "endpoints 1<-3 1x2",
    ]  # fmt: skip
    np.testing.assert_allclose(actions[0].values, values(policy, 0.01))
    np.testing.assert_allclose(actions[4].values, values(policy, 0.5), atol=1e-6)
    rounds = [r.round for r in loop.sink.records if r.round]
    assert [r.prefix_age_steps for r in rounds] == [0, 4, 8]
    assert [(r.n_judged, r.n_accepted, r.n_chunks, r.n_prefills, r.n_expert_passes) for r in rounds[1:]] == [
        (4, 4, 2, 0, 1), (4, 4, 2, 0, 1),
    ]  # fmt: skip
    assert {r.stop for r in rounds[1:]} == {"complete"}
    assert [r.origins for r in loop.sink.records[4:]] == [{"relaxed": 7}] * 8
    assert [came.record for came in drafter.seen] == rounds


def test_a_rejected_round_runs_the_full_one_in_the_same_call_on_the_same_encoding() -> None:
    policy = FakeChunkPolicy(gap=0.2)
    loop = engine(policy, Scripted(chunk(0.5)))
    for seen in observations(5):
        loop.act(seen)
    assert policy.calls[3:] == ["encode", "endpoints 1<-2 1x2", "prefill", "denoise 3"]
    came = loop.sink.records[4]
    assert came.route == "speculate"
    assert came.round is not None
    assert came.round.is_rejected
    assert (came.round.n_prefills, came.round.n_expert_passes, came.round.n_actions) == (1, 4, 4)
    assert came.origins == {"decoded": 7}
    assert list(came.stage_ms) == [
        "route", "encode", "propose", "verify", "accept", "prefill", "denoise", "act", "record",
    ]  # fmt: skip
    # the fallback's prefix is the new one
    policy.gap = 0.0
    for seen in observations(4):
        loop.act(seen)
    assert policy.calls[-1] == "endpoints 2<-3 1x2"


def test_a_partly_accepted_draft_is_executed_as_far_as_it_was_accepted() -> None:
    class Bent(FakeChunkPolicy):
        def endpoints(self, *given: object) -> np.ndarray:
            found = super().endpoints(*given)  # type: ignore[arg-type]
            found[0, 1, 2:, :6] += 1.0  # one level disagrees from the third action on
            return found

    policy = Bent()
    loop = engine(policy, Scripted(chunk(0.5)))
    records = [loop.act(seen) for seen in observations(7)] and loop.sink.records
    assert [r.route for r in records] == ["speculate", "chunk", "chunk", "chunk", "speculate", "chunk", "speculate"]
    assert records[4].round is not None
    assert (records[4].round.n_accepted, records[4].round.n_actions, records[4].round.stop) == (2, 2, "over tolerance")
    assert records[6].round is not None
    assert records[6].round.prefix_age_steps == 6


def test_candidates_of_all_proposers_are_checked_in_one_pass() -> None:
    policy = FakeChunkPolicy()
    loop = engine(policy, Scripted(chunk(0.1), chunk(0.2), source="a"), Scripted(chunk(0.3), source="b"))
    for seen in observations(5):
        loop.act(seen)
    assert policy.calls[-1] == "endpoints 1<-2 3x2"


def test_candidates_beyond_the_room_of_one_pass_are_left_out() -> None:
    policy = FakeChunkPolicy()
    many = Scripted(*[chunk(i / 10) for i in range(5)])
    loop = engine(policy, many)
    for seen in observations(5):
        loop.act(seen)
    assert policy.calls[-1] == "endpoints 1<-2 3x2"
    with pytest.raises(BadInput, match="2 noise levels are more than the 1 chunks"):
        engine(FakeChunkPolicy(max_chunks=1))


def test_a_skip_executes_the_draft_and_asks_nothing() -> None:
    class Skips(Always):
        def decide(self, context: object, phase: object, drafts: object, memory: Memory) -> Route:  # type: ignore[override]  # noqa: ARG002
            chosen = drafts[0] if drafts else None  # type: ignore[index]
            return Route(RouteKind.SKIP, Reason.TOLERANT, chunk=chosen)

    policy, drafter = FakeChunkPolicy(), Scripted(chunk(0.5))
    loop = ChunkEngine(policy, sampling=SAMPLING, proposers={"p": drafter}, router=Skips(), sink=MemorySink())
    for seen in observations(4):
        loop.act(seen)
    assert policy.calls == ["encode"]
    assert [r.origins for r in loop.sink.records] == [{"skipped": 7}] * 4
    assert loop.sink.records[0].route == "skip"
    drafter.chunks = ()  # nobody has anything to say: the round is a full one, and says so
    loop.act(observations(1)[0])
    assert (loop.sink.records[4].route, loop.sink.records[4].reason) == ("full", "no guess")
    assert policy.calls[1:] == ["encode", "prefill", "denoise 3"]


def test_the_gripper_executed_last_is_told_to_the_rule() -> None:
    class Closing(FakeChunkPolicy):
        def denoise(self, *given: object) -> np.ndarray:
            found = super().denoise(*given)  # type: ignore[arg-type]
            found[2:, 6] = 1.0  # closes at the third action, within the executed four
            return found

    policy = Closing()
    loop = engine(policy, Scripted(chunk(0.5, gripper=1.0)))
    for seen in observations(5):
        loop.act(seen)
    record = loop.sink.records[4].round
    assert record is not None
    assert record.n_accepted == 4  # it stays closed: no event
    other = engine(Closing(), Scripted(chunk(0.5, gripper=-1.0)))
    for seen in observations(5):
        other.act(seen)
    record = other.sink.records[4].round
    assert record is not None
    assert (record.n_accepted, record.stop) == (0, "gripper")


def test_an_episode_begins_without_prefix_and_without_a_chunk_in_hand() -> None:
    policy = FakeChunkPolicy()
    loop = engine(policy, Scripted(chunk(0.5)))
    seen = observations(3)
    for each in seen:
        loop.act(each)
    loop.reset()
    loop.act(seen[0])
    assert policy.calls == ["encode", "prefill", "denoise 3"] * 2
    assert [r.step for r in loop.sink.records] == [0, 1, 2, 0]


def test_noise_repeats_for_a_start_and_differs_between_starts_and_rounds() -> None:
    policy = FakeChunkPolicy()
    loop = engine(policy)
    one, other = observations(5, seed=1), observations(5, seed=2)
    for episode in (one, other, one):
        loop.reset()
        for seen in episode:
            loop.act(seen)
    first, second = policy.noises[0], policy.noises[1]
    assert first.shape == (HORIZON, 7)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, policy.noises[2])
    np.testing.assert_array_equal(policy.noises[:2], policy.noises[4:])
    quiet = ChunkEngine(policy, sampling=SAMPLING.model_copy(update={"noise_scale": 0.0}))
    quiet.act(one[0])
    assert not policy.noises[-1].any()


def test_a_proposer_that_fails_or_breaks_its_contract_costs_a_round_and_no_action() -> None:
    class Broken(Scripted):
        def propose(self, context: object, history: object) -> object:  # type: ignore[override]  # noqa: ARG002
            return self.chunks[0] if self.chunks else 1 / 0

    policy = FakeChunkPolicy()
    for proposer in (Broken(), Broken(chunk(0.5)), Scripted(chunk(0.5)[:3]), Scripted(chunk(np.nan))):
        loop = engine(policy, proposer)
        for seen in observations(5):
            loop.act(seen)
        assert loop.sink.records[4].origins == {"decoded": 7}
        assert loop.faults["p0"] > 0


def test_more_executed_actions_than_a_chunk_has_are_refused() -> None:
    with pytest.raises(BadInput, match="has 6 actions; 8 cannot be executed"):
        ChunkEngine(FakeChunkPolicy(), sampling=SamplingConfig(executed=8))


def test_a_real_policy_in_the_loop_is_the_policy_asked_by_hand(rng: np.random.Generator) -> None:
    policy = flows.policy()
    seen = [tiny.observation(rng) for _ in range(6)]
    fast = ChunkEngine(policy, sampling=policy.config.sampling)
    slow = ChunkEngine(NaiveFlow(flows.policy()), sampling=policy.config.sampling)
    for each in seen:
        np.testing.assert_allclose(fast.act(each).values, slow.act(each).values, atol=1e-5)
