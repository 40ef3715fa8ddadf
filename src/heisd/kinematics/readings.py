"""``PhaseSignal``: everything a decision may know about the motion at one control step, in one convention.

Large smooth motion is tolerant. Every reading says in which direction it runs; :meth:`PhaseSignal.tolerance` turns
those that decisions are made from so that they all run the same way, so that a skip and a demand for full precision
never rest on the same motion. A reading that is undefined is NaN and its tolerance 0: unknown means strict.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from heisd.kinematics import gripper
from heisd.kinematics.circle import displacement_m, spread_m
from heisd.kinematics.fineness import mean_rotation_change, mean_translation
from heisd.kinematics.gripper import GripperState, Phase
from heisd.kinematics.motion import Motion
from heisd.kinematics.ranges import MotionRanges, normalised
from heisd.kinematics.variability import variability
from heisd.types import FloatArray

FINENESS_SHARE = 0.5  # lambda of DyQ's sensitivity, which DyQ-VLA does not publish
FINE_THRESHOLD = 0.5  # theta_fp of DyQ-VLA: more sensitive than this asks for full precision
_PHASES = tuple(Phase)


class Reading(StrEnum):
    """The readings that a decision may be made from."""

    FUSED = "fused"  # HeiSD's F
    SPEED = "speed"  # a plain speed gate
    FINENESS = "fineness"  # DyQ's M alone: like the first two, it grows with the size of the motion
    SENSITIVITY = "sensitivity"  # DyQ's S: also less tolerant of jerky rotation


@dataclass(frozen=True)
class PhaseSignal:
    """The readings of one control step; made by :func:`phase_signal`. A reading is computed when it is first asked for.

    Each is NaN where a number it needs is missing or not finite. (+) larger is more tolerant, (-) less, (0) neither.
    """

    motion: Motion
    ranges: MotionRanges
    complexity: float = math.nan  # (0) of the picture, from ``heisd.scene.Scene``; NaN: nobody looked

    @cached_property
    def speed_mm(self) -> float:
        """(+) Millimetres moved by the last control step; NaN below two poses."""
        return 1e3 * displacement_m(self.motion.eef_pos_m[-2:])

    @cached_property
    def displacement_m(self) -> float:
        """(+) HeiSD's D over the window [m], by ``ranges.distance``; NaN below two poses."""
        return displacement_m(self._window, self.ranges.distance)

    @cached_property
    def spread_m(self) -> float:
        """(+) HeiSD's R over the window [m], by ``ranges.solver``; NaN below three poses."""
        return spread_m(self._window, self.ranges.solver)

    @cached_property
    def fused(self) -> float:
        """(+) HeiSD's F in [0, 1]; NaN below three poses."""
        r = self.ranges
        norm_r = normalised(self.spread_m, r.spread_min_m, r.spread_max_m)
        norm_d = normalised(self.displacement_m, r.displacement_min_m, r.displacement_max_m)
        return r.alpha * norm_r + (1.0 - r.alpha) * norm_d

    @cached_property
    def fineness(self) -> float:
        """(-) DyQ's M, at most 1; 0 or less in the fastest 5 % of motion; NaN without actions."""
        return 1.0 - _share(mean_translation(self.motion.actions), self.ranges.translation_high)

    @cached_property
    def angular_jerk(self) -> float:
        """(-) DyQ's J, 0 or more; NaN below two actions."""
        return _share(mean_rotation_change(self.motion.actions), self.ranges.rotation_change_high)

    @cached_property
    def sensitivity(self) -> float:
        """(-) DyQ's S, 0 or more; NaN below two actions."""
        fused = FINENESS_SHARE * self.fineness + (1.0 - FINENESS_SHARE) * self.angular_jerk
        return math.nan if math.isnan(fused) else max(0.0, fused)

    @cached_property
    def variability(self) -> float:
        """(-) KERV's K, 0 or more; NaN where nobody tells how far executed actions were from the target's own."""
        deviation = self.motion.deviation
        return math.nan if deviation is None else variability(deviation, self.ranges.action_change_sigma)

    @cached_property
    def joint_speed_rad_s(self) -> float:
        """(0) Length of the joint velocity vector now [rad/s]; NaN without one."""
        joints = self.motion.joint_vel_rad_s
        if joints is None or not len(joints):
            return math.nan
        squares = float(joints[-1] @ joints[-1])
        return math.sqrt(squares) if math.isfinite(squares) else math.nan

    @cached_property
    def gripper(self) -> GripperState:
        """(0) Commands, width and contact."""
        return gripper.read_gripper(self.motion)

    @cached_property
    def phase(self) -> Phase:
        """(0) What the hand is doing; GRASP, the strictest, where the newest command or finger width is not finite."""
        is_readable = gripper.is_readable(self.motion)
        return gripper.label_phase(self.gripper, self.speed_mm, self.ranges.speed_gate_mm, is_readable=is_readable)

    def value(self, reading: Reading) -> float:
        """The reading itself, in its own unit and direction; NaN where undefined."""
        if reading is Reading.FUSED:
            return self.fused
        if reading is Reading.SPEED:
            return self.speed_mm
        return self.fineness if reading is Reading.FINENESS else self.sensitivity

    def tolerance(self, reading: Reading) -> float:
        """How tolerant the motion is by this reading, in [0, 1], larger always more tolerant; 0 where undefined."""
        value = self._tolerance(reading)
        return 0.0 if math.isnan(value) else value

    def is_tolerant(self, reading: Reading) -> bool:
        """Whether the reading is beyond its threshold: F > theta, faster than the gate, less fine than DyQ's 0.5."""
        if reading is Reading.FUSED:
            return self.fused > self.ranges.fused_threshold
        if reading is Reading.SPEED:
            return self.speed_mm > self.ranges.speed_gate_mm
        return self.tolerance(reading) > 1.0 - FINE_THRESHOLD

    def _tolerance(self, reading: Reading) -> float:
        value = self.value(reading)
        if reading is Reading.FUSED:
            return value
        if reading is Reading.SPEED:
            return normalised(value, 0.0, self.ranges.speed_high_mm)
        return 1.0 - normalised(value, 0.0, 1.0)

    @cached_property
    def _window(self) -> FloatArray:
        return self.motion.eef_pos_m[-self.ranges.window :]


