"""The loop that turns one observation into one action. Every stage has the name of the module that does it.

    observation -> encode -> propose -> prefill + verify -> decode -> act -> action       (every stage -> telemetry)

What the proposers guess is checked inside the prefill itself: an action that is accepted whole costs one forward of
the language model. What is missing is decoded from the kept prefix on, with new guesses or, when nobody has any,
token by token. Without proposers that is plain greedy decoding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Generic

import numpy as np

from heisd import verify
from heisd.accept import Rule, exact
from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.propose.base import History, Proposer
from heisd.propose.panel import Panel
from heisd.telemetry import Clock, NullSink, Sink
from heisd.types import Action, Observation, Scores, StepRecord, TokenOrigin, TokenTree, Verdict

MAX_NODES = 48  # rows that guesses may add to one forward
_ROOT = (0,)  # the path of a one-node tree


class Engine(Generic[ContextT, CacheT]):
    """Speculative greedy decoding of a target policy, timed on the full clock. One engine serves one robot.

    With the rule ``exact`` every action is that of plain greedy decoding, token for token, whatever is proposed.
    """

    def __init__(
        self,
        target: TargetPolicy[ContextT, CacheT],
        *,
        proposers: Mapping[str, Proposer] | None = None,
        rule: Rule = exact,
        max_nodes: int = MAX_NODES,
        sink: Sink | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.target = target
        self.sink: Sink = NullSink() if sink is None else sink
        self._panel = Panel(proposers or {}, target.codec)
        self._rule, self._max_nodes = rule, max_nodes
        self._clock = Clock() if clock is None else clock
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._step = 0
        self._history = History.empty(self.target.codec.length)
        self._panel.reset()

    @property
    def faults(self) -> Mapping[str, int]:
        """How often each proposer has failed in this episode."""
        return dict(self._panel.faults)

    def act(self, observation: Observation) -> Action:
        """One control step: as many forwards of the language model as the guesses leave to do, at most 7."""
        clock, answer = self._clock, _Answer()
        clock.start()
        with clock("encode"):
            context = self.target.encode(observation)
        with clock("propose"):
            self._history = self._history.observed(observation.proprio)
            guesses = self._guess(context, answer)
        with clock("prefill"):
            cache, scores = self.target.prefill(context, guesses.tree if guesses else None)
            self._accept(answer, guesses, cache, scores)
        with clock("decode"):
            while len(answer.tokens) < self.target.codec.length:
                guesses = self._guess(context, answer)
                scores = self.target.extend(cache, guesses.tree if guesses else _single(answer.tokens[-1]))
                self._accept(answer, guesses, cache, scores)
        with clock("act"):
            action = self._action(answer)
        self._record(answer, clock.stop())
        return action

    def _guess(self, context: ContextT, answer: "_Answer") -> verify.DraftTree | None:
        """Everybody's guesses at the tokens that are missing, as one tree; None when there are none."""
        settled, length = tuple(answer.tokens), self.target.codec.length
        # The token before the last has to be read anyway; its forward tells the last one, guessed or not.
        is_last = len(settled) == length - 1
        drafts = () if is_last else self._panel.propose(context, self._history.with_settled(settled))
        if not drafts:
            return None
        known = settled[-1] if settled else None
        return verify.merge(drafts, position=len(settled), length=length, max_nodes=self._max_nodes, known=known)

    def _accept(self, answer: "_Answer", guesses: verify.DraftTree | None, cache: CacheT, scores: Scores) -> None:
        """Commit to the cache and to the answer what a forward has settled."""
        if guesses is None:
            if answer.tokens:
                cache.keep(_ROOT)
            answer.add((cache.next_token,), (TokenOrigin.DECODED,), cache.margin)
            return
        verdict = self._rule(guesses, scores, self.target.codec)
        cache.keep(verdict.path)
        answer.add(verdict.tokens, verdict.origins, cache.margin, verdict)
        self._panel.observe(verdict)

    def _action(self, answer: "_Answer") -> Action:
        ids = np.asarray(answer.tokens, dtype=np.int64)
        action = Action(self.target.codec.decode(ids), ids, tuple(answer.origins))
        self._history = self._history.acted(action)
        return action

    def _record(self, answer: "_Answer", latency_ms: float) -> None:
        origins = {str(origin): n for origin, n in Counter(answer.origins).items()}
        record = StepRecord(
            self._step,
            latency_ms,
            self._clock.stage_ms,
            answer.n_forwards,
            origins,
            tuple(answer.margins),
            answer.n_verifications,
            answer.n_accepted,
        )
        self._step += 1
        self.sink.emit(record)


class _Answer:
    """The action as far as it is settled, and what that took."""

    __slots__ = ("margins", "n_accepted", "n_forwards", "n_verifications", "origins", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.origins: list[TokenOrigin] = []
        self.margins: list[float] = []  # of the tokens that the target decoded
        self.n_forwards = self.n_verifications = self.n_accepted = 0

    def add(
        self, tokens: Sequence[int], origins: Sequence[TokenOrigin], margin: float, verdict: Verdict | None = None
    ) -> None:
        """One forward settled these tokens; ``margin`` belongs to the last one if the target decoded it."""
        self.tokens += tokens
        self.origins += origins
        self.n_forwards += 1
        if origins[-1] is TokenOrigin.DECODED:
            self.margins.append(margin)
        if verdict is not None:
            self.n_verifications += 1
            self.n_accepted += verdict.n_accepted


@lru_cache(maxsize=4096)
def _single(token: int) -> TokenTree:
    """A tree of one node; building one costs as much as a matrix product, and few tokens ever occur."""
    return TokenTree.chain(np.asarray([token]))
