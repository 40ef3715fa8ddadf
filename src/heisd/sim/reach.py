"""How far the Panda reaches with its hand pointing down, and where its wrist is behind a hand that does not."""

import numpy as np

from heisd.types import FloatArray

# With the hand pointing down the wrist centre sits above and, towards the base, behind the grasp point, and a straight
# elbow lets it come this far from the shoulder.
_WRIST_UP_M, _WRIST_BACK_M, REACH_M = 0.21, 0.088, 0.69
_FOREARM_M = 0.13  # how far the Panda's link 5 stands out sideways


def wrist_m(hand_m: FloatArray, approach: FloatArray, shoulder_m: FloatArray) -> FloatArray:
    """(2, 3) the two ends of the wrist when the hand (3,) points along the unit vector ``approach`` (3,), about.

    The first is where its axes meet, the second what the forearm ends in beside that.
    """
    behind = hand_m - _WRIST_UP_M * approach
    back = shoulder_m - behind
    back = back - (back @ approach) * approach
    back /= np.linalg.norm(back)
    centre = behind + _WRIST_BACK_M * back
    return np.stack([centre, centre + _FOREARM_M * np.cross(approach, back)])


def stretch_m(hand_m: FloatArray, shoulder_m: FloatArray) -> float:
    """Distance from the shoulder to the wrist of the down-pointing hand."""
    across = np.linalg.norm(hand_m[:2] - shoulder_m[:2]) - _WRIST_BACK_M
    return float(np.hypot(across, hand_m[2] + _WRIST_UP_M - shoulder_m[2]))


def reach_excess(hand_m: FloatArray, shoulder_m: FloatArray, *, margin_m: float = 0.0) -> float:
    """How far [m] beyond the arm's reach, less a margin, a position (3,) of the down-pointing hand is; 0 inside."""
    return max(0.0, stretch_m(hand_m, shoulder_m) - REACH_M + margin_m)


def ceiling(hand_m: FloatArray, shoulder_m: FloatArray) -> float:
    """Greatest height [m] the arm reaches right above or below the hand (3,); never below where the hand is."""
    across = np.linalg.norm(hand_m[:2] - shoulder_m[:2]) - _WRIST_BACK_M
    rise = np.sqrt(np.maximum(0.0, REACH_M**2 - across**2))
    return float(max(hand_m[2], shoulder_m[2] - _WRIST_UP_M + rise))
