"""Routes of chunk policies: when a round may speculate, and what makes it a full one (FLASH, section on fallbacks).

Speculation reads keys and values of an earlier picture, so what ages or changes speaks against it: the number of rounds
and of control steps since they were computed, a picture unlike theirs (a camera that went dark among them), a gripper
that has just moved. Rejection needs no rule: a rejected round is a full one already.

Two looks at the pictures do not replace each other. The watch compares a round's with those of the round before, and
finds faults of a camera; a scene that has slowly become another one raises no alarm. ``Fallbacks.min_similarity``
compares with the picture behind the cached prefix, which is what a verification reads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heisd.errors import BadInput
from heisd.kinematics import MotionRanges, PhaseSignal
from heisd.policies.protocol import ChunkContext
from heisd.propose.base import History
from heisd.route.base import Memory, Outcome, Plan, Reason, RoundMemory, Route, RouteKind, counted
from heisd.route.chunk_skips import SkipRule
from heisd.route.motion import read_motion
from heisd.route.watching import Watching, withdrawal
from heisd.types import ChunkDraft, StopReason
from heisd.watch import Watch


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

    def known(self, phase: PhaseSignal | None, rounds: RoundMemory) -> Reason | None:
        """The first thing that speaks against a speculation now, whatever the picture shows."""
        if not rounds.has_prefix:
            return Reason.NO_PREFIX
        if rounds.is_due or (self.period and rounds.n_since_full >= self.period):
            return Reason.DUE
        if rounds.age_steps > self.max_age_steps:
            return Reason.STALE
        if phase is not None and self.gripper_margin_steps and phase.gripper.changed_within(self.gripper_margin_steps):
            return Reason.GRIPPER
        return None

    def seen(self, context: ChunkContext) -> Reason | None:
        """Whether the picture speaks against it."""
        if self.min_similarity > -math.inf and not context.prefix_similarity >= self.min_similarity:
            return Reason.SCENE
        return None


@dataclass(frozen=True, slots=True)
class Rounds(Watching):
    """Verify what ``sources`` draft, unless a fallback asks for a full round, or an alarm of the watch holds.

    ``skip`` may execute a guess unverified where no fallback speaks; a skip counts as a round without a full one.
    ``calm_executed`` is what the engine is told to execute of a denoised chunk that leaves the gripper alone.
    """

    sources: tuple[str, ...]
    fallbacks: Fallbacks
    ranges: MotionRanges  # of the readings: fused motion, gripper events
    skip: SkipRule | None = None  # None: nothing goes unverified
    watch: Watch | None = None  # what withdraws speculation and skips, and for how long; None: nothing does
    calm_executed: int | None = None  # None: as much as of any

    @property
    def asked(self) -> tuple[str, ...]:
        """Everybody who may be asked."""
        return tuple(dict.fromkeys((*self.sources, *(() if self.skip is None else self.skip.scouts))))

    def begin(self) -> Memory:
        """No prefix yet."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """Readings over the last control steps, not over the last rounds."""
        return read_motion(history, self.ranges)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:
        """Whose chunk may be executed is asked first; the others only where a verification will run.

        Where a skip is ruled out, everybody is asked for the verification alone; where a full round is certain, nobody.
        """
        if self._full(phase, memory) is not None:
            return Plan(())
        if self.skip is None or self.skip.ruled_out(phase, memory) is not None:
            return Plan((), drafters=self.sources)
        looks = self.skip.looks(phase, memory)
        asked = self.skip.scouts if looks else ()  # behind a look everybody is asked anew
        return Plan(self.skip.scouts, tuple(s for s in self.sources if s not in asked), looks=looks)

    def decide(
        self, context: ChunkContext, phase: PhaseSignal | None, drafts: Sequence[ChunkDraft], memory: Memory
    ) -> Route:
        """Full if something asks for it; skip where that is allowed; otherwise verify."""
        reason = self._full(phase, memory) or self.fallbacks.seen(context)
        if reason is not None:
            return Route(RouteKind.FULL, reason)
        if self.skip is None or phase is None:
            return Route(RouteKind.SPECULATE, Reason.ALWAYS)
        return self.skip.judge(phase, drafts, memory)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count rounds and control steps since the last prefill; note a gripper that is about to move."""
        came, rounds = outcome.round, memory.rounds
        assert came is not None, "only chunk policies are routed here"
        if came.n_prefills:
            n = came.n_actions
            rounds = RoundMemory(
                has_prefix=True,
                age_steps=n,
                unseen_steps=n,
                n_actions=n,
                rest_moves_gripper=outcome.rest_moves_gripper,
            )
        else:
            rounds = replace(
                rounds,
                n_since_full=rounds.n_since_full + 1,
                age_steps=rounds.age_steps + came.n_actions,
                n_unseen=0 if outcome.looked else rounds.n_unseen + 1,
                unseen_steps=came.n_actions + (0 if outcome.looked else rounds.unseen_steps),
                is_due=came.stop == StopReason.GRIPPER,
                n_actions=came.n_actions,
                rest_moves_gripper=outcome.rest_moves_gripper,
            )
        return replace(counted(self.noted(memory, outcome), outcome), rounds=rounds)

    def _full(self, phase: PhaseSignal | None, memory: Memory) -> Reason | None:
        """What makes this round a full one, as far as it is known before anything is encoded."""
        return withdrawal(memory) or self.fallbacks.known(phase, memory.rounds)
