"""Exact speculation equals plain greedy decoding, token for token, whatever is proposed."""

from collections.abc import Iterator

import numpy as np
import pytest

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.policies.protocol import Context
from heisd.policies.target import OpenVLAPolicy
from heisd.propose import registry
from heisd.propose.base import History, Stateless
from heisd.telemetry import MemorySink
from heisd.types import Draft, Observation

N_STEPS = 60


def sealed_policy() -> OpenVLAPolicy:
    """A policy that only ever says action tokens, as stored ones do."""
    model = tiny.network(0)
    model.seal_head()
    return OpenVLAPolicy(model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))


class Oracle(Stateless):
    """Knows the target's tokens and spoils a random number of them."""

    def __init__(self, target: OpenVLAPolicy, seed: int, spoil: float) -> None:
        self.target, self.rng, self.spoil = target, np.random.default_rng(seed), spoil
        self.truth: list[int] = []

    def propose(self, _context: Context, history: History) -> Draft | None:
        codec = self.target.codec
        chains = []
        for _ in range(int(self.rng.integers(1, 6))):
            chain = np.array(self.truth[len(history.settled) :])
            wrong = self.rng.random(len(chain)) < self.spoil
            chain[wrong] = self.rng.integers(codec.first_token, codec.vocab_size, size=int(wrong.sum()))
            chains.append(chain[: int(self.rng.integers(1, len(chain) + 1))])
        return Draft(tuple(tuple(map(int, chain)) for chain in chains), "oracle", (0.0,) * len(chains))


class Broken(Stateless):
    """Fails in a new way every time."""

    def __init__(self) -> None:
        self.answers: Iterator[object] = iter(["nonsense", Draft(((1,) * 9,), "broken", (0.0,)), None] * 1000)

    def propose(self, _context: Context, _history: History) -> Draft | None:
        answer = next(self.answers)
        if answer is None:
            raise RuntimeError("no idea")
        return answer  # type: ignore[return-value]


def walk(rng: np.random.Generator) -> list[Observation]:
    return [tiny.observation(rng, tiny.INSTRUCTIONS[i % 2]) for i in range(N_STEPS)]


@pytest.mark.parametrize("spoil", [0.0, 0.1, 0.5, 1.0])
def test_with_guesses_of_any_quality(rng: np.random.Generator, spoil: float) -> None:
    target, sink = sealed_policy(), MemorySink()
    oracle = Oracle(target, 1, spoil)
    engine = Engine(target, proposers={"oracle": oracle}, sink=sink)
    for seen in walk(rng):
        oracle.truth = tiny.greedy(target, seen)
        assert engine.act(seen).tokens.tolist() == oracle.truth
    forwards = np.mean([record.lm_forwards for record in sink.records])
    assert forwards <= 7
    if spoil == 0.0:
        assert forwards < 3  # some guesses are short


def test_a_whole_right_guess_costs_one_forward(rng: np.random.Generator) -> None:
    class Right(Oracle):
        def propose(self, _context: Context, history: History) -> Draft | None:
            return Draft((tuple(self.truth[len(history.settled) :]),), "right", (0.0,))

    target, sink = sealed_policy(), MemorySink()
    right = Right(target, 0, 0.0)
    engine = Engine(target, proposers={"right": right}, sink=sink)
    for seen in walk(rng)[:10]:
        right.truth = tiny.greedy(target, seen)
        assert engine.act(seen).tokens.tolist() == right.truth
    assert {record.lm_forwards for record in sink.records} == {1}
    assert all(record.origins == {"accepted": 7} for record in sink.records)


@pytest.mark.parametrize("names", [("persistence",), ("kalman",), ("kalman_code",), ("persistence", "kalman")])
def test_with_the_registered_proposers(rng: np.random.Generator, names: tuple[str, ...]) -> None:
    target = sealed_policy()
    engine = Engine(target, proposers={name: registry.create(name, target.codec) for name in names})
    observations = walk(rng)
    for seen in [observations[0]] * 5 + observations:  # standing still first, so that something is accepted
        assert engine.act(seen).tokens.tolist() == tiny.greedy(target, seen)


def test_a_broken_proposer_costs_nothing_but_time_and_is_benched(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    target = sealed_policy()
    engine = Engine(target, proposers={"broken": Broken()})
    for seen in walk(rng)[:10]:
        assert engine.act(seen).tokens.tolist() == tiny.greedy(target, seen)
    assert sum("benched" in message for message in caplog.messages) == 1
    assert engine.faults == {"broken": 3}
    engine.reset()
    engine.act(tiny.observation(rng))
    assert sum("failed (1 of 3)" in message for message in caplog.messages) == 2  # heard again
