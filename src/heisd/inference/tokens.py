"""Speculative greedy decoding: guesses are checked inside the prefill itself, what is missing is decoded behind them.

An action that is accepted whole costs one forward of the language model. Behind the kept prefix decoding goes on with
new guesses or, when nobody has any, token by token.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Generic

import numpy as np

from heisd import verify
from heisd.accept import Rule, unchecked
from heisd.codec import ActionCodec
from heisd.partial_action import PartialAction
from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.propose.base import History, Proposer, check_draft
from heisd.propose.panel import Panel
from heisd.route.base import Outcome, Plan, Reason, Route, RouteKind
from heisd.telemetry import Clock
from heisd.types import Action, Draft, Scores, StepRecord, TokenOrigin, TokenTree

_ROOT = (0,)  # the path of a one-node tree
_NOBODY: tuple[str, ...] | None = ()
_UNFINISHED = Route(RouteKind.FULL, Reason.NO_GUESS)


class TokenAnswer:
    """The tokens of one control step."""

    __slots__ = ("_codec", "_route", "parts")

    def __init__(self, codec: ActionCodec, route: Route) -> None:
        self._codec, self._route, self.parts = codec, route, PartialAction()

    def action(self) -> Action:
        """The tokens, decoded."""
        ids = np.asarray(self.parts.tokens, dtype=np.int64)
        return Action(self._codec.decode(ids), ids, tuple(self.parts.origins))

    def outcome(self) -> Outcome:
        """What came of the route."""
        return self.parts.outcome(self._route)

    def record(self, step: int, latency_ms: float, stage_ms: Mapping[str, float]) -> StepRecord:
        """Telemetry of the finished step."""
        return self.parts.record(step, self._route, latency_ms, stage_ms)


class TokenInference(Generic[ContextT, CacheT]):
    """Every control step anew: as many forwards of the language model as the guesses leave to do, at most 7."""

    def __init__(
        self,
        target: TargetPolicy[ContextT, CacheT],
        proposers: Mapping[str, Proposer],
        clock: Clock,
        *,
        rule: Rule,
        recombines: bool,
        max_nodes: int,
    ) -> None:
        self._target, self._codec, self._clock = target, target.codec, clock
        self._rule, self._recombines, self._max_nodes = rule, recombines, max_nodes
        self.panel: Panel[Draft] = Panel(proposers, self._checked)

    def reset(self) -> None:
        """Nothing outlives a control step."""

    def in_hand(self) -> TokenAnswer | None:
        """An action is one control step's; nothing is left of earlier ones."""
        return None

    def answer(
        self, context: ContextT, plan: Plan, route: Route, drafts: Sequence[Draft], history: History
    ) -> TokenAnswer:
        """Execute the route's tokens, or ask the language model."""
        if route.kind is RouteKind.SKIP and len(route.tokens) != self._codec.length:
            route = _UNFINISHED  # a proposer may guess less than an action; that cannot be executed
        answer = TokenAnswer(self._codec, route)
        if route.kind is RouteKind.SKIP:
            answer.parts.skip(route.tokens)
        else:
            self._infer(context, plan, route, drafts, history, answer.parts)
        return answer

    def _infer(
        self,
        context: ContextT,
        plan: Plan,
        route: Route,
        drafts: Sequence[Draft],
        history: History,
        parts: PartialAction,
    ) -> None:
        """Ask the language model, with the guesses in its first forward and, where tokens are missing, later ones."""
        clock, asked, guesses = self._clock, _NOBODY, None
        if route.kind is RouteKind.SPECULATE:
            asked = plan.later
            if plan.drafters:
                with clock("propose"):
                    drafts = (*drafts, *self.panel.propose(context, history, plan.drafters))
            guesses = self._merge(drafts, parts)
        with clock("prefill"):
            cache, scores = self._target.prefill(context, guesses.tree if guesses else None)
        self._accept(parts, route.rule, guesses, cache, scores)
        while len(parts.tokens) < self._codec.length:
            fills = parts.may_be_filled(route)
            guesses = self._guess(context, (route.completed_by,) if fills else asked, history, parts)
            with clock("decode"):
                scores = self._target.extend(cache, guesses.tree if guesses else _single(parts.tokens[-1]))
            self._accept(parts, unchecked if fills else route.rule, guesses, cache, scores)

    def _guess(
        self, context: ContextT, asked: tuple[str, ...] | None, history: History, parts: PartialAction
    ) -> verify.DraftTree | None:
        """Guesses at the tokens that are missing, as one tree; None when there are none."""
        # The token before the last has to be read anyway; its forward tells the last one, guessed or not.
        if not self.panel or asked == _NOBODY or len(parts.tokens) == self._codec.length - 1:
            return None
        with self._clock("propose"):
            drafts = self.panel.propose(context, history.with_settled(tuple(parts.tokens)), asked)
        return self._merge(drafts, parts)

    def _merge(self, drafts: Sequence[Draft], parts: PartialAction) -> verify.DraftTree | None:
        if not drafts:
            return None
        with self._clock("trie"):
            position, length = len(parts.tokens), self._codec.length
            known = parts.tokens[-1] if position else None
            mixed = verify.recombine(drafts, position=position) if self._recombines else None
            drafts = drafts if mixed is None else (*drafts, mixed)
            return verify.merge(drafts, position=position, length=length, max_nodes=self._max_nodes, known=known)

    def _accept(
        self, parts: PartialAction, rule: Rule | None, guesses: verify.DraftTree | None, cache: CacheT, scores: Scores
    ) -> None:
        """Commit to the cache and to the answer what a forward has settled."""
        with self._clock("accept"):
            if guesses is None:
                if parts.tokens:
                    cache.keep(_ROOT)
                parts.add((cache.next_token,), (TokenOrigin.DECODED,), cache.margin)
                return
            verdict = (rule or self._rule)(guesses, scores, self._codec)
            cache.keep(verdict.path)
            parts.add(verdict.tokens, verdict.origins, cache.margin)
            parts.verified(guesses, verdict)
            self.panel.observe(verdict)

    def _checked(self, draft: object, history: History) -> Draft:
        return check_draft(draft, self._codec, len(history.settled))


@lru_cache(maxsize=4096)
def _single(token: int) -> TokenTree:
    """A tree of one node; building one costs as much as a matrix product, and few tokens ever occur."""
    return TokenTree.chain(np.asarray([token]))
