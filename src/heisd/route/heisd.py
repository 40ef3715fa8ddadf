"""HeiSD's routes: memory on fast straight motion, the drafter on slow curved motion, and steps nobody checks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from heisd.accept import Rule
from heisd.kinematics import MotionRanges, PhaseSignal, Reading
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.route.base import Memory, Outcome, Plan, Reason, Route, RouteKind, Sightless, counted
from heisd.route.motion import read_motion
from heisd.types import Draft

SKIPS_IN_A_ROW = 2  # the released code's 2:1 pattern; the paper's bound in this project's reading
THRESHOLD_STEP = 0.005  # of the paper's feedback, in this project's reading


@dataclass(frozen=True, slots=True)
class AdaptiveSkip:
    """The paper's verify-skip as this project reads it (HeiSD, Algorithm 1; its symbols are not defined there).

    A step may be skipped when ``evidence`` of the candidates (what exists before the language model runs) reaches a
    threshold. A verification of them that refuses position or rotation raises it by ``step``, one that accepts lowers
    it by a quarter of that, never below where it was calibrated: otherwise a long run of acceptances would undo it.
    """

    minimum: float  # calibrated
    evidence: str = "similarity"
    step: float = THRESHOLD_STEP

    def threshold(self, memory: Memory) -> float:
        """The threshold in force."""
        return self.minimum if np.isnan(memory.threshold) else memory.threshold

    def updated(self, memory: Memory, outcome: Outcome) -> float:
        """The threshold after a step."""
        now = self.threshold(memory)
        is_memorys = outcome.route.kind is RouteKind.SPECULATE and outcome.route.reason is not Reason.FINE
        if not is_memorys or not outcome.verdicts:  # on fine motion the drafter was judged, not memory
            return now
        change = self.step if memory.is_rejected else -self.step / 4
        return float(np.clip(now + change, self.minimum, 1.0))


@dataclass(frozen=True, slots=True)
class HeisdBoundary(Sightless):
    """F above theta: ``source`` proposes, skips alternate with checks. F below: the drafter. F unknown: plain decoding.

    With ``skip`` None the 2:1 pattern of the released code decides: two steps unverified, the third checked.
    The same rule with ``source="persistence"`` is the control ``hold_2to1``. Without a ``fast_rule`` nothing that
    ``source`` proposes is checked: on fast motion a step that is not skipped is decoded plainly, as in the published
    ablation (the released code's modes 1 and 2); without skips besides, ``source`` is not even asked.
    """

    ranges: MotionRanges
    fast_rule: Rule | None  # for what ``source`` proposes
    slow_rule: Rule  # for what the drafter proposes
    source: str = "retrieval"
    drafters: tuple[str, ...] = ("eagle",)
    later: tuple[str, ...] = ()  # after the first failed block: () is plain decoding, as the released code does
    n_skips: int = SKIPS_IN_A_ROW
    skip: AdaptiveSkip | None = None
    reading: Reading = Reading.FUSED  # what the boundary is drawn by

    def begin(self) -> Memory:
        """Nothing skipped, the threshold where it was calibrated."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """The readings over the window."""
        return read_motion(history, self.ranges)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002 (the protocol's)
        """Memory or the drafter, by the boundary."""
        if phase is None or math.isnan(phase.value(self.reading)):
            return Plan(())
        if phase.is_tolerant(self.reading):
            return Plan((self.source,) if self._asks_source else (), later=self.later)
        return Plan((), drafters=self.drafters, later=self.drafters)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Skip or check on the fast side, draft on the slow one."""
        value = math.nan if phase is None else phase.value(self.reading)
        if phase is None or math.isnan(value):
            return Route(RouteKind.FULL, Reason.UNKNOWN_MOTION)
        if not phase.is_tolerant(self.reading):
            return Route(RouteKind.SPECULATE, Reason.FINE, rule=self.slow_rule, score=value)
        if not drafts:
            return Route(RouteKind.FULL, Reason.NO_GUESS if self._asks_source else Reason.TOLERANT, score=value)
        if memory.n_skips >= self.n_skips:
            return self._unskipped(Reason.ENOUGH_SKIPS, value)
        if self.skip is None:
            return Route(RouteKind.SKIP, Reason.TOLERANT, tokens=drafts[0].chains[0], score=value)
        similarity = drafts[0].evidence.get(self.skip.evidence, -np.inf)
        if not similarity >= self.skip.threshold(memory):  # NaN is no reason to trust
            return self._unskipped(Reason.UNSURE, similarity)
        return Route(RouteKind.SKIP, Reason.TOLERANT, tokens=drafts[0].chains[0], score=similarity)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count skips; move the threshold."""
        after = counted(memory, outcome)
        return after if self.skip is None else replace(after, threshold=self.skip.updated(after, outcome))

    @property
    def _asks_source(self) -> bool:
        return self.n_skips > 0 or self.fast_rule is not None

    def _unskipped(self, reason: Reason, score: float) -> Route:
        """A fast step that is not skipped: checked, or decoded where nothing is to be checked."""
        kind = RouteKind.FULL if self.fast_rule is None else RouteKind.SPECULATE
        return Route(kind, reason, rule=self.fast_rule, score=score)
