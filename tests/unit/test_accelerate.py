"""heisd.accelerate: configuration, the off switch, and what faulty policies and proposers cost."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_target as fake
import numpy as np
import pytest
import torch
from fake_target import FakePolicy
from pydantic import ValidationError

import heisd
import tiny_policies as tiny
from heisd import AccelerateConfig, accelerate, accept
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, BrokenContract, UnknownName
from heisd.policies.protocol import Context
from heisd.policies.target import OpenVLAPolicy
from heisd.propose.base import History, Stateless
from heisd.telemetry import MemorySink
from heisd.types import Draft, Observation, Verdict

T, FIRST, END = fake.CODEC.length, fake.CODEC.first_token, fake.CODEC.vocab_size


COSTS = {"vision_ms": 1.0, "prefill_ms": 4.0, "decode_ms": 1.5, "row_ms": 0.1}


def standing_still(n: int = 4) -> list[Observation]:
    """Every observation three times: then the last action is the right guess."""
    return [seen for seen in fake.observations(n) for _ in range(3)]


@pytest.mark.parametrize(
    "config", [None, {}, AccelerateConfig(), {"proposers": {}}, {"max_nodes": 1}, {"proposers": {"kalman_code": {}}}]
)
def test_the_default_rule_gives_plain_decodings_actions(config: Any) -> None:
    policy = FakePolicy()
    robot = accelerate(policy, config)
    for seen in standing_still():
        assert robot.act(seen).tokens.tolist() == fake.greedy(policy, seen)


def test_the_default_proposers_save_forwards_and_the_off_switch_saves_none() -> None:
    fast, plain = MemorySink(), MemorySink()
    robots = [accelerate(FakePolicy(), sink=fast), accelerate(FakePolicy(), {"enabled": False}, sink=plain)]
    assert {type(robot) for robot in robots} == {Engine}
    for seen in standing_still():
        for robot in robots:
            robot.act(seen)
    assert {record.lm_forwards for record in plain.records} == {T}
    assert {(record.route, record.reason) for record in plain.records} == {("full", "always")}
    assert [record.lm_forwards for record in fast.records][1::3] == [1] * 4
    assert sum(record.n_accepted for record in plain.records) == 0


def test_reset_begins_an_episode() -> None:
    sink = MemorySink()
    robot = accelerate(FakePolicy(), sink=sink)
    seen = fake.observations(1)[0]
    for _ in range(2):
        robot.reset()
        robot.act(seen)
    assert [record.step for record in sink.records] == [0, 0]
    assert [record.lm_forwards for record in sink.records] == [T, T]  # what was done before is forgotten


class Near(Stateless):
    """The target's tokens, one bin off where there is a bin on that side."""

    def __init__(self, policy: FakePolicy) -> None:
        self.policy, self.seen = policy, fake.observations(1)[0]

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        missing = fake.greedy(self.policy, self.seen)[len(history.settled) :]
        return Draft((tuple(max(token - 1, FIRST) for token in missing),), "near", (0.0,))


@pytest.mark.parametrize(
    ("rule", "n_relaxed"),
    [
        ("exact", 0),
        ({"name": "relaxed", "tolerance_bins": 0}, 0),
        ({"name": "relaxed", "tolerance_bins": [1, 0, 0, 0, 0, 0, 0]}, 1),
        ({"name": "sequence", "max_sum_bins": 0}, 0),
    ],
)
def test_rules_and_their_options_reach_the_engine(rule: Any, n_relaxed: int) -> None:
    policy, sink = FakePolicy(), MemorySink()
    near = Near(policy)
    robot = accelerate(policy, {"proposers": {"mine": near}, "rule": rule}, sink=sink)
    robot.act(near.seen)
    assert sink.records[0].origins.get("relaxed", 0) == n_relaxed


@pytest.mark.parametrize(
    ("rule", "keywords"),
    [
        ("relaxed", {"tolerance_bins": 9}),
        ({"name": "relaxed", "tolerance_bins": (5, 5, 5, 5, 5, 5, 0)}, {"tolerance_bins": (5, 5, 5, 5, 5, 5, 0)}),
        ("sequence", {"bounds": accept.HEISD_PAPER}),
        ({"name": "sequence", "max_sum_bins": 44, "max_token_bins": 24}, {"bounds": accept.HEISD_CODE}),
    ],
)
def test_rules_bind_their_options(rule: Any, keywords: Mapping[str, Any]) -> None:
    bound: Any = AccelerateConfig(rule=rule).rule.bind()
    assert bound.keywords == keywords


