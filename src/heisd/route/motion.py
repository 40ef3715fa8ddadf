"""From what the engine remembers to a kinematic reading."""

from heisd.kinematics import Motion, MotionRanges, PhaseSignal, phase_signal
from heisd.propose.base import History

RECENT_POSES = 8  # enough for gripper events and DyQ's window


def read_motion(history: History, ranges: MotionRanges, *, n_poses: int | None = None) -> PhaseSignal:
    """The readings of this control step, over as many poses as they need; with 0 KERV's variability alone."""
    n_poses = max(ranges.window, RECENT_POSES) if n_poses is None else n_poses
    motion = Motion.of(history.proprioception, history.actions, n_poses=n_poses, deviation=history.deviation)
    return phase_signal(motion, ranges)
