"""Ranges for where nothing was calibrated: onlookers that compare methods, and methods without a calibration file."""

from heisd.kinematics.circle import Distance, Solver
from heisd.kinematics.ranges import MotionRanges

# HeiSD's released window, centroid and distance. The bounds are those of this project's scripted demonstrations of
# libero_object and libero_spatial, on which the two agree within 1 % (D 0.140 and 0.141 m, R 17.2 and 17.3 mm); the
# speed gate is the slower of their 25th percentiles (8.6 and 5.5 mm per control step).
LIBERO = MotionRanges(
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
