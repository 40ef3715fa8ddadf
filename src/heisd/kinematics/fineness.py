"""DyQ-VLA's two proxies of sensitivity, from executed actions (DyQ-VLA, motion fineness and angular jerk).

    M = 1 - mean |a_xyz| / mu95  over a macro window of 10 actions
    J = mean |a_rot - a_rot before| / nu95  over a micro window of 5 changes

The note that describes them names the windows; that they average is this project's reading. mu95 and nu95 are the
95th percentiles of the same two means over demonstrations.
"""

import math

import numpy as np

from heisd.types import FloatArray

MACRO_STEPS = 10
MICRO_STEPS = 5
TRANSLATION, ROTATION = slice(0, 3), slice(3, 6)  # in an action


def mean_translation(actions: FloatArray) -> float:
    """(m, 7) actions -> mean length of the last 10 translations [action units]; NaN without actions."""
    return _mean_length(np.asarray(actions[-MACRO_STEPS:, TRANSLATION], dtype=np.float64))


def mean_rotation_change(actions: FloatArray) -> float:
    """(m, 7) actions -> mean length of the last 5 changes of the rotation [action units]; NaN below two actions."""
    turns = np.asarray(actions[-(MICRO_STEPS + 1) :, ROTATION], dtype=np.float64)
    return _mean_length(turns[1:] - turns[:-1])


def _mean_length(vectors: FloatArray) -> float:
    if not len(vectors):
        return math.nan
    mean = float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)).sum()) / len(vectors)
    return mean if math.isfinite(mean) else math.nan
