"""Chunk policies that skip without looking, and now and then with a look.

What is encoded, what the draft head goes by and what it learns from.
"""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import route_fakes as fakes
import torch
from fake_chunks import HORIZON, FakeChunkPolicy, FakeContext, Scripted, chunk, observations

import tiny_flows as flows
import tiny_policies as tiny
from heisd.accept_chunk import EndpointTest
from heisd.bench.latency_profile import load_profile
from heisd.codec import GRIPPER
from heisd.engine import ChunkEngine
from heisd.errors import BrokenContract
from heisd.kinematics.gripper import GripperState
from heisd.policies.config import SamplingConfig
from heisd.policies.flow.draft_head import DraftHead, DraftHeadConfig, DraftHeadRuntime
from heisd.policies.flow.policy import FlowContext
from heisd.propose.chunks import ShiftedTail
from heisd.route.base import Reason, Route, RouteKind
from heisd.route.calibrated import SkipScore
from heisd.route.chunk_skips import CalibratedChunkSkip
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import MemorySink
from heisd.testing import check_chunk_policy
from heisd.train.draft_head_data import Lesson
from heisd.types import Observation, Round, RoundRecord, TokenOrigin

SURE, UNSURE = SkipScore((), (), (), (), 50.0), SkipScore((), (), (), (), -50.0)
WHOLE = ["encode", "prefill", "denoise 3"]  # the calls of a full round
STILL = GripperState(False, None, 0.08, 0.0, False)


class Looking(FakeChunkPolicy):
    """Has ``refreshed``, which keeps the number of the look."""

    def refreshed(self, context: FakeContext, observation: Observation) -> FakeContext:
        self.calls.append(f"refresh {context.number}")
        return replace(context, instruction=observation.instruction)


class Tolerant(Rounds):
    """Readings of an arm that moves freely, whatever the observations say."""

    def read(self, history: Any) -> Any:  # noqa: ARG002
        return fakes.phase(gripper=STILL)


def robot(
    policy: FakeChunkPolicy, *, gripper: float = -1.0, sources: tuple[str, ...] = (), **changes: Any
) -> ChunkEngine[Any, Any]:
    """Two skips in a row, both without a look, unless ``changes`` of the rule say otherwise."""
    rule: dict[str, Any] = {"score": SURE, "audited_share": 0.0, "n_skips": 2, "n_unseen": 2} | changes
    skip = CalibratedChunkSkip(threshold=0.5, source="draft_head", scouts=("draft_head",), n_actions=2, **rule)
    return ChunkEngine(
        policy,
        sampling=SamplingConfig(euler_steps=3, executed=2),
        proposers={"draft_head": Scripted(chunk(0.25, gripper), source="draft_head")},
        rule=EndpointTest.uniform((0.1,), 0.15),
        router=Tolerant(sources, Fallbacks(), fakes.ranges(), skip),
        sink=MemorySink(),
    )  # fmt: skip


def test_a_skipped_round_does_not_look_and_whatever_is_not_skipped_looks_first() -> None:
    policy = Looking()
    loop = robot(policy)
    for each in observations(10):
        loop.act(each)
    records = [record for record in loop.sink.records if record.round is not None]
    assert [record.route for record in records] == ["full", "skip", "skip", "full", "skip"]
    assert [record.looked for record in records] == [True, False, False, True, False]
    assert policy.calls == [*WHOLE, "refresh 1", "refresh 1", *WHOLE, "refresh 2"]


@pytest.mark.parametrize(
    ("n_unseen", "looked", "calls"),
    [
        (0, [True] * 5, ["encode"] * 5),
        (1, [False, True] * 2 + [False], ["refresh 1", "encode", "refresh 2", "encode", "refresh 3"]),
        (2, [False, False, True, False, False], ["refresh 1", "refresh 1", "encode", "refresh 2", "refresh 2"]),
        (9, [False] * 5, ["refresh 1"] * 5),
    ],
)
def test_after_so_many_skips_without_a_look_the_next_one_looks(
    n_unseen: int, looked: list[bool], calls: list[str]
) -> None:
    """A look is an encoding and nothing else: no prefill, no check, and one question to the draft head."""
    policy = Looking()
    loop = robot(policy, n_unseen=n_unseen, n_skips=5)
    for each in observations(12):
        loop.act(each)
    full, *records = (record for record in loop.sink.records if record.round is not None)
    assert full.route == "full"
    assert [(record.route, record.looked, record.asked) for record in records] == [
        ("skip", did, {"draft_head": 1}) for did in looked
    ]
    assert policy.calls == [*WHOLE, *calls]


