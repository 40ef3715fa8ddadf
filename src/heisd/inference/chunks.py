"""Rounds of a chunk policy: a chunk is denoised, or a draft of one verified, and some of its actions are executed.

    full       prefill, then Euler steps from noise; the first ``executed`` actions are taken
               (an audit sees whether a draft that might have been skipped to is good beside that chunk)
    speculate  drafts are checked in one pass of the action expert behind the keys and values of the last full round;
               the accepted actions are taken. None accepted: a full round in the same call, with the same context
    skip       a draft's actions are taken unchecked

The control steps in between take the next action of the chunk in hand and cost next to nothing (receding horizon).
A denoised chunk that leaves the gripper alone may be executed further than others (``calm_executed``).
With a delay a round begins while that many actions are in hand, and its chunk begins with them (real-time chunking,
:mod:`heisd.inference.overlap`): the robot executes them while the round is computed.
FLASH (arXiv 2605.13778) runs a rejected round's full one at the next call, on the same picture, and encodes it again.
"""

import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np

from heisd.accept_chunk import ChunkRule, good_actions
from heisd.codec import GRIPPER
from heisd.inference.overlap import Overlap
from heisd.policies.config import SamplingConfig
from heisd.policies.protocol import ChunkContextT, ChunkPolicy, Inpaints, PrefixT
from heisd.propose.base import ChunkProposer, History, check_chunk_draft
from heisd.propose.panel import Panel
from heisd.route.base import UNEASY, Outcome, Plan, Reason, Route, RouteKind
from heisd.telemetry import Clock
from heisd.types import (
    Action,
    ChunkDraft,
    ChunkVerdict,
    FloatArray,
    Proprioception,
    Round,
    RoundRecord,
    StepRecord,
    TokenOrigin,
)

IN_HAND = Route(RouteKind.CHUNK, Reason.IN_HAND)
_NOTHING_TO_SKIP_TO = Route(RouteKind.FULL, Reason.NO_GUESS)


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """One action of a chunk; the round that made the chunk if that was at this step."""

    taken: Action
    route: Route = IN_HAND
    round: RoundRecord | None = None
    rest_moves_gripper: bool = False  # what that round leaves of it does

    def action(self) -> Action:
        """What is executed."""
        return self.taken

    def outcome(self) -> Outcome | None:
        """None at steps that had their action in hand."""
        if self.round is None:
            return None
        tokens = tuple(self.taken.tokens.tolist())
        return Outcome(
            self.route,
            (),
            (),
            tokens,
            n_forwards=self.round.n_prefills,
            round=self.round,
            rest_moves_gripper=self.rest_moves_gripper,
        )

    def record(
        self, step: int, latency_ms: float, stage_ms: Mapping[str, float], asked: Mapping[str, int]
    ) -> StepRecord:
        """Telemetry of the finished step; ``asked`` tells how often each proposer was."""
        return StepRecord(
            step=step,
            latency_ms=latency_ms,
            stage_ms=stage_ms,
            lm_forwards=0 if self.round is None else self.round.n_prefills,
            origins={str(self.taken.origins[0]): len(self.taken.origins)},
            route=str(self.route.kind),
            reason=str(self.route.reason),
            score=self.route.score,
            asked=dict(asked),
            round=self.round,
        )


