"""Pure geometry of moving a hand over a table: funnels, arcs, corridors, meeting what is carried along."""

import numpy as np

from heisd.sim.reach import REACH_M, stretch_m
from heisd.types import FloatArray

LAG_S = 0.125  # at the expert's gain the hand trails a moving point by what that point covers in this time
_PACE_M_S = 0.24  # of the hand on a free way
_LONGEST_LEAD_S = 1.5


def up(height_m: float) -> FloatArray:
    """(3,) a displacement straight up."""
    return np.array([0.0, 0.0, height_m])


def wrap_yaw(yaw_rad: float) -> float:
    """The equivalent gripper yaw in [-pi/2, pi/2): half a turn is the same grasp."""
    return float((yaw_rad + np.pi / 2) % np.pi - np.pi / 2)


def turn_between(start: FloatArray, end: FloatArray) -> float:
    """Angle [rad] in [-pi, pi] about the vertical from one vector (2 or more,) to another, as seen from above."""
    return float(np.arctan2(start[0] * end[1] - start[1] * end[0], start[0] * end[0] + start[1] * end[1]))


def ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high``, a straight line between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def limit(vector: FloatArray, norm: float) -> FloatArray:
    """The vector, shortened to at most this norm: direction is kept, unlike clipping each axis."""
    return vector * min(1.0, norm / max(float(np.linalg.norm(vector)), 1e-9))


def travel(move_m: FloatArray, blend_m: float, bend_rad: float) -> FloatArray:
    """(3,) the displacement, sideways only as far as the height allows, on an arc instead of a line.

    ``blend_m`` below the wanted height the sideways part begins; ``bend_rad`` turns the heading while far.
    """
    distance = float(np.linalg.norm(move_m[:2]))
    angle = bend_rad * ramp(distance, 0.02, 0.12)
    cosine, sine = np.cos(angle), np.sin(angle)
    freedom = 1.0 if distance < 0.02 else 1.0 - ramp(float(move_m[2]), blend_m * 0.4, blend_m)
    x, y = move_m[:2] * freedom
    return np.array([cosine * x - sine * y, sine * x + cosine * y, move_m[2]])


def corridor_height(obstacles: FloatArray, start_m: FloatArray, end_m: FloatArray, radius_m: float) -> float:
    """Height of the tallest of (V, 3) points ahead, within a radius of the horizontal segment; -inf for none."""
    along = end_m[:2] - start_m[:2]
    length = max(float(np.linalg.norm(along)), 1e-6)
    offset = obstacles[:, :2] - start_m[:2]
    ahead = offset @ along / length
    gap = np.linalg.norm(offset - np.clip(ahead, 0.0, length)[:, None] * along / length, axis=1)
    return float(obstacles[(gap < radius_m) & (ahead > 0.02), 2].max(initial=-np.inf))


def trap(hand_m: FloatArray, move_m: FloatArray, shoulder_m: FloatArray) -> float:
    """0 to 1: how much straighter the elbow is here than where ``move_m`` leads.

    With the elbow at its stop the controller balances position against orientation and stays where it is.
    """
    here, there = (ramp(stretch_m(at, shoulder_m), REACH_M - 0.025, REACH_M) for at in (hand_m, hand_m + move_m))
    return max(0.0, here - there)


def lead_s(apart_m: float) -> float:
    """How far ahead [s] to aim at something carried along, this far away on the plane, so that the hand meets it."""
    return min(LAG_S + apart_m / _PACE_M_S, _LONGEST_LEAD_S)