class Halves(Near):
    """Two candidates: one has the right position, the other the right rotation and gripper."""

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        right = tuple(fake.greedy(self.policy, self.seen))
        wrong = tuple(FIRST + (token - FIRST + 100) % 200 for token in right)
        return (
            Draft((right[:3] + wrong[3:], wrong[:3] + right[3:]), "halves", (0.0, 0.0)) if not history.settled else None
        )


@pytest.mark.parametrize(
    ("options", "n_accepted"),
    [
        ({"rule": "sequence"}, 7),
        ({"rule": {"name": "sequence", "recombines": False}}, 3),
        ({"rule": "exact"}, 3),
        ({"rule": "exact", "max_nodes": 2}, 1),  # the two roots
    ],
)
def test_candidates_recombine_and_trees_stay_small_as_asked(options: dict[str, Any], n_accepted: int) -> None:
    policy, sink = FakePolicy(), MemorySink()
    halves = Halves(policy)
    robot = accelerate(policy, options | {"proposers": {"mine": halves}}, sink=sink)
    assert robot.act(halves.seen).tokens.tolist() == fake.greedy(policy, halves.seen)
    assert sink.records[0].n_accepted == n_accepted


def test_a_configuration_can_be_written_down_and_read_again() -> None:
    config = AccelerateConfig.model_validate({"proposers": {"kalman": {"context_steps": 5}}, "rule": "relaxed"})
    assert AccelerateConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.max_nodes = 3  # type: ignore[misc]


class Silent(Stateless):
    def propose(self, context: Context, history: History) -> Draft | None: ...