def test_the_draft_head_is_asked_on_what_the_look_saw() -> None:
    loop, asked = robot(Looking(), n_skips=4), []
    head = loop._inference.panel._proposers["draft_head"]
    propose = head.propose
    head.propose = lambda context, history: (asked.append(context.number), propose(context, history))[1]
    for each in observations(10):
        loop.act(each)
    assert asked == [1, 1, 2, 2]  # the first look is the full round's


@pytest.mark.parametrize("n_unseen", [0, 1, 2, 9])
def test_the_engine_tells_the_rule_which_rounds_looked(n_unseen: int) -> None:
    loop, found = robot(Looking(), n_unseen=n_unseen, n_skips=4), []
    for each in observations(16):
        loop.act(each)
        record = loop.sink.records[-1]
        if record.round is not None:
            found.append((record.looked, loop._memory.rounds.n_unseen, loop._memory.rounds.unseen_steps))
    n = steps = 0
    for looked, n_unseen_now, unseen_steps in found:
        n, steps = (0, 2) if looked else (n + 1, steps + 2)
        assert (n_unseen_now, unseen_steps) == (n, steps)
    assert max(n for _, n, _ in found) == min(n_unseen, 4)


def test_a_policy_that_cannot_refresh_looks_in_every_round() -> None:
    policy = FakeChunkPolicy()
    loop = robot(policy)
    for each in observations(6):
        loop.act(each)
    assert policy.calls == [*WHOLE, "encode", "encode"]
    assert all(record.looked for record in loop.sink.records if record.round)
    assert loop._memory.rounds.n_unseen == 0


@pytest.mark.parametrize("why", [{"score": UNSURE}, {"gripper": 0.9}], ids=["unsure", "gripper"])
def test_a_refused_skip_looks_and_is_what_it_had_been_with_a_look(why: dict[str, Any]) -> None:
    coasting, looking = robot(Looking(), **why), robot(FakeChunkPolicy(), n_unseen=0, **why)
    for each in observations(8):
        np.testing.assert_array_equal(coasting.act(each).values, looking.act(each).values)
    kinds = [[(r.route, r.reason, r.looked) for r in loop.sink.records] for loop in (coasting, looking)]
    assert kinds[0] == kinds[1]
    assert [r.asked.get("draft_head") for r in coasting.sink.records if r.round] == [None, 1, 1, 1]  # full: not again


@pytest.mark.parametrize("sources", [(), ("draft_head",)])
def test_a_round_that_may_not_be_skipped_is_full_and_asks_nobody(sources: tuple[str, ...]) -> None:
    """Even where there is somebody to ask for a verification."""
    loop = robot(Looking(), n_skips=0, sources=sources)
    for each in observations(6):
        loop.act(each)
    records = [r for r in loop.sink.records if r.round]
    assert [(r.route, r.looked, r.asked) for r in records] == [("full", True, {})] * 3
    assert [r.reason for r in records[1:]] == ["enough skips in a row"] * 2
    assert loop.target.calls == WHOLE * 3


def test_an_audit_of_a_skip_looks_and_makes_the_full_chunk() -> None:
    policy = Looking()
    loop = robot(policy, audited_share=1.0)
    for each in observations(4):
        loop.act(each)
    assert [r.reason for r in loop.sink.records if r.round] == ["no prefix yet", "audit"]
    assert policy.calls[3:] == ["refresh 1", *WHOLE]


def test_the_vision_towers_are_not_charged_where_they_rested() -> None:
    loop = robot(Looking())
    for each in observations(4):
        loop.act(each)
    meter = load_profile("pi0-rtx4090d-torch").meter()
    full_ms, _, skip_ms, _ = (meter.charge_ms(record) for record in loop.sink.records)
    looked_ms = meter.charge_ms(replace(loop.sink.records[2], looked=True))
    assert 0 < skip_ms < looked_ms < full_ms


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_refreshed_context_is_the_pictures_of_before_and_the_rest_of_now(
    rng: np.random.Generator, is_blind: bool
) -> None:
    policy = flows.policy(is_blind=is_blind)
    before, now = tiny.observation(rng), tiny.observation(rng, tiny.INSTRUCTIONS[1])
    policy.prefill(policy.encode(before))
    made = policy.refreshed(policy.encode(before), now)
    whole = policy.encode(replace(now, images=before.images))
    torch.testing.assert_close(made.embeddings, whole.embeddings)
    torch.testing.assert_close(made.state, whole.state)
    assert made.instruction == now.instruction
    np.testing.assert_equal(made.prefix_similarity, policy.encode(now).prefix_similarity)  # a camera may have gone dark
    if not is_blind:
        assert made.prefix_similarity < 1.0