class ChunkInference(Generic[ChunkContextT, PrefixT]):
    """Receding horizon over the chunks of one policy. Noise repeats exactly: it is seeded by the episode's first state.

    ``rule`` verifies drafts; without one every round that may not skip is a full one. With ``delay_steps`` above 0 that
    many actions of a chunk are left in hand when the next round begins, and a target that :class:`Inpaints` is needed.
    ``calm_executed`` actions are executed of a denoised chunk that leaves the gripper alone from end to end, unless
    something about the scene or the gripper made the round a full one; None: as many as of any.
    """

    def __init__(
        self,
        target: ChunkPolicy[ChunkContextT, PrefixT],
        proposers: Mapping[str, ChunkProposer],
        clock: Clock,
        *,
        sampling: SamplingConfig,
        rule: ChunkRule | None,
        delay_steps: int = 0,
        calm_executed: int | None = None,
    ) -> None:
        self._target, self._codec, self._clock = target, target.codec, clock
        self._sampling, self._rule, self._delay_steps = sampling, rule, delay_steps
        self._calm_executed = sampling.executed if calm_executed is None else calm_executed
        self._executable = sampling.executed + delay_steps  # leading actions of a chunk that may be executed
        self.panel: Panel[ChunkDraft] = Panel(proposers, self._checked)
        self.reset()

    def reset(self) -> None:
        """Begin an episode: no chunk, no prefix, noise from the start."""
        self._queue: deque[Action] = deque()
        self._overlap: Overlap | None = None  # with the last chunk; None without a delay
        self._prefix: PrefixT | None = None
        self._prefix_age_steps = 0
        self._last_gripper: float | None = None  # normalised, of the action executed last
        self._rng: np.random.Generator | None = None

    @property
    def has_in_hand(self) -> bool:
        """Whether actions of the chunk are left that come before the next round."""
        return len(self._queue) > self._delay_steps

    def in_hand(self) -> ChunkAnswer | None:
        """The next action of the chunk, if any is left of those that come before the next round."""
        return ChunkAnswer(self._queue.popleft()) if self.has_in_hand else None

    def answer(
        self, context: ChunkContextT, plan: Plan, route: Route, drafts: Sequence[ChunkDraft], history: History
    ) -> ChunkAnswer:
        """One round."""
        if self._rng is None:
            self._rng = np.random.default_rng(_seed(history.proprioception[-1]))
        if route.kind is RouteKind.SKIP and route.chunk is None:
            route = _NOTHING_TO_SKIP_TO
        if route.kind is RouteKind.SKIP and route.chunk is not None:
            came = self._skipped(route.chunk)
        else:
            came = self._inferred(context, plan, route, drafts, history)
        return self._take(came, route)

    def _inferred(
        self, context: ChunkContextT, plan: Plan, route: Route, drafts: Sequence[ChunkDraft], history: History
    ) -> Round:
        verdict, n_chunks = None, 0
        if route.kind is RouteKind.SPECULATE and self._rule is not None and self._prefix is not None:
            if plan.drafters:
                with self._clock("propose"):
                    drafts = (*drafts, *self.panel.propose(context, history, plan.drafters))
            if drafts:
                verdict, n_chunks = self._verify(context, self._prefix, drafts)
        if verdict is None:
            return self._audited(self._full(context, RoundRecord(self._sampling.executed), route), route.chunk)
        n = max(verdict.n_accepted - self._delay_steps, 0)  # no more than what is in hand anyway is nothing
        record = RoundRecord(
            n_actions=n,
            n_expert_passes=1,
            n_chunks=n_chunks,
            n_judged=self._sampling.executed,
            n_accepted=n,
            stop=str(verdict.reason),
            source=verdict.source,
            prefix_age_steps=self._prefix_age_steps,
        )
        return Round(verdict.chunk, TokenOrigin.RELAXED, record) if n else self._full(context, record, route)

    def _verify(
        self, context: ChunkContextT, prefix: PrefixT, drafts: Sequence[ChunkDraft]
    ) -> tuple[ChunkVerdict, int]:
        """The best draft of all candidates, by one pass of the action expert; and how many chunks that pass checked.

        Candidates that the pass has no room for are left out, those of later proposers first.
        """
        rule = self._rule
        assert rule is not None
        with self._clock("verify"):
            n_fit = self._target.max_chunks // len(rule.levels)
            chunks = self._as_executed(np.concatenate([draft.chunks for draft in drafts])[:n_fit])
            sources = [draft.source for draft in drafts for _ in draft.chunks][:n_fit]
            shape = chunks.shape[1:] if rule.shares_noise else (len(rule.levels), *chunks.shape[1:])
            found = self._target.endpoints(prefix, context, chunks, self._noise(shape), rule.levels)
        with self._clock("accept"):
            before = self._last_gripper or 0.0  # FLASH begins with 0
            verdict = rule.judge(chunks, sources, found, self._executable, before)
        return verdict, len(chunks) * len(rule.levels)

    def _full(self, context: ChunkContextT, record: RoundRecord, route: Route) -> Round:
        with self._clock("prefill"):
            self._prefix = self._target.prefill(context)
            self._prefix_age_steps = 0
        noise = self._noise((self._target.horizon, self._codec.length)) * np.float32(self._sampling.noise_scale)
        chunk = self._denoised(self._prefix, context, noise)
        n_passes = record.n_expert_passes + self._sampling.euler_steps
        record = replace(record, n_actions=self._reach(chunk, route), n_prefills=1, n_expert_passes=n_passes)
        return Round(chunk, TokenOrigin.DECODED, record)

    def _audited(self, came: Round, draft: ChunkDraft | None) -> Round:
        """The full round, and whether the draft, as it would have been executed, was as good."""
        if draft is None:
            return came
        n = self._executable
        is_good = good_actions(self._as_executed(draft.chunks[0])[:n], came.chunk[:n]).all()
        return replace(came, record=replace(came.record, vouched_for=draft.source if is_good else ""))

    def _as_executed(self, chunks: FloatArray) -> FloatArray:
        """Drafts with the actions in hand in front of them."""
        return chunks if self._overlap is None else self._overlap.blended(chunks)

    def _denoised(self, prefix: PrefixT, context: ChunkContextT, noise: FloatArray) -> FloatArray:
        """From noise, pulled towards the chunk in hand if there is one."""
        if self._overlap is None:
            with self._clock("denoise"):
                return self._target.denoise(prefix, context, noise, self._sampling.euler_steps)
        assert isinstance(self._target, Inpaints), "asked when the engine was built"
        with self._clock("inpaint"):
            guide = self._overlap.guide()
            return self._overlap.kept(self._target.inpaint(prefix, context, noise, self._sampling.euler_steps, guide))

    def _skipped(self, draft: ChunkDraft) -> Round:
        record = RoundRecord(self._sampling.executed, source=draft.source, prefix_age_steps=self._prefix_age_steps)
        return Round(self._as_executed(draft.chunks[0]), TokenOrigin.SKIPPED, record)

    def _reach(self, chunk: FloatArray, route: Route) -> int:
        """How many actions of a denoised chunk are executed: more where nothing is about to happen."""
        if route.reason in UNEASY:
            return self._sampling.executed
        before = chunk[:1, GRIPPER] if self._last_gripper is None else np.array([self._last_gripper])
        closes = np.concatenate([before, chunk[:, GRIPPER]]) >= 0.0
        return self._calm_executed if (closes == closes[0]).all() else self._sampling.executed

    def _take(self, came: Round, route: Route) -> ChunkAnswer:
        """Un-normalise what will be executed; the first action in hand is this step's."""
        n, n_frozen = came.record.n_actions, len(self._queue)
        came = replace(came, record=replace(came.record, n_frozen=n_frozen))
        values = self._codec.denormalise_chunk(came.chunk[n_frozen : n + self._delay_steps])
        tokens, origins = self._codec.encode(values), (came.origin,) * self._codec.length
        self._queue.extend(Action(v, t, origins) for v, t in zip(values, tokens, strict=True))
        self._last_gripper = float(came.chunk[n - 1, GRIPPER])  # of the last action before the next round
        self._prefix_age_steps += n
        self._overlap = Overlap.of(came, self._delay_steps) if self._delay_steps else None
        self.panel.observe(came)
        return ChunkAnswer(self._queue.popleft(), route, came.record, _rest_moves_gripper(came.chunk, n))

    def _noise(self, shape: tuple[int, ...]) -> FloatArray:
        assert self._rng is not None
        return self._rng.standard_normal(shape, dtype=np.float32)

    def _checked(self, draft: object, history: History) -> ChunkDraft:  # noqa: ARG002 (the panel's)
        return check_chunk_draft(draft, self._codec, self._target.horizon)


def _rest_moves_gripper(chunk: FloatArray, n_executed: int) -> bool:
    """Whether the (H, A) chunk moves the gripper behind its executed actions."""
    closes = chunk[n_executed - 1 :, GRIPPER] >= 0.0
    return bool((closes != closes[0]).any())


def _seed(now: Proprioception) -> int:
    """The same start gives the same noise, whatever ran before in this process and whichever method it is."""
    state = np.concatenate([now.joint_pos_rad, now.eef_pos_m], dtype=np.float64)
    return zlib.crc32(state.tobytes())
