"""KERV's routes: drafts at every step, a filter that completes the action, a tolerance that follows the motion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from heisd.accept import KERV_TOLERANCE_BINS, kinematic_tolerance_bins, relaxed, scheduled_tolerance_bins
from heisd.errors import BadInput
from heisd.kinematics import MotionRanges, PhaseSignal
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.route.base import (
    CHECK,
    Memory,
    Outcome,
    Plan,
    Reason,
    Route,
    RouteKind,
    Sightless,
    counted,
)
from heisd.route.motion import read_motion
from heisd.types import Draft, TokenOrigin

COOLDOWN_STEPS = 4  # of plain speculation after a compensation (paper)
CODE_PERIOD = 4  # every fourth step is completed by the filter (released code)
COMPLETES_FROM = 3  # tokens: the position must be settled before the filter may fill the rest


@dataclass(frozen=True, slots=True)
class KervPaper(Sightless):
    """Compensation whenever it is not cooling down, tolerance from kinematic variability (KERV, section 4)."""

    ranges: MotionRanges  # with ``variability_high``
    drafter: str = "eagle"
    filter: str = "kalman"
    tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS

    def __post_init__(self) -> None:
        _require_variability(self.ranges)

    def begin(self) -> Memory:
        """No cooldown."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """The variability is among the readings."""
        return read_motion(history, self.ranges)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The drafter behind the prefill."""
        return Plan((), later=(self.drafter,))

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Speculate; complete by the filter unless it is cooling down."""
        r_bins = _tolerance_bins(phase, self.ranges, self.tolerance_range_bins)
        rule = partial(relaxed, tolerance_bins=r_bins)
        if memory.cooldown:
            return Route(RouteKind.SPECULATE, Reason.COOLDOWN, rule=rule, score=r_bins)
        return Route(
            RouteKind.SPECULATE, Reason.COMPENSATION, rule=rule, score=r_bins,
            completed_by=self.filter, completes_from=COMPLETES_FROM,
        )  # fmt: skip

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Cool down after a compensation."""
        has_filled = any(TokenOrigin.COMPENSATED in verdict.origins for verdict in outcome.verdicts)
        return counted(memory, outcome, cooldown=COOLDOWN_STEPS if has_filled else 0)


@dataclass(frozen=True, slots=True)
class AdaptiveTolerance(Sightless):
    """KERV's threshold adjustment alone: nothing is skipped, nothing is completed, r follows the variability.

    Raises BadInput for ranges without a ``variability_high`` and for a range that is not ``0 <= r_min <= r_max``.
    """

    ranges: MotionRanges  # with ``variability_high``; beside it only ``action_change_sigma`` decides
    drafters: tuple[str, ...]  # asked before every forward
    tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS

    def __post_init__(self) -> None:
        _require_variability(self.ranges)
        _tolerance_bins(None, self.ranges, self.tolerance_range_bins)

    def begin(self) -> Memory:
        """Nothing to know."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """The variability; poses of any robot are left alone."""
        return read_motion(history, self.ranges, n_poses=0)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The same at every step."""
        return Plan((), self.drafters, self.drafters)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Check what there is within today's tolerance."""
        r_bins = _tolerance_bins(phase, self.ranges, self.tolerance_range_bins)
        return replace(CHECK, rule=partial(relaxed, tolerance_bins=r_bins), score=r_bins)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count the steps."""
        return counted(memory, outcome)


@dataclass(frozen=True, slots=True)
class KervCode(Sightless):
    """The released code: the filter completes every fourth step, the tolerance falls with the step, 15 to 3 bins."""

    drafter: str = "eagle"
    filter: str = "kalman_code"
    horizon: int = 300

    def begin(self) -> Memory:
        """The first step."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002
        """No reading is needed."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The drafter and the filter's chain behind the prefill."""
        return Plan((), later=(self.drafter, self.filter))

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """By the number of the step alone."""
        r_bins = scheduled_tolerance_bins(memory.step, horizon=self.horizon)
        rule = partial(relaxed, tolerance_bins=r_bins)
        is_forced = (memory.step + 1) % CODE_PERIOD == 0
        reason = Reason.COMPENSATION if is_forced else Reason.COOLDOWN
        return Route(
            RouteKind.SPECULATE, reason, rule=rule, score=r_bins, completed_by=self.filter if is_forced else ""
        )

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count the steps."""
        return counted(memory, outcome)


def _tolerance_bins(phase: PhaseSignal | None, ranges: MotionRanges, range_bins: tuple[int, int]) -> int:
    """Today's r; the strictest where the variability is unknown."""
    assert ranges.variability_high is not None
    variability = math.nan if phase is None else phase.variability
    return kinematic_tolerance_bins(variability, ranges.variability_high, range_bins)


def _require_variability(ranges: MotionRanges) -> None:
    if ranges.variability_high is None:
        raise BadInput("KERV's tolerance needs ranges with a fitted variability_high; run heisd calibrate")