def test_a_draft_head_reads_pictures_once_and_the_state_anew(rng: np.random.Generator) -> None:
    policy = flows.policy()
    head = DraftHead(DraftHeadConfig.of(policy.config)).eval()
    runtime = DraftHeadRuntime(head, policy)
    first, second, third = (tiny.observation(rng) for _ in range(3))
    one, other = policy.encode(first), policy.encode(second)
    for context in (one, policy.refreshed(one, second), policy.refreshed(one, third), other, one):
        np.testing.assert_allclose(runtime.draft(context), in_training_form(head, context), atol=2e-5)


@torch.no_grad()
def in_training_form(head: DraftHead, context: FlowContext) -> Any:
    embeddings = context.embeddings.clone()[None]
    is_visible = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    return head(embeddings, is_visible, context.state.clone()[None])[0].numpy()


def test_older_pictures_are_of_the_same_episode_and_old_enough() -> None:
    frame = torch.tensor([0, 3, 6, 9, 12, 15, 18, 21])
    episode = torch.tensor([0, 0, 0, 0, 4, 4, 4, 4])
    n = len(frame)
    lesson = Lesson(
        embeddings=torch.arange(n).half()[:, None, None].expand(n, 2, 1),
        n_prefix=torch.full((n,), 2),
        state=frame[:, None].float(),
        chunk=torch.zeros(n, 4, 7),
        episode=episode,
        frame=frame,
    )
    index = np.arange(n)

    def seen(*ages: int) -> list[int]:
        embeddings, _, state, _ = lesson.rows(index, np.resize(np.array(ages), n))
        assert state[:, 0].tolist() == frame.tolist()  # all else is of now
        return [int(x) for x in embeddings[:, 0, 0].tolist()]

    assert seen(0) == list(range(n))
    assert seen(3) == [0, 0, 1, 2, 4, 4, 5, 6]
    assert seen(4) == [0, 0, 0, 1, 4, 4, 4, 5]  # at least so old
    assert seen(100) == [0] * 4 + [4] * 4
    assert seen(0, 3) == [0, 0, 2, 2, 4, 4, 6, 6]


def test_the_contract_checker_knows_refreshed(rng: np.random.Generator) -> None:
    class Forgetful:
        """Refreshes what it is told to, but for the state."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def refreshed(self, context: Any, observation: Observation) -> Any:
            made = self._inner.refreshed(context, observation)
            return replace(made, state=made.state + 1.0)

    seen = [tiny.observation(rng) for _ in range(2)]
    check_chunk_policy(flows.policy(), seen)
    with pytest.raises(BrokenContract, match="refreshed"):
        check_chunk_policy(Forgetful(flows.policy()), seen)


@pytest.mark.parametrize("delay_steps", [0, 1])
def test_the_rule_knows_whether_the_rest_of_a_chunk_moves_the_gripper_as_the_tail_guesses_it(delay_steps: int) -> None:
    """With and without a delay: what the tail would say at the next round."""
    loop, rng = robot(Looking(), n_skips=3), np.random.default_rng(0)
    inference, codec = loop._inference, loop.target.codec
    inference._delay_steps = delay_steps
    for _ in range(50):
        made = rng.uniform(-1, 1, (HORIZON, codec.length)).astype(np.float32)
        made[:, GRIPPER] = np.repeat(rng.choice([-0.5, 0.5], HORIZON // 2), 2)
        tail = ShiftedTail(codec, HORIZON)
        inference.reset()
        came = Round(made, TokenOrigin.DECODED, RoundRecord(2))
        tail.observe(came)
        said = inference._take(came, Route(RouteKind.FULL, Reason.ALWAYS)).outcome().rest_moves_gripper
        guess = tail.propose(cast(Any, None), cast(Any, None)).chunks[0, :, GRIPPER] >= 0
        assert said is bool((guess != (made[1, GRIPPER] >= 0)).any())
