"""Faults injected one at a time: whatever a proposer does, the action is plain decoding's and the fault is named.

Damaged, foreign and half-written stores have their own tests (test_index_store.py, test_index_appends.py,
test_retrieval_store.py); here is what they may do to a robot that is already moving.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import fake_target as fake
import index_fakes
import numpy as np
import pytest
import route_fakes as fakes
from fake_target import CODEC, FakePolicy

from heisd.accept import exact
from heisd.engine import Engine
from heisd.errors import BadArtifact
from heisd.propose.base import History, Stateless
from heisd.propose.persistence import Persistence
from heisd.propose.retrieval import Retrieval
from heisd.route.calibrated import CalibratedSkip, SkipScore
from heisd.route.fixed import Replay
from heisd.telemetry import MemorySink
from heisd.testing import SyntheticContext
from heisd.types import Draft, Verdict

FIRST, GOOD = CODEC.first_token, (CODEC.first_token,) * 7
SOUND = Draft((GOOD,), "bad", (0.0,))
NAN = math.nan


def failing(*_: object) -> Draft:
    raise RuntimeError("disk on fire")


def of_settled(history: History) -> Draft:
    """A whole action also where three tokens are settled: too long."""
    return replace(SOUND, chains=((*GOOD, *GOOD[: 1 + len(history.settled)]),))


FAULTS: dict[str, Callable[[History], Any]] = {
    "raises": failing,
    "raises an assertion": lambda _: [][0],
    "NaN as a score": lambda _: replace(SOUND, scores=(NAN,)),
    "infinite score": lambda _: replace(SOUND, scores=(math.inf,)),
    "NaN among log-probabilities": lambda _: replace(SOUND, log_probs=((NAN,) * 7,)),
    "log-probability above 0": lambda _: replace(SOUND, log_probs=((0.5,) * 7,)),
    "NaN tokens": lambda _: replace(SOUND, chains=((NAN,) * 7,)),
    "an array in place of chains": lambda _: replace(SOUND, chains=np.full((1, 7), FIRST)),
    "numpy integers": lambda _: replace(SOUND, chains=(tuple(np.full(7, FIRST)),)),
    "no chains": lambda _: replace(SOUND, chains=(), scores=()),
    "an empty chain": lambda _: replace(SOUND, chains=((),)),
    "too long a chain": of_settled,
    "fewer scores than chains": lambda _: replace(SOUND, chains=(GOOD, GOOD[:2])),
    "rising scores": lambda _: replace(SOUND, chains=(GOOD, GOOD), scores=(0.0, 1.0)),
    "ragged log-probabilities": lambda _: replace(SOUND, log_probs=((0.0,) * 3,)),
    "a negative id": lambda _: replace(SOUND, chains=((-1,) * 7,)),
    "a text id": lambda _: replace(SOUND, chains=((FIRST - 1,) * 7,)),
    "an id beyond the vocabulary": lambda _: replace(SOUND, chains=((CODEC.vocab_size,) * 7,)),
    "nameless": lambda _: replace(SOUND, source=""),
    "evidence that is no number": lambda _: replace(SOUND, evidence={"similarity": "high"}),
    "evidence that is no mapping": lambda _: replace(SOUND, evidence=None),
    "no draft at all": lambda _: "nonsense",
}


class Bad(Stateless):
    """Does one thing wrong, every time."""

    def __init__(self, fault: Callable[[History], Any]) -> None:
        self.fault, self.n_asked = fault, 0

    def propose(self, context: object, history: History) -> Draft | None:  # noqa: ARG002
        self.n_asked += 1
        return cast(Draft, self.fault(history))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_speed_is_counted_named_and_benched_for_the_episode(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, sink = Bad(FAULTS[name]), MemorySink()
    robot = Engine(FakePolicy(), proposers={"bad": bad, "persistence": Persistence(CODEC)}, sink=sink)
    seen = fake.observations(8)
    for each in [*seen[:4], *seen[:4]]:
        assert robot.act(each).tokens.tolist() == fake.greedy(FakePolicy(), each)
    assert robot.faults == {"bad": 3}
    assert bad.n_asked == 3
    assert [m.split(":")[0] for m in caplog.messages] == [
        "proposer bad failed (1 of 3)", "proposer bad failed (2 of 3)", "proposer bad failed (3 of 3)",
        "proposer bad is benched for the rest of the episode",
    ]  # fmt: skip
    assert sum(record.n_drafted for record in sink.records) > 0  # its neighbour is heard all the same
    assert not any("bad" in record.kept_by_source for record in sink.records)
    told = [sum(record.faults.get("bad", {}).values()) for record in sink.records]
    assert sum(told) == 3  # each in the record of its step, once
    assert told[-1] == 0
    assert all(set(record.faults) <= {"bad"} for record in sink.records)
    robot.reset()
    assert robot.faults == {}
    robot.act(seen[0])
    assert robot.faults["bad"] >= 1  # heard again


class FailsIn(Stateless):
    """Raises in one method only."""

    def __init__(self, method: str) -> None:
        self.method = method

    def reset(self) -> None:
        self._fail("reset")

    def observe(self, verdict: Verdict) -> None:  # noqa: ARG002
        self._fail("observe")

    def propose(self, context: object, history: History) -> Draft | None:  # noqa: ARG002
        return Draft((GOOD[len(history.settled) :],), "bad", (0.0,))

    def _fail(self, method: str) -> None:
        if method == self.method:
            raise ValueError("not now")


@pytest.mark.parametrize("method", ["reset", "observe"])
def test_failing_to_forget_or_to_learn_is_a_fault_like_any_other(method: str) -> None:
    robot = Engine(FakePolicy(), proposers={"bad": FailsIn(method)})
    for _ in range(2):
        for seen in fake.observations(6):
            assert robot.act(seen).tokens.tolist() == fake.greedy(FakePolicy(), seen)
        assert robot.faults == {"bad": 3 if method == "observe" else 1}
        robot.reset()


def test_a_record_tells_the_kind_of_a_fault_and_when() -> None:
    sink = MemorySink()
    robot = Engine(FakePolicy(), proposers={"bad": FailsIn("reset"), "worse": Bad(FAULTS["a text id"])}, sink=sink)
    robot.reset()  # what went wrong before the episode's first step is told with it, and only this episode's
    for seen in fake.observations(2):
        robot.act(seen)
    assert sink.records[0].faults["bad"] == {"ValueError": 1}
    assert "bad" not in sink.records[1].faults
    assert sink.records[0].faults["worse"][f"tokens are action ids, {FIRST} to {CODEC.vocab_size - 1}"] == 1


def test_memory_that_fails_leaves_the_robot_to_its_policy() -> None:
    sink = MemorySink()
    robot = Engine(FakePolicy(), proposers={"bad": Bad(failing)}, router=Replay("bad"), sink=sink)
    for seen in fake.observations(5):
        assert robot.act(seen).tokens.tolist() == fake.greedy(FakePolicy(), seen)
    assert {(record.route, record.reason) for record in sink.records} == {("full", "no guess")}


@pytest.mark.parametrize("evidence", [{}, {"similarity": NAN}, {"similarity": 1.0, "gripper_event_in": NAN}])
def test_nan_in_what_memory_knows_never_skips(evidence: dict[str, float]) -> None:
    score = SkipScore(("n_skips",), (0.0,), (1.0,), (0.0,), 50.0)  # likes everything
    router = CalibratedSkip(
        score, 0.0, fakes.ranges(), exact, "bad", ("bad",), min_similarity=0.1, audited_share=0.0, watch=fakes.TRUSTING
    )

    def repeat(history: History) -> Draft | None:
        last = history.tokens[-1].tolist() if len(history.tokens) else GOOD
        return Draft((tuple(last)[len(history.settled) :],), "bad", (0.0,), evidence=evidence)

    sink = MemorySink()
    robot = Engine(FakePolicy(), proposers={"bad": Bad(repeat)}, router=router, sink=sink)
    for seen in [fake.observations(1)[0]] * 8:
        assert robot.act(seen).tokens.tolist() == fake.greedy(FakePolicy(), seen)
    assert robot.faults == {}
    assert all(record.route == "speculate" for record in sink.records)


# Stores under a moving robot. Their codec is index_fakes', so the proposer is asked without an engine where it matters.


def memory(root: Path, name: str = "store") -> Path:
    index_fakes.make_store(root / name)
    return root / name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", ["truncated", "swapped", "of another policy"])
def test_a_store_that_is_not_whole_or_not_its_own_is_refused_before_the_robot_moves(
    tmp_path: Path, damage: str
) -> None:
    root = memory(tmp_path)
    shards = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size > 1000)
    assert len(shards) >= 2
    policy_hash = index_fakes.POLICY
    if damage == "truncated":
        truncate(shards[0])
    elif damage == "swapped":
        first, second = shards[0].read_bytes(), shards[1].read_bytes()
        shards[0].write_bytes(second)
        shards[1].write_bytes(first)
    else:
        policy_hash = "b" * 64
    with pytest.raises(BadArtifact):
        index_fakes.opened(root, policy_hash=policy_hash)


def test_an_append_killed_before_its_commit_leaves_the_same_guesses(tmp_path: Path) -> None:
    root = memory(tmp_path)

    def guesses() -> list[Draft | None]:
        with index_fakes.opened(root, max_appended_rows=100) as store:
            key = index_fakes.lived(1).keys[0]
            context = SyntheticContext(np.asarray(key, np.float32), index_fakes.MILK)
            history = History.empty(7).observed(fake.observations(1)[0].proprio)
            return [Retrieval(index_fakes.CODEC, store=store, k=k).propose(context, history) for k in (1, 5)]

    before = guesses()
    with index_fakes.opened(root, max_appended_rows=100) as store:
        store.append(index_fakes.MILK, index_fakes.lived(1), "run1")
    assert guesses() != before
    journal = root / "appended/journal.json"
    journal.with_name("journal.json.unfinished").write_bytes(journal.read_bytes()[:20])
    journal.unlink()  # the kill came between the rows and their first commit
    assert guesses() == before


class BrokenMemory:
    """A look-up whose file went away, or that remembers nothing that is a number."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def lookup(self, *_: object) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BadArtifact("torn"), ValueError("NaN"), None])
def test_a_look_up_that_fails_while_the_robot_moves_costs_speed_only(error: Exception | None) -> None:
    retrieval = Retrieval(CODEC, store=cast(Any, BrokenMemory(error)))
    robot = Engine(FakePolicy(), proposers={"retrieval": retrieval})
    for seen in fake.observations(6):
        assert robot.act(seen).tokens.tolist() == fake.greedy(FakePolicy(), seen)
    assert robot.faults == ({} if error is None else {"retrieval": 3})