KNOWN = "costs, enabled, max_nodes, proposers, rule"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"propsers": {}, "rules": "exact"},
            rf"unknown key\(s\) \['propsers', 'rules'\] in accelerate's configuration; known: {KNOWN}",
        ),
        ({"rule": {"name": "relaxed", "tolerance": 5}}, r"\['tolerance'\] in rule 'relaxed'; known: name, tolerance_"),
        ({"rule": {"name": "exact", "tolerance_bins": 5}}, r"\['tolerance_bins'\] in rule 'exact'; known: name"),
        ({"rule": "strict"}, "unknown rule 'strict'; known: adaptive, exact, relaxed, sequence"),
        ({"rule": {"tolerance_bins": 5}}, "unknown rule ''; known: adaptive, exact, relaxed, sequence"),
        ({"rule": {"name": "relaxed", "tolerance_bins": -1}}, "greater than or equal to 0, got -1"),
        ({"rule": {"name": "relaxed", "tolerance_bins": True}}, "valid integer, got True"),
        ({"rule": {"name": "relaxed", "tolerance_bins": [5] * 6}}, "give one tolerance, or 7"),
        ({"rule": {"name": "relaxed", "tolerance_bins": [5] * 7}}, "the gripper is never relaxed"),
        ({"rule": {"name": "sequence", "max_sum_bins": "many"}}, "rule 'sequence': max_sum_bins: .*got 'many'"),
        ({"rule": 9}, "the rule is 9; give its name, or a mapping"),
        ({"max_nodes": 0}, "max_nodes: .* got 0; known keys: "),
        ({"max_nodes": "48"}, "max_nodes: .* got '48'"),
        ({"enabled": "no"}, "enabled: .* got 'no'"),
        ([], r"accelerate's configuration: it: .* got \[\]"),
        ({"proposers": ["kalman"]}, r"proposers: .* got \['kalman'\]"),
        ({"proposers": {"kalman": None}}, r"proposer 'kalman' is None; give its options as a mapping \({} for none\)"),
        ({"proposers": {"mine": Stateless()}}, r"\(here without propose\)"),
        ({"proposers": {"kalmann": {}}}, r"unknown proposer 'kalmann'; known: .*kalman, "),
        ({"proposers": {"kalman": {"steps": 3}}}, "proposer 'kalman': .*'steps'; its options: noise, "),
        (
            {"proposers": {"kalman": {"context_steps": "3"}}},
            "'kalman': its option 'context_steps' is '3'; it takes int",
        ),
        ({"proposers": {"kalman": {"context_steps": True}}}, "option 'context_steps' is True; it takes int"),
        ({"proposers": {"kalman": {"score": "high"}}}, "'kalman': its option 'score' is 'high'; it takes float"),
        ({"proposers": {"kalman": {"noise": [1.0]}}}, r"'noise' is \[1\.0\]; it takes KalmanNoise or None"),
        ({"proposers": {"kalman": {"context_steps": 0}}}, "context_steps is .*; got 0"),
        ({"proposers": {"parallel": {"drafter": None}}}, "'parallel': its option 'drafter' is None; it takes Parallel"),
        ({"proposers": {"eagle": {"drafter": "foo"}}}, "'eagle': its option 'drafter' is 'foo'; it takes EagleRuntime"),
        ({"proposers": {"retrieval": {"store": "x"}}}, "'retrieval': its option 'store' is 'x'; it takes Lookup"),
        (
            {"costs": {**COSTS, "gpu_ms": 1.0}},
            r"unknown key\(s\) \['gpu_ms'\] in costs; known: vision_ms, .*; needed: ",
        ),
        ({"costs": {"vision_ms": 1.0, "row_ms": 0.1}}, "no prefill_ms, decode_ms in costs; known: "),
        ({"costs": {**COSTS, "row_ms": -1.0}}, "milliseconds, finite and not negative; got .*-1.0"),
        ({"costs": {**COSTS, "row_ms": "many"}}, "milliseconds, finite and not negative; got .*'many'"),
        ({"costs": 3.5}, r"costs is 3\.5; give a mapping of milliseconds \(vision_ms, .*, or the path of a file"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(config: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        accelerate(FakePolicy(), config)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    accelerate(FakePolicy(), {"proposers": {"kalman": {"context_steps": np.int64(5), "score": np.float32(1)}}})
    accelerate(FakePolicy(), {"proposers": {"kalman": {"gate_sigma": None, "score": 1}}})


def test_the_configuration_itself_refuses_what_it_does_not_know() -> None:
    with pytest.raises(BadInput, match=rf"unknown key\(s\) \['max_node'\] .*; known: {KNOWN}"):
        AccelerateConfig(max_node=3)  # type: ignore[call-arg]
    with pytest.raises(UnknownName):
        AccelerateConfig(rule="strict")  # type: ignore[arg-type]


def test_a_policy_without_its_members_is_refused_by_name() -> None:
    with pytest.raises(BrokenContract, match=r"policy object .*encode, prefill, extend; found no encode, prefill, ext"):
        accelerate(object())  # type: ignore[arg-type]
    with pytest.raises(BrokenContract, match=r"called codec .*found dict"):
        accelerate(type("Odd", (FakePolicy,), {"codec": {}})())


def test_the_sequence_rule_wants_seven_tokens() -> None:
    short = type("Short", (FakePolicy,), {"codec": fake.ActionCodec.from_stats(fake.VOCAB, [-1.0] * 3, [1.0] * 3)})
    with pytest.raises(BadInput, match="actions of 7 tokens; this codec has 3"):
        accelerate(short(), {"rule": "sequence"})
    accelerate(short(), {"rule": "relaxed"})


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, np.float16, np.dtype("float64"), "bfloat16", "int8"])
@pytest.mark.parametrize("config", [None, {"rule": "exact"}])
def test_exact_is_refused_in_a_precision_that_cannot_keep_the_promise(dtype: Any, config: Any) -> None:
    policy = type("Half", (FakePolicy,), {"dtype": dtype})()
    with pytest.raises(BadInput, match=r"in float32 only, and this policy's dtype is .*(16|64|8).*load it in float32"):
        accelerate(policy, config)
    accelerate(policy, {"rule": {"name": "relaxed", "tolerance_bins": 0}})  # what the message offers
    accelerate(policy, {"enabled": False})


@pytest.mark.parametrize("dtype", [torch.float32, np.float32, np.dtype("float32"), "float32", None, "q4_0"])
def test_exact_is_for_float32_and_for_policies_that_do_not_say(dtype: Any) -> None:
    accelerate(type("Whole", (FakePolicy,), {"dtype": dtype})(), {"rule": "exact"})


def test_a_policy_of_this_package_says_its_precision() -> None:
    model = tiny.network(0)
    half = OpenVLAPolicy(model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size), dtype=torch.bfloat16)
    with pytest.raises(BadInput, match=r"dtype is torch\.bfloat16"):
        accelerate(half, {"rule": "exact"})


