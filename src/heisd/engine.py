"""The loop that turns one observation into one action. Every stage has the name of the module that does it.

    observation -> encode -> propose -> route -> prefill + verify -> decode -> act -> action  (every stage -> telemetry)

What the proposers guess is checked inside the prefill itself: an action that is accepted whole costs one forward of
the language model. What is missing is decoded from the kept prefix on, with new guesses or, when nobody has any,
token by token. A router may skip the language model, or leave the guesses aside. Without proposers that is plain
greedy decoding.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Generic

import numpy as np

from heisd import verify
from heisd.accept import Rule, exact, unchecked
from heisd.partial_action import PartialAction
from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.propose.base import History, Proposer
from heisd.propose.panel import Panel
from heisd.route.base import Always, Plan, Reason, Route, RouteKind, Router
from heisd.telemetry import Clock, NullSink, Sink
from heisd.types import Action, Draft, Observation, Scores, TokenOrigin, TokenTree

MAX_NODES = 48  # rows that guesses may add to one forward
_ROOT = (0,)  # the path of a one-node tree
_NOBODY: tuple[str, ...] | None = ()
_UNFINISHED = Route(RouteKind.FULL, Reason.NO_GUESS)
_PLAINLY = Route(RouteKind.FULL, Reason.ALWAYS)


class Engine(Generic[ContextT, CacheT]):
    """Speculative greedy decoding of a target policy, timed on the full clock. One engine serves one robot.

    With the rule ``exact`` and the default router every action is that of plain greedy decoding, token for token,
    whatever is proposed; where two tokens are too close to call in a forward of many rows (``Scores.next_is_close``)
    the action is decoded again, plainly. ``recombines`` adds every candidate's position with every other's rotation
    to the guesses (HeiSD, sequence-wise acceptance).
    """

    def __init__(
        self,
        target: TargetPolicy[ContextT, CacheT],
        *,
        proposers: Mapping[str, Proposer] | None = None,
        rule: Rule = exact,
        router: Router | None = None,
        recombines: bool = False,
        max_nodes: int = MAX_NODES,
        sink: Sink | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.target = target
        self.sink: Sink = NullSink() if sink is None else sink
        self._panel = Panel(proposers or {}, target.codec)
        self._router: Router = Always() if router is None else router
        self._rule, self._recombines, self._max_nodes = rule, recombines, max_nodes
        self._clock = Clock() if clock is None else clock
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._step = 0
        self._history = History.empty(self.target.codec.length)
        self._memory = self._router.begin()
        self._panel.reset()

    @property
    def faults(self) -> Mapping[str, int]:
        """How often each proposer has failed in this episode."""
        return dict(self._panel.faults)

    def act(self, observation: Observation) -> Action:
        """One control step: as many forwards of the language model as the guesses leave to do, at most 7."""
        clock, answer = self._clock, PartialAction()
        clock.start()
        self._panel.asked.clear()
        with clock("encode"):
            context = self.target.encode(observation)
        with clock("route"):
            self._history = self._history.observed(observation.proprio)
            self._memory = self._router.see(observation, self._memory)
            phase = self._router.read(self._history)
            plan = self._router.plan(phase, self._memory)
        with clock("propose"):
            drafts = self._panel.propose(context, self._history, plan.scouts)
        with clock("route"):
            route = self._router.decide(context, phase, drafts, self._memory)
        if route.kind is RouteKind.SKIP and len(route.tokens) != self.target.codec.length:
            route = _UNFINISHED  # a proposer may guess less than an action; that cannot be executed
        if route.kind is RouteKind.SKIP:
            answer.skip(route.tokens)
        else:
            self._infer(context, plan, route, drafts, answer)
        with clock("act"):
            action = self._action(answer)
            self._memory = self._router.remember(self._memory, answer.outcome(route))
        self.sink.emit(answer.record(self._step, route, clock.stop(), clock.stage_ms, self._panel.asked))
        self._step += 1
        return action

    def _infer(
        self, context: ContextT, plan: Plan, route: Route, drafts: Sequence[Draft], answer: PartialAction
    ) -> None:
        """Ask the language model, with the guesses in its first forward and, where tokens are missing, later ones."""
        clock, asked, guesses = self._clock, _NOBODY, None
        if route.kind is RouteKind.SPECULATE:
            asked = plan.later
            if plan.drafters:
                with clock("propose"):
                    drafts = (*drafts, *self._panel.propose(context, self._history, plan.drafters))
            guesses = self._merge(drafts if route.only is None else (route.only,), answer)
        with clock("prefill"):
            cache, scores = self.target.prefill(context, guesses.tree if guesses else None)
        in_doubt = self._accept(answer, route.rule, guesses, cache, scores)
        while len(answer.tokens) < self.target.codec.length and not in_doubt:
            fills = answer.may_be_filled(route)
            guesses = self._guess(context, (route.completed_by,) if fills else asked, answer)
            with clock("decode"):
                scores = self.target.extend(cache, guesses.tree if guesses else _single(answer.tokens[-1]))
            in_doubt = self._accept(answer, unchecked if fills else route.rule, guesses, cache, scores)
        if in_doubt:
            answer.redo()
            self._infer(context, plan, _PLAINLY, (), answer)

    def _guess(
        self, context: ContextT, asked: tuple[str, ...] | None, answer: PartialAction
    ) -> verify.DraftTree | None:
        """Guesses at the tokens that are missing, as one tree; None when there are none."""
        # The token before the last has to be read anyway; its forward tells the last one, guessed or not.
        if not self._panel or asked == _NOBODY or len(answer.tokens) == self.target.codec.length - 1:
            return None
        with self._clock("propose"):
            drafts = self._panel.propose(context, self._history.with_settled(tuple(answer.tokens)), asked)
        return self._merge(drafts, answer)

    def _merge(self, drafts: Sequence[Draft], answer: PartialAction) -> verify.DraftTree | None:
        if not drafts:
            return None
        with self._clock("trie"):
            position, length = len(answer.tokens), self.target.codec.length
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
                verdict = rule(guesses, scores, self.target.codec)
                path, has_speculated = verdict.path, True
                cache.keep(path)
                answer.add(verdict.tokens, verdict.origins, cache.margin)
                answer.verified(guesses, verdict)
                self._panel.observe(verdict)
            return rule is exact and has_speculated and verify.is_close(scores, path, reads_prompt=reads_prompt)

    def _action(self, answer: PartialAction) -> Action:
        ids = np.asarray(answer.tokens, dtype=np.int64)
        action = Action(self.target.codec.decode(ids), ids, tuple(answer.origins))
        self._history = self._history.acted(action)
        return action


@lru_cache(maxsize=4096)
def _single(token: int) -> TokenTree:
    """A tree of one node; building one costs as much as a matrix product, and few tokens ever occur."""
    return TokenTree.chain(np.asarray([token]))
