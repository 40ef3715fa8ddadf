"""Skipping without looking: what the vision towers are asked for, and what rests on the last pictures they saw."""

from dataclasses import dataclass, replace

import fake_target as fake
import numpy as np
import pytest
import route_fakes as fakes
import torch
from fake_target import CODEC, FakeContext, FakePolicy
from test_route_paying import COSTS

import tiny_policies as tiny
from heisd.accept import exact
from heisd.bench.glances import MAX_AGE_STEPS, Glances
from heisd.engine import Engine
from heisd.propose.base import History, Stateless
from heisd.route.base import Plan, Route
from heisd.route.calibrated import CalibratedSkip, SkipScore
from heisd.route.paying import Paying
from heisd.telemetry import MemorySink
from heisd.testing import check_target
from heisd.types import Draft, Observation

SURE, UNSURE = SkipScore((), (), (), (), 50.0), SkipScore((), (), (), (), -50.0)
COAST = CalibratedSkip(
    SURE, 0.5, fakes.ranges(), exact, "guess", ("guess",), n_skips=2, gripper_margin_steps=0, audited_share=0.0,
    watch=fakes.TRUSTING, looks=False,
)  # fmt: skip


class Looking(FakePolicy):
    """Counts its looks; ``refreshed`` marks a context that was made without one."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, observation: Observation) -> FakeContext:
        self.calls.append("look")
        return super().encode(observation)

    def refreshed(self, context: FakeContext, observation: Observation) -> FakeContext:
        self.calls.append("refresh")
        return replace(context, instruction=f"{observation.time_s:.2f}")


@dataclass
class Tells(Stateless):
    """Guesses one action but for its first token, which tells the picture, and writes down in which contexts."""

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        self.contexts: list[FakeContext] = []

    def propose(self, context: FakeContext, history: History) -> Draft:
        self.contexts.append(context)
        tokens = (CODEC.first_token + context.seed % 256, *self.tokens[1:])
        return Draft((tokens[len(history.settled) :],), "guess", (0.0,))


def robot(router, policy: FakePolicy, tokens: tuple[int, ...] = fakes.GUESS):
    sink, guess = MemorySink(), Tells(tokens)
    loop = Engine(policy, proposers={"guess": guess}, router=router, sink=sink)
    loop._memory = replace(loop._memory, last_tokens=tokens)  # as if something had been executed
    return loop, sink, guess


def test_what_is_skipped_is_not_looked_at_and_whatever_is_not_looks_first() -> None:
    policy = Looking()
    loop, sink, guess = robot(COAST, policy)
    seen = fake.observations(5)
    for each in seen:
        loop.act(each)
    assert [record.route for record in sink.records] == ["skip", "skip", "speculate", "speculate", "speculate"]
    # The first step has nothing to go on from; the guess in whose place it looks is not asked for twice.
    assert policy.calls == ["look", "refresh", "look", "look", "look"]
    assert [record.looked for record in sink.records] == [True, False, True, True, True]
    assert sink.records[1].lm_forwards == 0
    assert guess.contexts[1].seed == policy.seed(seen[0])  # the pictures of before
    assert guess.contexts[1].instruction == f"{seen[1].time_s:.2f}"  # and all else of now
    checked = [context.seed for context in guess.contexts[2:]]
    assert {policy.seed(each) for each in seen[2:]} == set(checked)  # guesses that are checked have looked


def test_a_refused_skip_is_what_it_had_been_with_a_look_from_the_start() -> None:
    seen = fake.observations(12)
    coasting, sink, _ = robot(replace(COAST, score=UNSURE), policy := Looking())
    looking, *_ = robot(replace(COAST, score=UNSURE, looks=True), FakePolicy())
    for each in seen:
        assert coasting.act(each).tokens.tolist() == looking.act(each).tokens.tolist() == fake.greedy(policy, each)
    assert {record.reason for record in sink.records} == {"score below threshold", "rejected before"}
    assert [record.n_drafted for record in sink.records] == [6] * 12  # rows of one guess: none made without a look


def test_a_skip_that_cannot_be_executed_looks_before_the_target_decodes() -> None:
    @dataclass(frozen=True)
    class Short:
        """A rule that would skip with less than an action."""

        inner: CalibratedSkip

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def decide(self, *seen: object) -> Route:
            return replace(self.inner.decide(*seen), tokens=fakes.GUESS[:3])

    policy = Looking()
    loop, sink, _ = robot(COAST, policy)
    seen = fake.observations(2)
    loop.act(seen[0])
    loop._router = Short(COAST)
    assert loop.act(seen[1]).tokens.tolist() == fake.greedy(FakePolicy(), seen[1])
    assert (sink.records[1].route, sink.records[1].looked) == ("full", True)


def test_later_skips_go_on_from_the_latest_look_whyever_it_was_taken() -> None:
    policy = Looking()
    loop, sink, guess = robot(COAST, policy)
    seen = fake.observations(3)
    for each, router in zip(seen, (COAST, replace(COAST, score=UNSURE), COAST), strict=True):
        loop._router = router
        loop._memory = replace(loop._memory, is_rejected=False, last_tokens=fakes.GUESS)
        loop.act(each)
    assert [record.route for record in sink.records] == ["skip", "speculate", "skip"]
    assert policy.calls == ["look", "refresh", "look", "refresh"]
    assert guess.contexts[-1].seed == policy.seed(seen[1])


def test_an_audit_checks_the_guess_that_a_skip_would_have_executed() -> None:
    policy = Looking()
    loop, sink, _ = robot(replace(COAST, audited_share=1.0), policy)
    for each in fake.observations(2):
        loop._memory = replace(loop._memory, is_rejected=False, last_tokens=fakes.GUESS)
        loop.act(each)
    assert [record.reason for record in sink.records] == ["audit", "audit"]
    assert policy.calls == ["look", "refresh", "look"]
    assert [record.n_drafted for record in sink.records] == [6, 6]  # that chain alone; its last token is no row


def test_an_episode_begins_with_a_look_and_so_does_a_policy_that_cannot_do_without() -> None:
    policy = Looking()
    loop, *_ = robot(COAST, policy)
    for each in fake.observations(2):
        loop.act(each)
    loop.reset()
    loop._memory = replace(loop._memory, last_tokens=fakes.GUESS)
    loop.act(fake.observations(1)[0])
    assert policy.calls == ["look", "refresh", "look"]
    loop, sink, guess = robot(COAST, FakePolicy())
    for each in fake.observations(2):
        loop.act(each)
    assert [record.route for record in sink.records] == ["skip", "skip"]
    assert guess.contexts[1].seed == FakePolicy().seed(fake.observations(2)[1])


def test_a_pause_skips_without_looking_as_ever() -> None:
    paying = Paying(COAST, COSTS)
    begun = replace(paying.begin(), last_tokens=fakes.GUESS)
    paused = replace(begun, ledger=replace(begun.ledger, n_paused=3))
    assert paying.plan(fakes.phase(), begun) == COAST.plan(fakes.phase(), begun) == Plan(
        ("guess",), ("guess",), (), looks=False
    )  # fmt: skip
    assert paying.plan(fakes.phase(), paused) == Plan(("guess",), looks=False)


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_refreshed_context_is_the_pictures_of_before_and_the_rest_of_now(
    rng: np.random.Generator, is_blind: bool
) -> None:
    policy = tiny.policy(is_blind=is_blind)
    before, now = tiny.observation(rng), tiny.observation(rng, tiny.INSTRUCTIONS[1])
    made = policy.refreshed(policy.encode(before), now)
    whole = policy.encode(replace(now, images=before.images))
    torch.testing.assert_close(made.prefix, whole.prefix)
    assert made.instruction == now.instruction
    again = policy.refreshed(made, now)  # of a refreshed one, the pictures are still the first one's
    torch.testing.assert_close(again.prefix, whole.prefix)
    if not is_blind:
        assert not torch.equal(made.prefix, policy.encode(now).prefix)


def test_the_contract_checker_knows_the_fourth_call() -> None:
    class Forgetful(Looking):
        def refreshed(self, context: FakeContext, observation: Observation) -> FakeContext:
            return replace(super().refreshed(context, observation), seed=context.seed + 1)

    check_target(Looking(), fake.observations(2))
    with pytest.raises(Exception, match="refreshed"):
        check_target(Forgetful(), fake.observations(2))


@pytest.mark.parametrize("max_age", [3, MAX_AGE_STEPS])
def test_glances_come_from_looks_of_every_age_by_turns(max_age: int) -> None:
    policy, guess = Looking(), Tells(fakes.GUESS)
    glances = Glances(policy, guess, max_age)
    history = History.empty(CODEC.length)
    seen = fake.observations(10 * max_age)
    ages = []
    for i, each in enumerate(seen):
        glance = glances.guess(each, history)
        if glance is not None:
            ages.append(glance.n_skips + 1)
            assert guess.contexts[-1].seed == policy.seed(seen[i - ages[-1]])
        glances.looked(policy.encode(each))
    assert len(ages) == len(seen) - 1  # from the second step on
    assert min(ages.count(age) for age in range(1, max_age + 1)) >= 0.7 * len(ages) / max_age
    assert max(ages) == max_age
    glances.reset()
    assert glances.guess(seen[0], history) is None
