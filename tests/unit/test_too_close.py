"""Where rounding could decide a token among many rows, exact speculation decodes the action again, as plain does."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from fake_target import CODEC, FakeCache, FakeContext, FakePolicy, greedy, observations

import tiny_policies as tiny
from heisd.accept import Rule, exact, relaxed
from heisd.bench.cost_model import Usage
from heisd.engine import Engine
from heisd.policies.protocol import Context
from heisd.policies.target import CLOSE_EPS
from heisd.propose.base import History
from heisd.route.base import Reason
from heisd.telemetry import MemorySink
from heisd.types import Draft, Observation, Scores, StepRecord, TokenOrigin, TokenTree, Verdict
from heisd.verify import is_close

T = CODEC.length
SEEN = observations(40)


class Rounding(FakePolicy):
    """Among several rows, every third decision comes out one token off, and is said to be close."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        scores = super().score(cache, tree, is_prefill=is_prefill)
        if tree is None or (len(tree.tokens) == 1 and not is_prefill):
            return scores
        close = frozenset(node for node, state in enumerate(cache.pending) if state % 3 == 0)
        behind = [token ^ (node in close) for node, token in enumerate(scores.node_next.tolist())]
        is_off = is_prefill and cache.states[-1] % 3 == 0
        cache.next_token ^= is_off
        found = replace(scores, next_token=scores.next_token ^ is_off, node_next=np.asarray(behind))
        return replace(found, next_is_close=is_off, close_nodes=close)


class SilentRounding(FakePolicy):
    """Among several rows the last token comes out one off, and nobody says so."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        scores = super().score(cache, tree, is_prefill=is_prefill)
        if tree is None or len(tree.tokens) < T - 1:
            return scores
        return replace(scores, node_next=scores.node_next ^ (np.arange(len(tree.tokens)) == T - 2))


@dataclass
class Teller:
    """Proposes what plain decoding says, with the token at ``wrong_at`` changed."""

    wrong_at: int = T

    def reset(self) -> None: ...

    def observe(self, verdict: Verdict) -> None: ...

    def propose(self, context: Context, history: History) -> Draft | None:
        assert isinstance(context, FakeContext)
        told = list(ANSWERS[context.seed])
        if self.wrong_at < T:
            told[self.wrong_at] ^= 2
        rest = told[len(history.settled) :]
        return Draft.of(np.asarray([rest]), "teller") if rest else None


ANSWERS = {FakePolicy().encode(seen).seed: tuple(greedy(FakePolicy(), seen)) for seen in SEEN}


def played(policy: FakePolicy, seen: Observation, rule: Rule, wrong_at: int) -> tuple[list[int], StepRecord]:
    sink = MemorySink()
    engine = Engine(policy, proposers={"teller": Teller(wrong_at)}, rule=rule, sink=sink)
    return engine.act(seen).tokens.tolist(), sink.records[-1]


@pytest.mark.parametrize("wrong_at", [0, 2, 5, T])
def test_rounding_never_changes_an_exact_action(wrong_at: int) -> None:
    n_redone = 0
    for seen in SEEN:
        tokens, record = played(Rounding(), seen, exact, wrong_at)
        assert tokens == greedy(FakePolicy(), seen)
        if record.reason == Reason.TOO_CLOSE:
            n_redone += 1
            assert record.origins == {str(TokenOrigin.DECODED): T}
            assert record.n_accepted == 0, "what was thrown away was not accepted"
            assert record.lm_forwards > T, "the forwards thrown away count"
            assert record.verifications, "and so do their checks"
            assert record.n_drafted > 0
            assert Usage.of_step(record).n_prefills == 2
    assert 0 < n_redone < len(SEEN)


def test_rounding_that_nobody_reports_changes_actions() -> None:
    """So the test above can fail."""
    silent = [played(SilentRounding(), seen, exact, T)[0] for seen in SEEN]
    assert all(ours != greedy(FakePolicy(), seen) for ours, seen in zip(silent, SEEN, strict=True))


def test_a_lossy_rule_does_not_decode_twice() -> None:
    rule = partial(relaxed, tolerance_bins=3)
    records = [played(Rounding(), seen, rule, T)[1] for seen in SEEN]
    assert all(record.reason != Reason.TOO_CLOSE and record.lm_forwards <= T for record in records)


def test_a_branch_that_was_not_taken_raises_no_doubt() -> None:
    scores = Scores(5, np.asarray([1, 2, 3]), 1.0, next_is_close=True, close_nodes=frozenset({1}))
    assert is_close(scores, (), reads_prompt=True)
    assert not is_close(scores, (0, 2), reads_prompt=False)
    assert is_close(scores, (0, 1), reads_prompt=False)


def test_the_policy_calls_close_what_rounding_reaches() -> None:
    """The runner-up a few units of precision below, and far below; of another precision nothing is said."""
    policy = tiny.policy()
    step = torch.finfo(torch.float32).eps * 8.0
    logits = torch.tensor([[8.0, 8.0 - 4 * step, 1.0], [8.0, 8.0 - 4 * CLOSE_EPS * step, 1.0], [8.0, 1.0, 1.0]])
    assert policy._greedy(logits)[2] == {0}
    assert tiny.policy(dtype=torch.bfloat16)._greedy(logits)[2] == set()
