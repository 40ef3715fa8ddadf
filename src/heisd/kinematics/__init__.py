"""How the robot moves: rigid-body arithmetic and the readings of one control step. numpy only.

``Motion`` (the last steps) and ``MotionRanges`` (what is usual in a suite) give one ``PhaseSignal`` per control step.
One convention for every decision made from it: large smooth motion is tolerant (docs/kinematics.md).
"""

from heisd.kinematics.calibration import fit_ranges
from heisd.kinematics.circle import Distance, Solver, displacement_m, spread_m
from heisd.kinematics.gripper import GripperState, Phase, read_gripper
from heisd.kinematics.motion import Motion
from heisd.kinematics.ranges import MotionRanges, with_heisd_code_bounds
from heisd.kinematics.readings import PhaseSignal, Reading, phase_signal, summary
from heisd.kinematics.rotations import quat_to_axis_angle, quat_to_matrix
from heisd.kinematics.variability import bin_sizes, faded, fit_variability_high, variability

__all__ = [
    "Distance",
    "GripperState",
    "Motion",
    "MotionRanges",
    "Phase",
    "PhaseSignal",
    "Reading",
    "Solver",
    "bin_sizes",
    "displacement_m",
    "faded",
    "fit_ranges",
    "fit_variability_high",
    "phase_signal",
    "quat_to_axis_angle",
    "quat_to_matrix",
    "read_gripper",
    "spread_m",
    "summary",
    "variability",
    "with_heisd_code_bounds",
]
