"""Routes of chunk policies: when a round may speculate, and what makes it a full one (FLASH, section on fallbacks).

Speculation reads keys and values of an earlier picture, so what ages or changes speaks against it: the number of rounds
and of control steps since they were computed, a picture unlike theirs (a camera that went dark among them), a gripper
that has just moved. Rejection needs no rule: a rejected round is a full one already.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heisd.codec import GRIPPER
from heisd.errors import BadInput
from heisd.kinematics import MotionRanges, PhaseSignal
from heisd.policies.protocol import ChunkContext
from heisd.propose.base import History
from heisd.route.base import Memory, Outcome, Plan, Reason, RoundMemory, Route, RouteKind, Sightless, counted
from heisd.route.motion import read_motion
from heisd.types import ChunkDraft, StopReason


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What makes a round a full one, besides the first and those that the last round asked for.

    Args:
        period: rounds without a full one, at most (FLASH's PF); 0: no limit.
        max_age_steps: control steps since the observation behind the cached prefix, at most.
        min_similarity: of the picture to the prefix's, by the camera that changed most; NaN never passes a bound.
        gripper_margin_steps: control steps after a gripper command during which nothing is drafted; 0: none.

    Raises BadInput for a number below 0.
    """

    period: int = 0
    max_age_steps: float = math.inf
    min_similarity: float = -math.inf
    gripper_margin_steps: int = 0

    def __post_init__(self) -> None:
        if min(self.period, self.max_age_steps, self.gripper_margin_steps) < 0:
            raise BadInput(f"fallbacks count rounds and control steps from 0 on; got {self}")

    def reason(self, context: ChunkContext, phase: PhaseSignal | None, rounds: RoundMemory) -> Reason | None:
        """The first thing that speaks against a speculation now."""
        if not rounds.has_prefix:
            return Reason.NO_PREFIX
        if rounds.is_due or (self.period and rounds.n_since_full >= self.period):
            return Reason.DUE
        if rounds.age_steps > self.max_age_steps:
            return Reason.STALE
        if self.min_similarity > -math.inf and not context.prefix_similarity >= self.min_similarity:
            return Reason.SCENE
        if phase is not None and self.gripper_margin_steps and phase.gripper.changed_within(self.gripper_margin_steps):
            return Reason.GRIPPER
        return None


@dataclass(frozen=True, slots=True)
class Rounds(Sightless):
    """Verify what ``sources`` draft, unless a fallback asks for a full round.

    With ``n_skips`` above 0 this is the composite 2:1 pattern of HeiSD's authors: on tolerant motion the best guess of
    ``skips_with`` is executed unverified, so many rounds in a row at most; a skip counts as a round without a full one.
    Only rounds without a fallback skip, and only guesses that leave the gripper as it is.
    """

    sources: tuple[str, ...]
    fallbacks: Fallbacks
    ranges: MotionRanges  # of the readings: fused motion, gripper events
    skips_with: str = ""
    n_skips: int = 0

    def begin(self) -> Memory:
        """No prefix yet."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """Readings over the last control steps, not over the last rounds."""
        return read_motion(history, self.ranges)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002 (the protocol's)
        """Whose chunk may be executed is asked first; the others only where a verification will run."""
        if not self.n_skips:
            return Plan((), drafters=self.sources)
        return Plan((self.skips_with,), drafters=tuple(s for s in self.sources if s != self.skips_with))

    def decide(
        self, context: ChunkContext, phase: PhaseSignal | None, drafts: Sequence[ChunkDraft], memory: Memory
    ) -> Route:
        """Full if something asks for it; skip where that is tolerated; otherwise verify."""
        reason = self.fallbacks.reason(context, phase, memory.rounds)
        if reason is not None:
            return Route(RouteKind.FULL, reason)
        if not self.n_skips or phase is None:
            return Route(RouteKind.SPECULATE, Reason.ALWAYS)
        fused = phase.fused
        if not fused > self.ranges.fused_threshold:  # NaN is not tolerant
            return Route(RouteKind.SPECULATE, Reason.UNKNOWN_MOTION if math.isnan(fused) else Reason.FINE, score=fused)
        if memory.n_skips >= self.n_skips:
            return Route(RouteKind.SPECULATE, Reason.ENOUGH_SKIPS, score=fused)
        guess = next((draft for draft in drafts if draft.source == self.skips_with), None)
        if guess is None:
            return Route(RouteKind.SPECULATE, Reason.NO_GUESS, score=fused)
        if (guess.chunks[0, :, GRIPPER] >= 0.0).tolist() != [phase.gripper.is_commanded_closed] * guess.chunks.shape[1]:
            return Route(RouteKind.SPECULATE, Reason.GRIPPER, score=fused)  # it is about to move, or nobody knows
        return Route(RouteKind.SKIP, Reason.TOLERANT, chunk=guess, score=fused)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count rounds and control steps since the last prefill; note a gripper that is about to move."""
        came, rounds = outcome.round, memory.rounds
        assert came is not None, "only chunk policies are routed here"
        if came.n_prefills:
            rounds = RoundMemory(has_prefix=True, age_steps=came.n_actions)
        else:
            rounds = replace(
                rounds,
                n_since_full=rounds.n_since_full + 1,
                age_steps=rounds.age_steps + came.n_actions,
                is_due=came.stop == StopReason.GRIPPER,
            )
        return replace(counted(memory, outcome), rounds=rounds)
