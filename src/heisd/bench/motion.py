"""The motion of an episode as an onlooker reads it: for the report's timeline and for sums by kind of motion.

An engine's own readings may be calibrated, differ from preset to preset, or be missing altogether (plain decoding has
none). Here one set of ranges serves every method, so that what is compared is the same motion.
"""

import math
from collections import deque

import numpy as np

from heisd.bench.results import EpisodeTimeline
from heisd.kinematics import Motion, PhaseSignal, phase_signal
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.scene import GREY_SIDE, Scene
from heisd.types import FloatArray, ImageArray, Proprioception, StepRecord, TokenOrigin

REMEMBERED_POSES = 32  # control steps, as many as an engine remembers
SKIPPED, VERIFIED, DECODED = "S", "V", "F"  # how a step's action came about: nobody asked, guesses checked, neither
WAITING = "W"  # the policy was still thinking (--realtime)


class Onlooker:
    """Sees what the robot sees of itself, one control step after the other. Works outside every clock."""

    def __init__(self) -> None:
        self._poses: deque[Proprioception] = deque(maxlen=REMEMBERED_POSES)
        self._actions: deque[FloatArray] = deque(maxlen=REMEMBERED_POSES - 1)

    def read(self, proprioception: Proprioception, picture: ImageArray | None = None) -> PhaseSignal:
        """The readings of the control step that begins with this pose; nothing is computed before it is asked for.

        Only the complexity of a ``picture`` (H, W, 3) is: a tenth of a millisecond. NaN for none, or one too small.
        """
        self._poses.append(proprioception)
        actions = np.stack(self._actions) if self._actions else np.empty((0, 7))
        return phase_signal(Motion.of(tuple(self._poses), actions), ONLOOKER, complexity=_complexity(picture))

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
    timeline.fineness.append(_number(signal.fineness, 3))
    timeline.angular_jerk.append(_number(signal.angular_jerk, 3))
    timeline.complexity.append(_number(signal.complexity, 3))
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
    """Where the executed action came from, whatever the route was called, and however long ago its chunk was made.

    A speculation without guesses is plain decoding.
    """
    if TokenOrigin.SKIPPED in record.origins:
        return SKIPPED
    return VERIFIED if record.verifications or TokenOrigin.RELAXED in record.origins else DECODED


def _number(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _complexity(picture: ImageArray | None) -> float:
    if picture is None or min(picture.shape[:2]) < GREY_SIDE:
        return math.nan
    return Scene.of(picture).complexity
