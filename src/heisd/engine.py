"""The loop that turns one observation into one action. Every stage has the name of the module that does it.

    observation -> plan -> encode -> propose -> route -> infer -> act -> action  (every stage -> telemetry)

A router may skip the policy's own inference, have guesses checked by it, or leave them aside; without proposers that is
plain inference. How it is done is the business of the two families (:mod:`heisd.inference`): tokens are decoded, with
the guesses inside the prefill itself; chunks of actions are denoised, and a step may find its action in hand. A plan
may put off encoding: then guesses rest on the last pictures encoded, and whatever is not skipped looks first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic

from heisd.accept import Rule, exact
from heisd.accept_chunk import ChunkRule
from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.inference.base import Answer, Encoder, Inference
from heisd.inference.chunks import ChunkInference
from heisd.inference.tokens import TokenInference
from heisd.kinematics import bin_sizes
from heisd.policies.config import SamplingConfig
from heisd.policies.protocol import (
    CacheT,
    ChunkContextT,
    ChunkPolicy,
    ContextT,
    Inpaints,
    PrefixT,
    Refreshing,
    TargetPolicy,
)
from heisd.propose.base import ChunkProposer, History, Proposer
from heisd.route.base import Always, Outcome, Plan, Route, RouteKind, Router
from heisd.route.fixed import Full
from heisd.telemetry import Clock, NullSink, Sink
from heisd.types import Action, FloatArray, Observation, TokenOrigin

MAX_NODES = 48  # rows that guesses may add to one forward


class ControlLoop:
    """One control step after the other, timed on the full clock. One loop serves one robot."""

    def __init__(
        self,
        target: Encoder,
        inference: Inference[Any],
        codec: ActionCodec,
        router: Router,
        sink: Sink | None,
        clock: Clock,
    ) -> None:
        """``inference`` is the family's, of the same target and clock; ``codec`` that of its actions."""
        self.sink: Sink = NullSink() if sink is None else sink
        self._encoder, self._inference, self._n_tokens = target, inference, codec.length
        self._bin_sizes = bin_sizes(codec.q01, codec.q99)
        self._panel, self._router, self._clock = inference.panel, router, clock
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._step = 0
        self._history = History.empty(self._n_tokens)
        self._memory = self._router.begin()
        self._seen: Any = None  # context of the last pictures encoded
        self._inference.reset()
        self._panel.reset()

    @property
    def faults(self) -> Mapping[str, int]:
        """How often each proposer has failed in this episode."""
        return dict(self._panel.faults)

    @property
    def context(self) -> Any:
        """What the target made of the last pictures encoded; None before the first."""
        return self._seen

    @property
    def will_look(self) -> bool:
        """Whether the next step may read its pictures; with an action of a chunk in hand it reads none."""
        return not self._inference.has_in_hand

    def act(self, observation: Observation) -> Action:
        """One control step."""
        clock = self._clock
        clock.start()
        self._panel.asked.clear()
        self._has_looked = False
        self._history = self._history.observed(observation.proprio)
        answer = self._inference.in_hand()
        if answer is None:
            answer = self._decide(observation)
        with clock("act"):
            action, outcome = answer.action(), answer.outcome()
            self._history = self._history.acted(action, self._deviation(action, outcome))
            if outcome is not None:
                outcome = outcome if self._has_looked else replace(outcome, looked=False)
                self._memory = self._router.remember(self._memory, outcome)
        with clock("record"):  # known once it is over: in stage_ms behind the sink, not in what a sink writes at once
            record = answer.record(self._step, clock.stop(), clock.stage_ms, self._panel.asked)
            if faults := self._panel.take_faults():
                record = replace(record, faults=faults)
            if not self._has_looked:
                record = replace(record, looked=False)
            self.sink.emit(record)
        self._step += 1
        return action

    def _decide(self, observation: Observation) -> Answer:
        """Encode, ask the scouts, choose the route and follow it."""
        clock, history = self._clock, self._history
        with clock("route"):
            self._memory = self._router.see(observation, self._memory)
            phase = self._router.read(history)
            plan = self._router.plan(phase, self._memory)
        with clock("encode"):
            context = self._encoded(observation, plan)
        with clock("propose"):
            drafts = self._panel.propose(context, history, plan.scouts)
        with clock("route"):
            route = self._router.decide(context, phase, drafts, self._memory)
        if context is not self._seen and not self._can_skip(route):
            with clock("encode"):
                context = self._seen = self._encoder.encode(observation)
            drafts = ()  # those were made without a look
        self._has_looked = context is self._seen
        return self._inference.answer(context, plan, route, drafts, history)

    def _deviation(self, action: Action, outcome: Outcome | None) -> FloatArray | float:
        """(T,) how far a relaxed rule let the action be from the target's own [action units]; 0: nowhere."""
        if outcome is None or not outcome.verdicts or TokenOrigin.RELAXED not in action.origins:
            return 0.0
        return self._bin_sizes * outcome.deviation_bins

    def _can_skip(self, route: Route) -> bool:
        """Whether a route is a skip with a whole action; one with less of it ends in inference, which looks first."""
        return route.kind is RouteKind.SKIP and (route.chunk is not None or len(route.tokens) == self._n_tokens)

    def _encoded(self, observation: Observation, plan: Plan) -> Any:
        """The observation as the scouts get it; :attr:`_seen` itself where it was looked at."""
        if plan.looks or self._seen is None or not isinstance(self._encoder, Refreshing):
            self._seen = self._encoder.encode(observation)
            return self._seen
        return self._encoder.refreshed(self._seen, observation)


