"""Rounds of a chunk policy: a chunk is denoised, or a draft of one verified, and some of its actions are executed.

    full       prefill, then Euler steps from noise; the first ``executed`` actions are taken
    speculate  drafts are checked in one pass of the action expert behind the keys and values of the last full round;
               the accepted actions are taken. None accepted: a full round in the same call, with the same context
    skip       a draft's actions are taken unchecked

The control steps in between take the next action of the chunk in hand and cost next to nothing (receding horizon).
FLASH (arXiv 2605.13778) runs a rejected round's full one at the next call, on the same picture, and encodes it again.
"""

import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np

from heisd.accept_chunk import ChunkRule
from heisd.codec import GRIPPER
from heisd.policies.config import SamplingConfig
from heisd.policies.protocol import ChunkContextT, ChunkPolicy, PrefixT
from heisd.propose.base import ChunkProposer, History, check_chunk_draft
from heisd.propose.panel import Panel
from heisd.route.base import Outcome, Plan, Reason, Route, RouteKind
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

    def action(self) -> Action:
        """What is executed."""
        return self.taken

    def outcome(self) -> Outcome | None:
        """None at steps that had their action in hand."""
        if self.round is None:
            return None
        tokens = tuple(self.taken.tokens.tolist())
        return Outcome(self.route, (), (), tokens, n_forwards=self.round.n_prefills, round=self.round)

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

    ``rule`` verifies drafts; without one every round that may not skip is a full one.
    """

    def __init__(
        self,
        target: ChunkPolicy[ChunkContextT, PrefixT],
        proposers: Mapping[str, ChunkProposer],
        clock: Clock,
        *,
        sampling: SamplingConfig,
        rule: ChunkRule | None,
    ) -> None:
        self._target, self._codec, self._clock = target, target.codec, clock
        self._sampling, self._rule = sampling, rule
        self.panel: Panel[ChunkDraft] = Panel(proposers, self._checked)
        self.reset()

    def reset(self) -> None:
        """Begin an episode: no chunk, no prefix, noise from the start."""
        self._queue: deque[Action] = deque()
        self._prefix: PrefixT | None = None
        self._prefix_age_steps = 0
        self._last_gripper = 0.0  # normalised, of the action executed last (FLASH begins with 0)
        self._rng: np.random.Generator | None = None

    def in_hand(self) -> ChunkAnswer | None:
        """The next action of the chunk, if any is left of those that were to be executed."""
        return ChunkAnswer(self._queue.popleft()) if self._queue else None

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
            return self._full(context, RoundRecord(self._sampling.executed))
        n = verdict.n_accepted
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
        return Round(verdict.chunk, TokenOrigin.RELAXED, record) if n else self._full(context, record)

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
            chunks = np.concatenate([draft.chunks for draft in drafts])[:n_fit]
            sources = [draft.source for draft in drafts for _ in draft.chunks][:n_fit]
            shape = chunks.shape[1:] if rule.shares_noise else (len(rule.levels), *chunks.shape[1:])
            found = self._target.endpoints(prefix, context, chunks, self._noise(shape), rule.levels)
        with self._clock("accept"):
            verdict = rule.judge(chunks, sources, found, self._sampling.executed, self._last_gripper)
        return verdict, len(chunks) * len(rule.levels)

    def _full(self, context: ChunkContextT, record: RoundRecord) -> Round:
        with self._clock("prefill"):
            self._prefix = self._target.prefill(context)
            self._prefix_age_steps = 0
        with self._clock("denoise"):
            noise = self._noise((self._target.horizon, self._codec.length)) * np.float32(self._sampling.noise_scale)
            chunk = self._target.denoise(self._prefix, context, noise, self._sampling.euler_steps)
        n_passes = record.n_expert_passes + self._sampling.euler_steps
        record = replace(record, n_actions=self._sampling.executed, n_prefills=1, n_expert_passes=n_passes)
        return Round(chunk, TokenOrigin.DECODED, record)

    def _skipped(self, draft: ChunkDraft) -> Round:
        record = RoundRecord(self._sampling.executed, source=draft.source, prefix_age_steps=self._prefix_age_steps)
        return Round(draft.chunks[0], TokenOrigin.SKIPPED, record)

    def _take(self, came: Round, route: Route) -> ChunkAnswer:
        """Un-normalise what will be executed; the first action is this step's, the others are in hand."""
        n = came.record.n_actions
        values = self._codec.denormalise_chunk(came.chunk[:n])
        tokens, origins = self._codec.encode(values), (came.origin,) * self._codec.length
        first, *rest = (Action(v, t, origins) for v, t in zip(values, tokens, strict=True))
        self._queue.extend(rest)
        self._last_gripper = float(came.chunk[n - 1, GRIPPER])
        self._prefix_age_steps += n
        self.panel.observe(came)
        return ChunkAnswer(first, route, came.record)

    def _noise(self, shape: tuple[int, ...]) -> FloatArray:
        assert self._rng is not None
        return self._rng.standard_normal(shape, dtype=np.float32)

    def _checked(self, draft: object, history: History) -> ChunkDraft:  # noqa: ARG002 (the panel's)
        return check_chunk_draft(draft, self._codec, self._target.horizon)


def _seed(now: Proprioception) -> int:
    """The same start gives the same noise, whatever ran before in this process and whichever method it is."""
    state = np.concatenate([now.joint_pos_rad, now.eef_pos_m], dtype=np.float64)
    return zlib.crc32(state.tobytes())
