"""Rigid-body arithmetic in robosuite's conventions. Every function broadcasts over leading axes."""

import numpy as np

from heisd.types import FloatArray


def quat_to_axis_angle(quat_xyzw: FloatArray) -> FloatArray:
    """(…, 4) xyzw quaternion -> (…, 3) axis times angle [rad], exactly as robosuite does it.

    The sign of the quaternion is NOT canonicalised: the angle is ``2 acos(w)`` in [0, 2 pi], so ``q`` and
    ``-q`` give different vectors. Policies trained on robosuite states break when a library (scipy's
    ``Rotation``) flips the quaternion to w >= 0 first, and LIBERO's home pose has w just below zero.
    The identity rotation gives zeros.
    """
    quat = np.asarray(quat_xyzw, dtype=np.float64)
    w = np.clip(quat[..., 3:], -1.0, 1.0)
    sine = np.sqrt(1.0 - w**2)
    is_identity = sine < 1e-12
    scale = np.where(is_identity, 0.0, 2.0 * np.arccos(w) / np.where(is_identity, 1.0, sine))
    return np.asarray(quat[..., :3] * scale)


def quat_to_matrix(quat_xyzw: FloatArray) -> FloatArray:
    """(…, 4) xyzw quaternion (any length but zero) -> (…, 3, 3) rotation matrix; ``q`` and ``-q`` agree."""
    quat = np.asarray(quat_xyzw, dtype=np.float64)
    x, y, z, w = np.moveaxis(quat / np.linalg.norm(quat, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
