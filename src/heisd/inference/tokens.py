"""Speculative greedy decoding: guesses are checked inside the prefill itself, what is missing is decoded behind them.

An action that is accepted whole costs one forward of the language model. Behind the kept prefix decoding goes on with
new guesses or, when nobody has any, token by token. Where the rule is ``exact`` and rounding may have decided a token,
the action is decoded again, plainly.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Generic

import numpy as np

from heisd import verify
from heisd.accept import Rule, exact, unchecked
from heisd.partial_action import PartialAction
from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.propose.base import History, Proposer, check_draft
from heisd.propose.panel import Panel
from heisd.route.base import Plan, Reason, Route, RouteKind
from heisd.telemetry import Clock
from heisd.types import Draft, Scores, TokenOrigin, TokenTree

_ROOT = (0,)  # the path of a one-node tree
_NOBODY: tuple[str, ...] | None = ()
_UNFINISHED = Route(RouteKind.FULL, Reason.NO_GUESS)
_PLAINLY = Route(RouteKind.FULL, Reason.ALWAYS)


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

    @property
    def has_in_hand(self) -> bool:
        """Never."""
        return False

    def in_hand(self) -> PartialAction | None:
        """An action is one control step's; nothing is left of earlier ones."""
        return None

    def answer(
        self, context: ContextT, plan: Plan, route: Route, drafts: Sequence[Draft], history: History
    ) -> PartialAction:
        """Execute the route's tokens, or ask the language model."""
        if route.kind is RouteKind.SKIP and len(route.tokens) != self._codec.length:
            route = _UNFINISHED  # a proposer may guess less than an action; that cannot be executed
        answer = PartialAction(self._codec, route)
        if route.kind is RouteKind.SKIP:
            answer.skip(route.tokens)
        else:
            self._infer(context, plan, route, drafts, history, answer)
        return answer

    def _infer(
        self,
        context: ContextT,
        plan: Plan,
        route: Route,
        drafts: Sequence[Draft],
        history: History,
        answer: PartialAction,
    ) -> None:
        """Ask the language model, with the guesses in its first forward and, where tokens are missing, later ones."""
        clock, asked, guesses = self._clock, _NOBODY, None
        if route.kind is RouteKind.SPECULATE:
            asked = plan.later
            if plan.drafters:
                answer.drafters = plan.drafters
                with clock("propose"):
                    drafts = (*drafts, *self.panel.propose(context, history, plan.drafters))
            guesses = self._merge(drafts if route.only is None else (route.only,), answer)
        with clock("prefill"):
            cache, scores = self._target.prefill(context, guesses.tree if guesses else None)
        in_doubt = self._accept(answer, route.rule, guesses, cache, scores)
        while len(answer.tokens) < self._codec.length and not in_doubt:
            fills = answer.may_be_filled(route)
            guesses = self._guess(context, (route.completed_by,) if fills else asked, history, answer)
            with clock("decode"):
                scores = self._target.extend(cache, guesses.tree if guesses else _single(answer.tokens[-1]))
            in_doubt = self._accept(answer, unchecked if fills else route.rule, guesses, cache, scores)
        if in_doubt:
            answer.redo()
            self._infer(context, plan, _PLAINLY, (), history, answer)

    def _guess(
        self, context: ContextT, asked: tuple[str, ...] | None, history: History, answer: PartialAction
    ) -> verify.DraftTree | None:
        """Guesses at the tokens that are missing, as one tree; None when there are none."""
        # The token before the last has to be read anyway; its forward tells the last one, guessed or not.
        if not self.panel or asked == _NOBODY or len(answer.tokens) == self._codec.length - 1:
            return None
        with self._clock("propose"):
            drafts = self.panel.propose(context, history.with_settled(tuple(answer.tokens)), asked)
        return self._merge(drafts, answer)

    def _merge(self, drafts: Sequence[Draft], answer: PartialAction) -> verify.DraftTree | None:
        if not drafts:
            return None
        with self._clock("trie"):
            position, length = len(answer.tokens), self._codec.length
            known = answer.tokens[-1] if position else None
            mixed = verify.recombine(drafts, position=position) if self._recombines else None
            drafts = drafts if mixed is None else (*drafts, mixed)
            return verify.merge(drafts, position=position, length=length, max_nodes=self._max_nodes, known=known)

    def _accept(
        self, answer: PartialAction, rule: Rule | None, guesses: verify.DraftTree | None, cache: CacheT, scores: Scores
    ) -> bool:
        """Commit to the cache and to the answer what a forward has settled.

        True when the rule is ``exact`` and plain decoding, whose forwards have other shapes, might have chosen another
        token: rounding decided.
        """
        rule, reads_prompt = rule or self._rule, not answer.tokens
        path: tuple[int, ...]
        with self._clock("accept"):
            if guesses is None:
                path = () if reads_prompt else _ROOT
                cache.keep(path)
                answer.add((cache.next_token,), (TokenOrigin.DECODED,), cache.margin)
                has_speculated = bool(answer.verdicts)
            else:
                verdict = rule(guesses, scores, self._codec)
                path, has_speculated = verdict.path, True
                cache.keep(path)
                answer.add(verdict.tokens, verdict.origins, cache.margin)
                answer.verified(guesses, verdict)
                self.panel.observe(verdict)
            return rule is exact and has_speculated and verify.is_close(scores, path, reads_prompt=reads_prompt)

    def _checked(self, draft: object, history: History) -> Draft:
        return check_draft(draft, self._codec, len(history.settled))


@lru_cache(maxsize=4096)
def _single(token: int) -> TokenTree:
    """A tree of one node; building one costs as much as a matrix product, and few tokens ever occur."""
    return TokenTree.chain(np.asarray([token]))