# ---- faulty proposers: the action is plain decoding's, the fault is counted, named, and benched after three


def draft(*chains: tuple[Any, ...], **changes: Any) -> Draft:
    values: dict[str, Any] = {"chains": chains, "source": "faulty", "scores": (0.0,) * len(chains)}
    return Draft(**(values | changes))


RIGHT_LENGTH = (FIRST,) * T
FAULTS: dict[str, Any] = {
    "raises": ZeroDivisionError("oops"),
    "NaN score": draft(RIGHT_LENGTH, scores=(float("nan"),)),
    "NaN log-probability": draft(RIGHT_LENGTH, log_probs=((float("nan"),) * T,)),
    "NaN token": draft((float("nan"),)),
    "too long": draft((FIRST,) * (T + 1)),
    "empty chain": draft(()),
    "no chains": draft(),
    "one score too few": draft((FIRST,), (FIRST + 1,), scores=(0.0,)),
    "log-probabilities of another shape": draft(RIGHT_LENGTH, log_probs=((0.0,),)),
    "an array": np.full((1, T), FIRST),
    "id above the vocabulary": draft((END,)),
    "id below the actions": draft((FIRST - 1,)),
    "negative id": draft((-1,)),
}


class Faulty(Stateless):
    def __init__(self, answer: Any) -> None:
        self.answer, self.n_calls = answer, 0

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        self.n_calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_proposer_costs_no_action_and_is_benched(name: str, caplog: pytest.LogCaptureFixture) -> None:
    policy, faulty = FakePolicy(), Faulty(FAULTS[name])
    robot = accelerate(policy, {"proposers": {"mine": faulty, "persistence": {}}})
    for seen in standing_still():
        assert robot.act(seen).tokens.tolist() == fake.greedy(policy, seen)
    assert robot.faults == {"mine": 3}
    assert faulty.n_calls == 3
    assert sum("proposer mine failed" in message for message in caplog.messages) == 3
    assert sum("proposer mine is benched" in message for message in caplog.messages) == 1
    robot.reset()
    robot.act(fake.observations(1)[0])
    assert faulty.n_calls > 3  # heard again


class RaisesInObserve(Near):
    def observe(self, verdict: Verdict) -> None:
        raise KeyError(verdict.source)


class RaisesInReset(Near):
    def reset(self) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize(("proposer_type", "n_faults"), [(RaisesInObserve, 3), (RaisesInReset, 1)])
def test_faults_outside_propose_cost_no_action(proposer_type: type[Near], n_faults: int) -> None:
    policy = FakePolicy()
    robot = accelerate(policy, {"proposers": {"mine": proposer_type(policy)}})
    for seen in standing_still():
        assert robot.act(seen).tokens.tolist() == fake.greedy(policy, seen)
    assert robot.faults == {"mine": n_faults}


ADAPTIVE = {"name": "adaptive", "variability_high": 2.0, "action_change_sigma": (0.1,) * 7}

# ---- guesses that do not pay, by a table of costs


class Guessing(Stateless):
    """The target's own tokens, or others, wherever it is asked."""

    def __init__(self, policy: FakePolicy, *, is_right: bool) -> None:
        self.policy, self.seen, self.is_right, self.n_calls = policy, fake.observations(1)[0], is_right, 0

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        self.n_calls += 1
        missing = fake.greedy(self.policy, self.seen)[len(history.settled) :]
        wrong = tuple(FIRST + (token - FIRST + 100) % 200 for token in missing)
        return Draft((tuple(missing) if self.is_right else wrong,), "mine", (0.0,))


def guessed(config: Mapping[str, Any], *, is_right: bool, n_steps: int = 30) -> tuple[list[str], list[int]]:
    """Route and reason of every step, and how often the proposer had been asked by then; actions are checked here."""
    policy, sink, n_calls = FakePolicy(), MemorySink(), []
    mine = Guessing(policy, is_right=is_right)
    robot = accelerate(policy, {"proposers": {"mine": mine}, **config}, sink=sink)
    for _ in range(n_steps):
        assert robot.act(mine.seen).tokens.tolist() == fake.greedy(policy, mine.seen)
        n_calls.append(mine.n_calls)
    return [f"{record.route}/{record.reason}" for record in sink.records], n_calls


