"""KERV's routes: drafts at every step, a filter that completes the action, a tolerance that follows the motion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from heisd.accept import KERV_TOLERANCE_BINS, kinematic_tolerance_bins, relaxed, scheduled_tolerance_bins
from heisd.errors import BadInput
from heisd.kinematics import MotionRanges, PhaseSignal, variability_update
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
from heisd.types import Draft, TokenOrigin

COOLDOWN_STEPS = 4  # of plain speculation after a compensation (paper)
CODE_PERIOD = 4  # every fourth step is completed by the filter (released code)
COMPLETES_FROM = 3  # tokens: the position must be settled before the filter may fill the rest


@dataclass(frozen=True, slots=True)
class KervPaper(Sightless):
    """Compensation whenever it is not cooling down, tolerance from kinematic variability (KERV, section 4)."""

    ranges: MotionRanges  # with ``variability_high``
    bin_sizes: tuple[float, ...]  # (T,) action units per bin, heisd.kinematics.bin_sizes
    drafter: str = "eagle"
    filter: str = "kalman"
    tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS

    def __post_init__(self) -> None:
        if self.ranges.variability_high is None:
            raise BadInput("KERV's tolerance needs ranges with a fitted variability_high; run heisd calibrate")

    def begin(self) -> Memory:
        """No variability yet: the widest tolerance."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002 (the protocol's)
        """Variability comes from verdicts, not from the arm."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The drafter behind the prefill."""
        return Plan((), later=(self.drafter,))

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Speculate; complete by the filter unless it is cooling down."""
        assert self.ranges.variability_high is not None
        r_bins = kinematic_tolerance_bins(memory.variability, self.ranges.variability_high, self.tolerance_range_bins)
        rule = partial(relaxed, tolerance_bins=r_bins)
        if memory.cooldown:
            return Route(RouteKind.SPECULATE, Reason.COOLDOWN, rule=rule, score=r_bins)
        return Route(
            RouteKind.SPECULATE, Reason.COMPENSATION, rule=rule, score=r_bins,
            completed_by=self.filter, completes_from=COMPLETES_FROM,
        )  # fmt: skip

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Cool down after a compensation; fold the accepted deviations into K_var."""
        has_filled = any(TokenOrigin.COMPENSATED in verdict.origins for verdict in outcome.verdicts)
        after = counted(memory, outcome, cooldown=COOLDOWN_STEPS if has_filled else 0)
        return _varied(after, outcome, self.bin_sizes, self.ranges.action_change_sigma)


@dataclass(frozen=True, slots=True)
class AdaptiveTolerance(Sightless):
    """KERV's threshold adjustment alone: nothing is skipped, nothing is completed, r follows the variability.

    Raises BadInput for a ``variability_high`` that is not a positive number, a range that is not
    ``0 <= r_min <= r_max``, and another number of sigmas than of bin sizes.
    """

    variability_high: float  # K_hi
    bin_sizes: tuple[float, ...]  # (T,) action units per bin, heisd.kinematics.bin_sizes
    action_change_sigma: tuple[float, ...]  # (T,) standard deviation of the frame-to-frame change [action units]
    drafters: tuple[str, ...]  # asked before every forward
    tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS

    def __post_init__(self) -> None:
        self._tolerance_bins(0.0)
        if len(self.bin_sizes) != len(self.action_change_sigma):
            raise BadInput(
                f"action_change_sigma has one number for each of the {len(self.bin_sizes)} dimensions of an action; "
                f"got {len(self.action_change_sigma)}"
            )

    def begin(self) -> Memory:
        """No variability yet: the widest tolerance."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002
        """Variability comes from verdicts, not from the arm."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The same at every step."""
        return Plan((), self.drafters, self.drafters)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Check what there is within today's tolerance."""
        r_bins = self._tolerance_bins(memory.variability)
        return replace(CHECK, rule=partial(relaxed, tolerance_bins=r_bins), score=r_bins)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Fold the accepted deviations into K_var."""
        return _varied(counted(memory, outcome), outcome, self.bin_sizes, self.action_change_sigma)

    def _tolerance_bins(self, variability: float) -> int:
        return kinematic_tolerance_bins(variability, self.variability_high, self.tolerance_range_bins)


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


def _varied(memory: Memory, outcome: Outcome, bin_sizes: Sequence[float], sigma: Sequence[float]) -> Memory:
    deviations = accepted_deviations_bins(outcome)
    return replace(memory, variability=variability_update(memory.variability, deviations, np.asarray(bin_sizes), sigma))


def accepted_deviations_bins(outcome: Outcome) -> list[int]:
    """(T,) bins between each kept-though-different token of the executed action and the target's; 0 elsewhere."""
    bins: list[int] = [0] * len(outcome.tokens)
    for position, verdict in zip(outcome.positions, outcome.verdicts, strict=True):
        for i, (origin, deviation) in enumerate(zip(verdict.origins, verdict.deviation_bins, strict=True)):
            if origin is TokenOrigin.RELAXED:
                bins[position + i] = deviation
    return bins
