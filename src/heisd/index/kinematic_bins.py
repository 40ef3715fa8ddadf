"""Discretised joint and end-effector state: the second level of the look-up.

Cells never filter: among candidates whose keys are equally near, those in cells closer to the robot's come first.
"""

import numpy as np

from heisd.errors import BadInput
from heisd.policies.proprio import FLAT_SIZE
from heisd.types import FloatArray, IntArray

POSITION_CELL_M = 0.02
JOINT_CELL_RAD = 0.1
GRIPPER_CELL_M = 0.02  # of the opening between the fingers, which is 0 to 0.08 m
N_CELLS = 11


def kinematic_bins(proprio: FloatArray) -> IntArray:
    """(…, 25) flat proprioception -> (…, 11) cell numbers: position 3, joints 7, finger opening 1.

    Orientation enters through the joints only: the sign of robosuite's quaternion is arbitrary.
    Raises BadInput for another width or numbers that are not finite.
    """
    flat = np.asarray(proprio, dtype=np.float64)
    require_flat(flat)
    opening_m = flat[..., 7:8] - flat[..., 8:9]
    scaled = [flat[..., :3] / POSITION_CELL_M, flat[..., 11:18] / JOINT_CELL_RAD, opening_m / GRIPPER_CELL_M]
    return np.floor(np.concatenate(scaled, axis=-1)).astype(np.int64)


def require_flat(proprio: FloatArray) -> None:
    """BadInput unless it is (…, 25) finite numbers."""
    if np.shape(proprio)[-1:] != (FLAT_SIZE,) or not np.isfinite(proprio).all():
        raise BadInput(f"flat proprioception is {FLAT_SIZE} finite numbers; got shape {np.shape(proprio)}")


def bin_distance(proprio: FloatArray, others: FloatArray) -> IntArray:
    """(25,) and (N, 25) -> (N,) cells between the two states, summed over the 11 coordinates."""
    return np.asarray(np.abs(kinematic_bins(others) - kinematic_bins(proprio)).sum(axis=-1))