@pytest.mark.parametrize("rule", ["exact", "sequence", ADAPTIVE], ids=["exact", "sequence", "adaptive"])
def test_a_proposer_that_does_not_pay_is_switched_off_and_the_record_says_so(rule: Any) -> None:
    routes, n_calls = guessed({"rule": rule, "costs": COSTS}, is_right=False)
    assert set(routes[:20]) == {"speculate/always"}
    assert set(routes[20:]) == {"full/does not pay"}
    assert n_calls[19:] == [n_calls[19]] * 11  # and nobody is asked any more
    assert set(guessed({"rule": rule, "costs": COSTS}, is_right=True)[0]) == {"speculate/always"}
    assert set(guessed({"rule": rule}, is_right=False)[0]) == {"speculate/always"}  # nobody has said what it costs


def test_what_asking_takes_can_be_part_of_a_check() -> None:
    dear = {**COSTS, "check_ms": 6 * 1.5}  # as much as all that a right guess saves, and its rows come on top
    assert set(guessed({"costs": dear}, is_right=True)[0][20:]) == {"full/does not pay"}


def test_a_file_of_costs_is_read_and_belongs_to_its_policy(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"costs": COSTS, "policy": {"name": "toy", "sha256": "a" * 64}}))
    for given in (file, str(file)):
        assert guessed({"costs": given}, is_right=False)[0][-1] == "full/does not pay"
    mine = type("Mine", (FakePolicy,), {"policy_hash": "a" * 64})
    other = type("Other", (FakePolicy,), {"policy_hash": "b" * 64})
    accelerate(mine(), {"costs": file})
    with pytest.raises(BadArtifact, match=r"costs\.json was measured on policy aaaaaaaaaaaa…, this one is bbbb"):
        accelerate(other(), {"costs": file})
    with pytest.raises(BadArtifact, match=r"none\.json cannot be read: .*heisd bench --costs --json"):
        accelerate(FakePolicy(), {"costs": tmp_path / "none.json"})


@pytest.mark.parametrize("costs", [COSTS, "costs.json"])
def test_costs_can_be_written_down_and_read_again(costs: Any) -> None:
    config = AccelerateConfig(costs=costs)
    assert AccelerateConfig.model_validate_json(config.model_dump_json()) == config


# ---- the public names


def test_the_function_is_there_in_whatever_order_modules_are_loaded() -> None:
    code = (
        "import sys, heisd; assert not {'pydantic', 'numpy', 'torch'} & set(sys.modules);"
        "import heisd.acceleration; from heisd.acceleration import AccelerateConfig;"
        "assert callable(heisd.accelerate) and heisd.AccelerateConfig is AccelerateConfig;"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'heisd' has no attribute 'acelerate'"):
        heisd.acelerate  # noqa: B018  # type: ignore[attr-defined]
    assert set(heisd.__all__) == {"AccelerateConfig", "__version__", "accelerate"}


def test_the_adaptive_rule_is_wide_at_first_and_narrows_as_the_motion_varies() -> None:
    policy, sink = FakePolicy(), MemorySink()
    near = Near(policy)
    robot = accelerate(policy, {"proposers": {"mine": near}, "rule": {**ADAPTIVE, "variability_high": 1e-3}}, sink=sink)
    for _ in range(3):
        robot.act(near.seen)
    assert [record.score for record in sink.records] == [15, 5, 5]
    assert all(record.origins["relaxed"] > 0 for record in sink.records)
    robot.reset()
    robot.act(near.seen)
    assert sink.records[-1].score == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variability_high": 0}, "variability_high"),
        (
            {"action_change_sigma": (0.1,) * 6},
            "one number for each; got 7 dimensions and 6 numbers",
        ),
        ({"tolerance_range_bins": (9, 5)}, "r_min <= r_max"),
        ({"tolerance_range_bins": (-1, 5)}, "tolerance_range_bins"),
        ({"speed": 3}, r"unknown key\(s\) \['speed'\]"),
    ],
)
def test_adaptive_options_that_cannot_be_are_refused_before_the_robot_moves(
    changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        accelerate(FakePolicy(), {"rule": {**ADAPTIVE, **changes}})


def test_the_adaptive_rule_has_no_scales_of_its_own() -> None:
    with pytest.raises(BadInput, match="action_change_sigma"):
        accelerate(FakePolicy(), {"rule": "adaptive"})
