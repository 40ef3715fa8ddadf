"""From what the engine remembers to a kinematic reading."""

from heisd.kinematics import Motion, MotionRanges, PhaseSignal, phase_signal
from heisd.propose.base import History

RECENT_POSES = 8  # enough for gripper events and DyQ's window


def read_motion(history: History, ranges: MotionRanges) -> PhaseSignal:
    """The readings of this control step."""
    return phase_signal(
        Motion.of(history.proprioception, history.actions, n_poses=max(ranges.window, RECENT_POSES)), ranges
    )
