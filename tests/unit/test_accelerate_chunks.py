"""heisd.accelerate of a chunk policy, and the checker that says whether one keeps its contract."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_chunks import FakeChunkPolicy, Scripted, chunk, observations

import heisd
import tiny_flows as flows
import tiny_policies as tiny
from heisd.acceleration_chunks import AccelerateChunksConfig
from heisd.engine import ChunkEngine
from heisd.errors import BadInput, BrokenContract, UnknownName
from heisd.policies.flow.naive import NaiveFlow
from heisd.telemetry import MemorySink
from heisd.testing import check_chunk_policy
from heisd.types import Observation

SPECULATING = {"rule": "endpoints", "executed": 4, "gripper_margin_steps": 0, "watches": False}


# --- accelerate -------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_unless_it_is_asked_for(rng: np.random.Generator) -> None:
    seen = [tiny.observation(rng) for _ in range(8)]
    plain = ChunkEngine(flows.policy(), sampling=AccelerateChunksConfig().sampling(flows.HORIZON))
    wanted = [plain.act(each).values for each in seen]
    for config in (None, {}, {"rule": "full"}, {"rule": "endpoints", "enabled": False}, AccelerateChunksConfig()):
        robot = heisd.accelerate(flows.policy(), config)
        assert isinstance(robot, ChunkEngine)
        for each, values in zip(seen, wanted, strict=True):
            np.testing.assert_array_equal(robot.act(each).values, values)
    policy, unasked = FakeChunkPolicy(), {name: value for name, value in SPECULATING.items() if name != "rule"}
    robot = heisd.accelerate(policy, unasked | {"proposers": {"mine": Scripted(chunk(0.5))}})
    for each in observations(9):
        robot.act(each)
    assert policy.calls == ["encode", "prefill", "denoise 10"] * 3  # whatever there is to draft with


def test_speculation_is_a_rule_by_name_or_with_options() -> None:
    for rule in ("endpoints", {"name": "endpoints", "levels": (0.1, 0.05), "residual": 3.0}):
        policy, sink = FakeChunkPolicy(gap=0.1), MemorySink()
        robot = heisd.accelerate(
            policy, SPECULATING | {"rule": rule, "proposers": {"mine": Scripted(chunk(0.5))}}, sink=sink
        )
        for seen in observations(8):
            robot.act(seen)
        levels = 1 if rule == "endpoints" else 2
        assert policy.calls[-1] == f"endpoints 1<-2 1x{levels}"
        came = sink.records[4].round
        assert came is not None
        assert came.n_accepted == 4
    assert AccelerateChunksConfig(rule="endpoints").proposers == {"tail": {}}


def test_the_prefix_ages_by_rounds_and_a_delay_freezes() -> None:
    policy = FakeChunkPolicy()
    robot = heisd.accelerate(policy, SPECULATING | {"proposers": {"mine": Scripted(chunk(0.5))}, "max_age_rounds": 1})
    for seen in observations(12):
        robot.act(seen)
    assert policy.calls[-3:] == ["encode", "prefill", "denoise 10"]
    late = FakeChunkPolicy()
    robot = heisd.accelerate(late, {"executed": 3, "delay_steps": 2})
    for seen in observations(4):
        robot.act(seen)
    assert late.calls[-1] == "inpaint 10"


def test_a_dark_camera_is_looked_at_in_full() -> None:
    policy, sink = FakeChunkPolicy(), MemorySink()
    config = {
        "rule": "endpoints",
        "executed": 4,
        "gripper_margin_steps": 0,
        "proposers": {"mine": Scripted(chunk(0.5))},
    }
    robot = heisd.accelerate(policy, config, sink=sink)
    seen = observations(1)[0]
    dark = Observation({"agentview": np.zeros((8, 8, 3), np.uint8)}, seen.proprio, seen.instruction, 0.0)
    for _ in range(8):
        robot.act(dark)
    assert {record.reason for record in sink.records} == {"camera dark", "action in hand"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"ruel": "full"},
            r"unknown key\(s\) \['ruel'\] in accelerate's configuration of a chunk policy; known: delay_steps",
        ),
        ({"rule": 3}, r'the rule is 3; give its name, or a mapping as \{"name": "endpoints"'),
        ({"rule": {"name": "endpoints", "residual": -1}}, "rule 'endpoints': residual: .*greater than or equal to 0"),
        ({"rule": {"name": "endpoints", "levels": ()}}, "levels"),
        ({"executed": 9}, "a chunk of this policy has 6 actions; 9 cannot be executed"),
        ({"executed": 4, "delay_steps": 3}, "a delay of 3 control steps with 4 of a chunk's 6"),
        ({"rule": "endpoints", "proposers": {"tail": 3}}, "proposer 'tail' is 3; give its options as a mapping"),
        ({"rule": "endpoints", "proposers": {"retrieval": {}}}, "proposer 'retrieval': .*its options: store, k"),
        ({"euler_steps": 0}, "euler_steps"),
    ],
)
def test_bad_configurations_are_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        heisd.accelerate(FakeChunkPolicy(), config)
    assert "\n" not in str(refused.value)


def test_names_that_are_not_known_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown rule 'exact'; known: endpoints, full"):
        heisd.accelerate(FakeChunkPolicy(), {"rule": "exact"})
    with pytest.raises(UnknownName, match="unknown proposer 'kalman'; known: draft_head, persistence, retrieval, tail"):
        heisd.accelerate(FakeChunkPolicy(), {"rule": "endpoints", "proposers": {"kalman": {}}})


def test_a_proposer_that_fails_costs_time_only() -> None:
    class Broken(Scripted):
        def propose(self, context: object, history: object) -> None:  # noqa: ARG002
            raise RuntimeError("no")

    policy = FakeChunkPolicy()
    robot = heisd.accelerate(policy, SPECULATING | {"proposers": {"mine": Broken()}})
    for seen in observations(9):
        assert np.isfinite(robot.act(seen).values).all()
    assert robot.faults == {"mine": 2}


# --- the checker ------------------------------------------------------------------------------------------------------


class Around:
    """A correct policy, of which a test breaks one thing."""

    def __init__(self, **changes: Any) -> None:
        self._inner = flows.policy()
        for name, value in changes.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
def seen(rng: np.random.Generator) -> list[Observation]:
    return [tiny.observation(rng) for _ in range(2)]


def test_policies_of_ours_keep_the_contract(seen: list[Observation]) -> None:
    check_chunk_policy(flows.policy(), seen)
    check_chunk_policy(flows.policy(n_kv_heads=2), seen)
    check_chunk_policy(flows.policy(is_blind=True), seen)
    check_chunk_policy(NaiveFlow(flows.policy()), seen)


def broken(name: str, change: Callable[..., Any]) -> Around:
    """A policy whose answer of one call is changed: ``change(answer, *arguments)``."""
    policy = Around()
    call = getattr(policy._inner, name)
    setattr(policy, name, lambda *arguments: change(call(*arguments), *arguments))
    return policy


def _in_place(answer: Any, prefix: Any, context: Any, noise: np.ndarray, *more: Any) -> Any:  # noqa: ARG001
    noise += 1
    return answer


def _last_draft(answer: np.ndarray, *_: Any) -> np.ndarray:
    answer[-1] += 0.1
    return answer


def _at_noise(answer: np.ndarray, prefix: Any, context: Any, drafts: Any, noise: Any, levels: Any) -> np.ndarray:  # noqa: ARG001
    return np.where((np.asarray(levels) == 1.0)[None, :, None, None], -answer, answer).astype(np.float32)


class Counting:
    """Adds a little more at every call."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, answer: Any, *_: Any) -> Any:
        self.n += 1
        return answer + np.float32(self.n)