class Engine(ControlLoop, Generic[ContextT, CacheT]):
    """Speculative greedy decoding of a token policy.

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
        clock = Clock() if clock is None else clock
        inference = TokenInference(
            target, proposers or {}, clock, rule=rule, recombines=recombines, max_nodes=max_nodes
        )
        super().__init__(target, inference, target.codec, Always() if router is None else router, sink, clock)


class ChunkEngine(ControlLoop, Generic[ChunkContextT, PrefixT]):
    """Receding horizon over the chunks of a flow-matching policy. Without proposers every round is a full one.

    ``rule`` judges drafts; ``router`` decides whether a round skips, verifies or denoises. With ``delay_steps`` of d
    the next round begins while d actions are in hand, and keeps them (RTC, arXiv 2506.07339); 0 is the plain loop.
    ``calm_executed`` actions are executed of a denoised chunk that leaves the gripper alone; None: as many as of any.
    Raises BadInput for more executed actions than a chunk has, for a delay that :func:`require_delay` refuses or the
    target cannot in-paint, for calm ones that are fewer than the others or more than the delay leaves, and for more
    noise levels than fit in one forward of the target.
    """

    def __init__(
        self,
        target: ChunkPolicy[ChunkContextT, PrefixT],
        *,
        sampling: SamplingConfig,
        proposers: Mapping[str, ChunkProposer] | None = None,
        rule: ChunkRule | None = None,
        router: Router | None = None,
        delay_steps: int = 0,
        calm_executed: int | None = None,
        sink: Sink | None = None,
        clock: Clock | None = None,
    ) -> None:
        if sampling.executed > target.horizon:
            raise BadInput(
                f"a chunk of this policy has {target.horizon} actions; {sampling.executed} cannot be executed"
            )
        require_delay(delay_steps, sampling.executed, target.horizon)
        if calm_executed is not None and not sampling.executed <= calm_executed <= target.horizon - delay_steps:
            raise BadInput(
                f"{calm_executed} actions of a calm chunk are executed; it is {sampling.executed}, as of any, to "
                f"{target.horizon - delay_steps}, the chunk's {target.horizon} less a delay of {delay_steps}"
            )
        if delay_steps and not isinstance(target, Inpaints):
            raise BadInput(f"{type(target).__name__} has no inpaint(), which chunks that come late need; use no delay")
        if rule is not None and len(rule.levels) > target.max_chunks:
            raise BadInput(
                f"{len(rule.levels)} noise levels are more than the {target.max_chunks} chunks of one forward"
            )
        self.target = target
        clock = Clock() if clock is None else clock
        inference = ChunkInference(
            target,
            proposers or {},
            clock,
            sampling=sampling,
            rule=rule,
            delay_steps=delay_steps,
            calm_executed=calm_executed,
        )
        super().__init__(target, inference, target.codec, Full() if router is None else router, sink, clock)


def require_delay(delay_steps: int, executed: int, horizon: int) -> None:
    """BadInput unless a round may take so many control steps: RTC's d <= s <= H - d, s of H actions executed."""
    if not 0 <= delay_steps <= min(executed, horizon - executed):
        raise BadInput(
            f"a delay of {delay_steps} control steps with {executed} of a chunk's {horizon} actions executed; it is 0 "
            "or more, at most the executed ones and at most those behind them: change --executed, or answer sooner"
        )
