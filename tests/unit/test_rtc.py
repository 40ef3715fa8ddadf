"""Real-time chunking: what is frozen stays, what is pulled moves, no delay is the plain loop, nobody waits twice."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_chunks import HORIZON, FakeChunkPolicy, Scripted, chunk, observations
from hypothesis import given
from hypothesis import strategies as st
from test_realtime import PERIOD_MS, Charges, LoggingEnv

import tiny_flows as flows
import tiny_policies as tiny
from heisd.accept_chunk import EndpointTest
from heisd.bench.latency_profile import INPAINT_DENOISES, LatencyProfile, load_profile
from heisd.bench.realtime import RealTime, foreseen_delay, pacing_block
from heisd.bench.results import EpisodeRecord
from heisd.config import EvalConfig, Meanwhile, RealtimeConfig
from heisd.engine import ChunkEngine
from heisd.errors import BadInput
from heisd.inference.overlap import Overlap
from heisd.kinematics.defaults import LIBERO
from heisd.policies.config import SamplingConfig
from heisd.policies.flow.inpaint import guided
from heisd.policies.flow.naive import NaiveFlow
from heisd.policies.flow.schedule import euler_times, integrate
from heisd.policies.guidance import MAX_WEIGHT, Guide, guidance_weight, soft_mask
from heisd.propose.base import ChunkProposer
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import MemorySink
from heisd.types import Round, RoundRecord, StepRecord, TokenOrigin

DELAY, EXECUTED = 2, 3
PI0 = "pi0-rtx4090d-torch"


# --- the numbers ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
def test_the_mask_is_whole_on_frozen_actions_falls_behind_them_and_ends(n_frozen: int, n_known: int, h: int) -> None:
    weights = soft_mask(n_frozen, n_known, h)
    assert weights.dtype == np.float32
    assert weights.shape == (h,)
    known = min(n_known, h)
    assert (weights[: min(n_frozen, known)] == 1.0).all()
    assert (weights[known:] == 0.0).all()
    assert (np.diff(weights) <= 0).all()
    assert ((weights[:known] > 0) & (weights[:known] <= 1)).all()


def test_the_mask_is_rtcs_exponential_schedule() -> None:
    d, s, h = 2, 3, 8
    end = h - s
    linear = [min(max((d - 1 - i) / (end - d + 1) + 1, 0.0), 1.0) if i < end else 0.0 for i in range(h)]
    wanted = [w * (math.exp(w) - 1) / (math.e - 1) for w in linear]
    np.testing.assert_allclose(soft_mask(d, end, h), wanted, rtol=1e-6)
    assert soft_mask(d, end, h)[2] == pytest.approx(0.75 * math.expm1(0.75) / math.expm1(1))


def test_the_weight_is_rtcs_with_time_running_the_other_way() -> None:
    def rtc(tau: float) -> float:  # its own convention: 0 is noise
        return (1 - tau) / tau * (tau**2 + (1 - tau) ** 2) / (1 - tau) ** 2

    for t in (0.1, 0.25, 0.5, 0.8, 0.99):
        assert guidance_weight(t, 1e9) == pytest.approx(rtc(1 - t))
        assert guidance_weight(t, 1e9) == pytest.approx(guidance_weight(1 - t, 1e9))
    assert guidance_weight(0.5) == 2.0  # the least
    assert guidance_weight(1.0) == guidance_weight(0.999) == MAX_WEIGHT
    assert guidance_weight(1.0, 3.0) == 3.0


def test_a_field_that_leaves_its_input_alone_is_pulled_by_the_weight_itself() -> None:
    """With v = 0 the endpoint is x and its derivative 1: one step from t = 1 moves x by max_weight times the error."""
    start, weights = torch.randn(4, 7), np.array([1.0, 0.5, 0.0, 1.0], dtype=np.float32)
    wanted = np.full((4, 7), 0.3, dtype=np.float32)
    pulled = guided(lambda x, t: 0 * x, (1.0,), Guide(wanted, weights, 0.5), start)  # noqa: ARG005
    made = integrate(pulled, start, 1)
    expected = start + 0.5 * (torch.from_numpy(wanted) - start) * torch.from_numpy(weights)[:, None]
    torch.testing.assert_close(made, expected)
    many = integrate(guided(lambda x, t: 0 * x, euler_times(10), Guide(wanted, weights), start), start, 10)  # noqa: ARG005
    assert (many - 0.3)[torch.from_numpy(weights == 1)].abs().max() < 0.1 * (start - 0.3).abs().max()
    assert torch.equal(many[2], start[2])


def test_a_field_whose_endpoint_is_settled_is_not_pulled_at_all() -> None:
    """Every x points to the same clean chunk, so nothing that x does would change it."""
    clean, start = torch.randn(4, 7), torch.randn(4, 7)
    guide = Guide(np.zeros((4, 7), dtype=np.float32), np.ones(4, dtype=np.float32))
    made = integrate(guided(lambda x, t: (x - clean) / t, euler_times(5), guide, start), start, 5)
    torch.testing.assert_close(made, clean, atol=1e-5, rtol=0)


# --- a policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"is_blind": True}])
def test_in_painting_without_a_weight_is_denoising(rng: np.random.Generator, changes: dict[str, object]) -> None:
    policy = flows.policy(**changes)
    context = policy.encode(tiny.observation(rng))
    prefix, noise = policy.prefill(context), rng.standard_normal((flows.HORIZON, 7), dtype=np.float32)
    nothing = Guide(rng.standard_normal((flows.HORIZON, 7)).astype(np.float32), np.zeros(flows.HORIZON, np.float32))
    before = policy.denoise(prefix, context, noise, 3)
    np.testing.assert_allclose(policy.inpaint(prefix, context, noise, 3, nothing), before, atol=1e-4)
    np.testing.assert_array_equal(policy.denoise(prefix, context, noise, 3), before)  # it has left no trace


def test_the_pull_is_the_derivative_of_the_training_forms_endpoint(rng: np.random.Generator) -> None:
    policy = flows.policy()
    context = policy.encode(tiny.observation(rng))
    prefix, noise = policy.prefill(context), rng.standard_normal((flows.HORIZON, 7), dtype=np.float32)
    wanted = rng.standard_normal((flows.HORIZON, 7)).astype(np.float32)
    weights = soft_mask(2, 4, flows.HORIZON)
    made = policy.inpaint(prefix, context, noise, 1, Guide(wanted, weights, 2.0))

    model, embeddings = policy.model, context.embeddings.clone()[None]
    visible = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    condition = model.condition(model.prefix_keys_values(embeddings, visible), visible, context.state.clone()[None])

    def clean(x: torch.Tensor) -> torch.Tensor:
        return x - model.velocity(condition, x[None, None], torch.ones(1, 1))[0, 0]

    x = torch.from_numpy(noise)
    jacobian = torch.autograd.functional.jacobian(clean, x)
    error = (torch.from_numpy(wanted) - clean(x)) * torch.from_numpy(weights)[:, None]
    pull = torch.einsum("ijkl,ij->kl", jacobian, error)
    expected = (clean(x) + 2.0 * pull).detach().numpy()  # one Euler step from t = 1: x - (v - 2 pull)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert np.abs(pull.numpy(force=True)).max() > 1e-2


def test_in_painting_repeats_exactly_and_refuses_an_old_prefix(rng: np.random.Generator) -> None:
    policy = flows.policy()
    context = policy.encode(tiny.observation(rng))
    prefix, noise = policy.prefill(context), rng.standard_normal((flows.HORIZON, 7), dtype=np.float32)
    guide = Guide(np.zeros((flows.HORIZON, 7), np.float32), soft_mask(1, 3, flows.HORIZON))
    first = policy.inpaint(prefix, context, noise, 4, guide)
    np.testing.assert_array_equal(policy.inpaint(prefix, context, noise, 4, guide), first)
    policy.prefill(context)
    with pytest.raises(BadInput, match="overwritten"):
        policy.inpaint(prefix, context, noise, 4, guide)


# --- rounds -----------------------------------------------------------------------------------------------------------


def engine(policy: FakeChunkPolicy, *proposers: ChunkProposer, delay: int = DELAY) -> ChunkEngine:
    named = {f"p{i}": proposer for i, proposer in enumerate(proposers)}
    router = Rounds(tuple(named), Fallbacks(), LIBERO) if named else None
    sampling, rule = SamplingConfig(euler_steps=3, executed=EXECUTED), EndpointTest.uniform((0.1,), 0.15)
    return ChunkEngine(
        policy, sampling=sampling, proposers=named, rule=rule, router=router, delay_steps=delay, sink=MemorySink()
    )


def firsts(policy: FakeChunkPolicy, loop: ChunkEngine, n: int) -> list[float]:
    """The first normalised number of n executed actions."""
    actions = np.stack([loop.act(seen).values for seen in observations(n)])
    return np.round(policy.codec.normalise_chunk(actions)[:, 0], 6).tolist()


def test_what_is_in_hand_is_executed_and_the_new_chunk_follows_it() -> None:
    policy = FakeChunkPolicy()
    loop = engine(policy)
    assert firsts(policy, loop, 9) == [0.01] * 5 + [0.02] * 3 + [0.03]
    assert policy.calls == ["encode", "prefill", "denoise 3", *["encode", "prefill", "inpaint 3"] * 2]
    records = loop.sink.records
    assert [r.route for r in records] == ["full", "chunk", "chunk"] * 3
    rounds = [r.round for r in records if r.round]
    assert [(r.n_actions, r.n_frozen) for r in rounds] == [(3, 0), (3, 2), (3, 2)]
    assert sum(r.n_actions for r in rounds) == len(records)
    guide = policy.guides[0]
    np.testing.assert_array_equal(guide.wanted[:, 0], np.float32([0.01] * 3 + [0.0] * 3))  # chunk one from action 3 on
    np.testing.assert_array_equal(guide.weights, soft_mask(2, 3, HORIZON))
    # Of the second chunk the frozen actions are those of the first one.
    np.testing.assert_array_equal(policy.guides[1].wanted[:, 0], np.float32([0.02] * 3 + [0.0] * 3))


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_frozen_actions_are_executed_to_the_last_bit(rng: np.random.Generator, delay: int) -> None:
    """A real network: what was in hand when a round began is what the robot does next, whatever the round makes."""
    sampling = SamplingConfig(euler_steps=2, executed=3)
    policy, listener = flows.policy(), Scripted()
    seen = [tiny.observation(rng) for _ in range(12)]
    loop = ChunkEngine(policy, sampling=sampling, proposers={"ear": listener}, delay_steps=delay, sink=MemorySink())
    done = np.stack([loop.act(each).values for each in seen])
    assert [i for i, r in enumerate(loop.sink.records) if r.round] == [0, 3, 6, 9]
    for number, (old, new) in enumerate(zip(listener.seen, listener.seen[1:], strict=False), 1):
        np.testing.assert_array_equal(new.chunk[:delay], old.chunk[3 : 3 + delay])
        at = 3 * number
        planned = policy.codec.denormalise_chunk(old.chunk[3 : 3 + delay])
        np.testing.assert_array_equal(done[at : at + delay], planned[: len(done) - at])
        assert not np.array_equal(new.chunk[delay:3], old.chunk[3 + delay :][: 3 - delay]) or delay == 3
    again = ChunkEngine(flows.policy(), sampling=sampling, proposers={"ear": Scripted()}, delay_steps=delay)
    np.testing.assert_array_equal(np.stack([again.act(each).values for each in seen]), done)


def test_no_delay_is_the_plain_loop(rng: np.random.Generator) -> None:
    seen = [tiny.observation(rng) for _ in range(9)]
    sampling = SamplingConfig(euler_steps=2, executed=3)
    plain, none = (ChunkEngine(flows.policy(), sampling=sampling, **more) for more in ({}, {"delay_steps": 0}))
    for each in seen:
        np.testing.assert_array_equal(plain.act(each).values, none.act(each).values)
    policy = FakeChunkPolicy()
    firsts(policy, engine(policy, delay=0), 6)
    assert policy.guides == []


def test_an_accepted_draft_honours_what_is_frozen_and_is_verified_as_it_is_executed() -> None:
    policy, drafter = FakeChunkPolicy(gap=0.1), Scripted(chunk(0.5))
    loop = engine(policy, drafter)
    weight = float(soft_mask(2, 3, HORIZON)[2])
    blended = round(0.01 * weight + 0.5 * (1 - weight), 6)
    assert firsts(policy, loop, 9) == pytest.approx([0.01] * 5 + [blended, 0.5, 0.5, 0.5], abs=1e-6)
    first, second = policy.drafts[:2]
    np.testing.assert_array_equal(first[0, :2], chunk(0.01)[:2])
    np.testing.assert_array_equal(second[0, :2], drafter.seen[1].chunk[3:5])
    rounds = [r.round for r in loop.sink.records if r.round]
    assert [(r.n_judged, r.n_accepted, r.n_actions, r.n_frozen) for r in rounds] == [(0, 0, 3, 0), *[(3, 3, 3, 2)] * 2]
    assert [r.prefix_age_steps for r in rounds] == [0, 3, 6]
    # Of a draft nothing is known behind what is in hand: the next one is blended into no more than that.
    np.testing.assert_array_equal(second[0, 2:], chunk(0.5)[2:])


def test_a_draft_that_adds_nothing_to_what_is_in_hand_is_refused() -> None:
    class Bent(FakeChunkPolicy):
        n_good = 2

        def endpoints(self, *arguments: object) -> np.ndarray:
            found = super().endpoints(*arguments)  # type: ignore[arg-type]
            found[:, :, self.n_good :, :6] += 1.0
            return found

    policy = Bent()
    loop = engine(policy, Scripted(chunk(0.5)))
    firsts(policy, loop, 4)
    came = loop.sink.records[3].round
    assert came is not None
    assert came.is_rejected
    assert (came.n_actions, came.n_prefills) == (3, 1)
    policy.n_good = 3
    firsts(policy, loop, 3)
    came = loop.sink.records[6].round
    assert came is not None
    assert (came.n_accepted, came.n_actions, came.n_judged) == (1, 1, 3)
    # One action of it in hand beside the two: the next round begins one step later.
    assert loop.sink.records[-1].round is came
    firsts(policy, loop, 1)
    assert loop.sink.records[-1].round is not None


def test_an_overlap_keeps_dtype_and_leaves_its_input_alone() -> None:
    old = Round(chunk(0.25), TokenOrigin.SKIPPED, RoundRecord(3))
    overlap = Overlap.of(old, 2)
    assert overlap.n_known == 2
    given_chunk = chunk(0.5)
    blended = overlap.blended(given_chunk)
    assert blended.dtype == np.float32
    np.testing.assert_array_equal(blended[:, 0], np.float32([0.25, 0.25, 0.5, 0.5, 0.5, 0.5]))
    np.testing.assert_array_equal(given_chunk, chunk(0.5))


def test_delays_that_cannot_be_are_refused() -> None:
    for delay, executed in ((4, 3), (-1, 3), (2, 5)):
        with pytest.raises(BadInput, match=rf"a delay of {delay} control steps with {executed} of a chunk's 6"):
            ChunkEngine(FakeChunkPolicy(), sampling=SamplingConfig(executed=executed), delay_steps=delay)
    with pytest.raises(BadInput, match=r"NaiveFlow has no inpaint\(\)"):
        ChunkEngine(NaiveFlow(flows.policy()), sampling=SamplingConfig(executed=3), delay_steps=1)
    with pytest.raises(BadInput, match=r"--delay is of methods that do not wait .*full_rtc"):
        EvalConfig(suite="libero_goal", methods=("full",), delay_steps=1)


# --- a world that does not wait ---------------------------------------------------------------------------------------


def drive(rounds: list[RoundRecord | None], ms: tuple[float, ...], n_steps: int) -> tuple[LoggingEnv, RealTime]:
    """Answers 1, 2, … by turns with these rounds, charged by turns."""
    world = LoggingEnv(n_steps)
    pace = RealTime(world, Charges(*ms), RealtimeConfig(latency_profile="zero", meanwhile=Meanwhile.HOLD))
    number, step = 0, None
    while step is None or not step.is_over:
        came = rounds[number % len(rounds)]
        record = StepRecord(number, 0.0, {}, 0, {}, round=came)
        number += 1
        *_, step = pace.answer(np.full(7, float(number)), record)
    return world, pace


FROZEN = [RoundRecord(4, n_frozen=2), None, None, None]


@pytest.mark.parametrize(
    ("ms", "log", "n_in_time"),
    [
        ((0.0,), [1, 2, 3, 4, 5, 6, 7, 8, 9], 0),
        ((50.0, 0.0, 0.0, 0.0), [1, 2, 3, 4, 5, 6, 7, 8, 9], 0),
        ((100.0, 0.0, 0.0, 0.0), [1, 2, 3, 4, 5, 6, 7, 8, 9], 3),  # two periods behind two actions: nobody waits
        ((101.0, 0.0, 0.0, 0.0), [1, 2, None, 3, 4, 5, 6, 7, 8], 0),  # a third one: the third action waits
        ((250.0, 0.0, 0.0, 0.0), [1, 2, None, None, None, 3, 4, 5, 6], 0),
    ],
)
def test_a_round_is_computed_while_the_actions_in_hand_are_executed(
    ms: tuple[float, ...], log: list[float | None], n_in_time: int
) -> None:
    world, pace = drive(FROZEN, ms, len(log))
    assert world.log == log
    assert pace.pacing.n_in_time == n_in_time


def test_a_round_in_time_misses_no_deadline() -> None:
    def misses(ms: float) -> int:
        _, pace = drive(FROZEN, (ms, 0.0, 0.0, 0.0), 8)
        record = EpisodeRecord("k", "full_rtc", "s", 0, "", 0, True, 8, 0, 0, 0, 0, {}, "", 0, realtime=pace.pacing)
        block = pacing_block([record], RealtimeConfig(latency_profile="zero"))
        assert block is not None
        return int(block["deadline_misses"]["n"])

    assert [misses(ms) for ms in (50.0, 100.0, 101.0)] == [0, 0, 2]


def test_the_delay_is_that_of_the_longest_round_by_the_profile() -> None:
    profile = load_profile(PI0)
    ms = {name: stage.ms for name, stage in profile.stages.items()}
    full_ms = ms["encode"] + ms["prefill"] + INPAINT_DENOISES * ms["denoise"]
    assert profile.longest_round_ms("full_rtc") == pytest.approx(full_ms)
    assert profile.longest_round_ms("flash_rtc") == pytest.approx(full_ms + ms["draft"] + ms["verify"])
    known = LatencyProfile.model_validate(
        {**profile.model_dump(), "stages": {**profile.model_dump()["stages"], "inpaint": profile.stages["verify"]}}
    )
    assert known.longest_round_ms("full_rtc") == pytest.approx(ms["encode"] + ms["prefill"] + ms["verify"])

    def delay(method: str, **more: object) -> int:
        realtime = RealtimeConfig(latency_profile=PI0, **more)
        return foreseen_delay(EvalConfig(suite="s", methods=(method,), realtime=realtime), method)

    assert delay("full_rtc") == math.ceil(full_ms / PERIOD_MS) == 2
    assert delay("full_rtc", control_hz=10) == 1
    assert delay("full") == 0
    waiting = EvalConfig(suite="s", methods=("full_rtc",))
    assert foreseen_delay(waiting, "full_rtc") == 0
    assert foreseen_delay(waiting.model_copy(update={"delay_steps": 3}), "full_rtc") == 3


@pytest.mark.parametrize(("delay", "n_waits"), [(0, 3), (2, 0)])
def test_chunks_in_real_time_never_wait_behind_the_first(delay: int, n_waits: int) -> None:
    """The engine, the profile and the pacer together: 78 ms a round at 20 Hz are two periods."""
    policy, world = FakeChunkPolicy(), LoggingEnv(14)
    loop = engine(policy, delay=delay)
    pace = RealTime(world, load_profile(PI0).meter(), RealtimeConfig(latency_profile=PI0))
    seen, step, n_asked = observations(1)[0], None, 0
    while step is None or not step.is_over:
        action = loop.act(seen)
        n_asked += 1
        *_, step = pace.answer(action.values, loop.sink.records[-1])
    assert world.log[:2] == [None, None]  # the first chunk of an episode has none before it
    assert sum(command is None for command in world.log[2:]) == n_waits
    record = json.loads(json.dumps(pace.pacing.charged_ms))
    assert max(record) == pytest.approx(78.0 if delay else 58.0)


def test_bench_and_eval_take_a_delay(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from heisd.cli import app

    flows.stored_policy(tmp_path / "flow")
    given_run = ["--suite", "libero_goal", "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "flow")]
    done = CliRunner().invoke(app, ["eval", *given_run, "--method", "full_rtc", "--delay", "3"])
    assert done.exit_code == 2
    assert "a delay of 3 control steps with 4 of a chunk's 6 actions executed" in done.stderr
    done = CliRunner().invoke(app, ["eval", *given_run, "--method", "full", "--delay", "3"])
    assert "--delay is of methods that do not wait" in done.stderr
    assert done.stderr.count("\n") == 1
