"""The motion of an episode as an onlooker reads it: for the report's timeline and for sums by kind of motion.

An engine's own readings may be calibrated, differ from preset to preset, or be missing altogether (plain decoding has
none). Here one set of ranges serves every method, so that what is compared is the same motion.
"""

import math
from collections import deque

import numpy as np

from heisd.bench.results import EpisodeTimeline
from heisd.kinematics import Distance, Motion, MotionRanges, PhaseSignal, Solver, phase_signal
from heisd.types import FloatArray, Proprioception, StepRecord

REMEMBERED_POSES = 32  # control steps, as many as an engine remembers
SKIPPED, VERIFIED, DECODED = "S", "V", "F"  # how a step's action came about: nobody asked, guesses checked, neither
WAITING = "W"  # the policy was still thinking (--realtime)

# HeiSD's released window, centroid and distance. The bounds are those of this project's scripted demonstrations of
# libero_object and libero_spatial, on which the two agree within 1 % (D 0.140 and 0.141 m, R 17.2 and 17.3 mm); the
# speed gate is the slower of their 25th percentiles (8.6 and 5.5 mm per control step).
ONLOOKER = MotionRanges(
    suite="libero",
    window=5,
    alpha=0.5,
    solver=Solver.CENTROID,
    distance=Distance.LAST_POINT,
    displacement_min_m=0.0008,
    displacement_max_m=0.140,
    spread_min_m=0.00013,
    spread_max_m=0.0172,
    fused_threshold=0.38,
    speed_gate_mm=5.5,
    speed_high_mm=14.4,
    translation_high=0.97,
    rotation_change_high=0.036,
    action_change_sigma=(0.07, 0.08, 0.15, 0.0075, 0.011, 0.016, 0.24),
)


class Onlooker:
    """Sees what the robot sees of itself, one control step after the other. Works outside every clock."""

    def __init__(self) -> None:
        self._poses: deque[Proprioception] = deque(maxlen=REMEMBERED_POSES)
        self._actions: deque[FloatArray] = deque(maxlen=REMEMBERED_POSES - 1)

    def read(self, proprioception: Proprioception) -> PhaseSignal:
        """The readings of the control step that begins with this pose; nothing is computed before it is asked for."""
        self._poses.append(proprioception)
        actions = np.stack(self._actions) if self._actions else np.empty((0, 7))
        return phase_signal(Motion.of(tuple(self._poses), actions), ONLOOKER)

    def acted(self, values: FloatArray) -> None:
        """The step ends with this (7,) action, in the environment's convention."""
        self._actions.append(np.asarray(values, dtype=np.float64))


def add_to(timeline: EpisodeTimeline, signal: PhaseSignal, record: StepRecord, values: FloatArray) -> None:
    """Append one control step: what was seen, what was decided, what was executed."""
    timeline.route.append(route_letter(record))
    timeline.reason.append(record.reason)
    timeline.score.append(_number(record.score, 4))
    _add_motion(timeline, signal, values)
    timeline.n_accepted.append(record.n_accepted)


def _add_motion(timeline: EpisodeTimeline, signal: PhaseSignal, values: FloatArray) -> None:
    timeline.speed_mm.append(_number(signal.speed_mm, 2))
    timeline.fused.append(_number(signal.fused, 3))
    timeline.gripper.append(_number(float(values[-1]), 3))
    timeline.phase.append(signal.phase.value)


def add_waiting(timeline: EpisodeTimeline, signal: PhaseSignal, values: FloatArray) -> None:
    """Append one control step for which the policy had no answer; ``values`` (7,) is what was in force."""
    timeline.route.append(WAITING)
    timeline.reason.append("the policy is thinking")
    timeline.score.append(None)
    _add_motion(timeline, signal, values)
    timeline.n_accepted.append(0)


def route_letter(record: StepRecord) -> str:
    """What became of a step, whatever its route was called: a speculation without guesses is plain decoding."""
    if not record.lm_forwards:
        return SKIPPED
    return VERIFIED if record.verifications else DECODED


def _number(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