def phase_signal(motion: Motion, ranges: MotionRanges, *, complexity: float = math.nan) -> PhaseSignal:
    """The readings of the control step that begins at the last pose of ``motion``. Pure; never raises later."""
    return PhaseSignal(motion, ranges, complexity)


def summary(signal: PhaseSignal) -> dict[str, float]:
    """Every reading as a number for telemetry and plots: truth values 0 or 1, the phase its place in ``Phase``.

    NaN where undefined; a step count of no remembered change is NaN too.
    """
    state = signal.gripper
    closed, since = state.is_commanded_closed, state.steps_since_change
    return {
        "speed_mm": signal.speed_mm,
        "displacement_m": signal.displacement_m,
        "spread_m": signal.spread_m,
        "fused": signal.fused,
        "variability": signal.variability,
        "complexity": signal.complexity,
        "fineness": signal.fineness,
        "angular_jerk": signal.angular_jerk,
        "sensitivity": signal.sensitivity,
        "joint_speed_rad_s": signal.joint_speed_rad_s,
        "gripper_width_m": state.width_m,
        "gripper_closed": math.nan if closed is None else float(closed),
        "gripper_steps_since_change": math.nan if since is None else float(since),
        "holding": float(state.is_holding),
        "phase": float(_PHASES.index(signal.phase)),
    }


def _share(value: float, high: float) -> float:
    """``value / high``; of nothing: 0 where there is nothing, else 1. NaN stays NaN."""
    if high > 0:
        return value / high
    return value if math.isnan(value) else float(value > 0)