BREAKS: dict[str, tuple[Callable[[], Any], str]] = {
    "no endpoints": (lambda: Around(endpoints=None), "it has the methods encode, prefill, denoise, endpoints"),
    "no horizon": (lambda: Around(horizon=0), "its horizon is 1 or more"),
    "max_chunks": (lambda: Around(max_chunks=None), "its max_chunks is 1 or more"),
    "float64": (lambda: broken("denoise", lambda a, *_: a.astype(np.float64)), "denoise returns float32"),
    "shape": (lambda: broken("denoise", lambda a, *_: a[:-1]), "denoise returns float32"),
    "NaN": (lambda: broken("endpoints", lambda a, *_: a * np.nan), "endpoints returns finite numbers"),
    "noise": (lambda: broken("denoise", _in_place), "denoise changes nothing it is given"),
    "chance": (lambda: broken("denoise", Counting()), "the same noise gives the same chunk"),
    "batch": (lambda: broken("endpoints", _last_draft), "drafts and levels in one call are each as if alone"),
    "time": (lambda: broken("endpoints", _at_noise), "at t = 1 an endpoint is the chunk of one Euler step"),
    "raises": (lambda: broken("prefill", lambda a, *_: a[0]), "prefill never raises"),
    "in-painting": (lambda: broken("inpaint", lambda a, *_: -a), "inpaint without a weight denoises"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_policy_is_refused_by_the_clause_it_breaks(name: str, seen: list[Observation]) -> None:
    make, clause = BREAKS[name]
    with pytest.raises(BrokenContract, match=clause):
        check_chunk_policy(make(), seen)


def test_a_guide_that_is_not_followed_is_found(seen: list[Observation]) -> None:
    policy = Around()
    policy.inpaint = lambda prefix, context, noise, n, guide: policy._inner.denoise(prefix, context, noise, n)  # noqa: ARG005
    with pytest.raises(BrokenContract, match="inpaint moves a chunk towards what is wanted"):
        check_chunk_policy(policy, seen)


def test_one_observation_is_not_enough(seen: list[Observation]) -> None:
    with pytest.raises(BadInput, match="got 1 observations; give two"):
        check_chunk_policy(flows.policy(), seen[:1])
