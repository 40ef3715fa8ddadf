"""Proprioception as numbers a network can use: scaled, and without the quaternion's sign trap.

Flat layout (25 numbers, as the demonstrations store it): eef_pos 3, eef_quat 4 (xyzw), gripper_qpos 2,
gripper_qvel 2, joint_pos 7, joint_vel 7.

Features, in order: scaled position 3, scaled finger joints 2, scaled finger speeds 2, the first two columns of
the rotation matrix 6 (continuous over all rotations, equal for q and -q), then sin and cos of the five
scaled positions at each frequency, then (optional) sin and cos of the seven joint angles.
"""

import numpy as np

from heisd.errors import BadInput
from heisd.kinematics import quat_to_matrix
from heisd.policies.config import ProprioConfig
from heisd.types import FloatArray, Proprioception

FLAT_SIZE = 25


def flatten(proprio: Proprioception) -> FloatArray:
    """(25,) float32 in the order of the module docstring."""
    parts = (
        proprio.eef_pos_m,
        proprio.eef_quat_xyzw,
        proprio.gripper_qpos_m,
        proprio.gripper_qvel_m_s,
        proprio.joint_pos_rad,
        proprio.joint_vel_rad_s,
    )
    return np.concatenate(parts, dtype=np.float32)


def n_features(config: ProprioConfig) -> int:
    """Length of the feature vector."""
    return 13 + 10 * len(config.frequencies) + (14 if config.use_joints else 0)


def features(flat: FloatArray, config: ProprioConfig) -> FloatArray:
    """(…, 25) flat proprioception -> (…, n_features) float32. Raises BadInput on another width."""
    flat = np.asarray(flat, dtype=np.float64)
    if flat.shape[-1] != FLAT_SIZE:
        raise BadInput(f"flat proprioception has {FLAT_SIZE} numbers; got shape {flat.shape}")
    position = (flat[..., 0:3] - config.position_mean_m) / config.position_std_m
    fingers = flat[..., 7:9] / config.finger_scale_m
    speeds = np.clip(flat[..., 9:11] / config.finger_speed_m_s, -3.0, 3.0)
    columns = quat_to_matrix(flat[..., 3:7])[..., :2]
    rotation = np.swapaxes(columns, -1, -2).reshape(*flat.shape[:-1], 6)
    scaled = np.concatenate([position, fingers], axis=-1)
    parts = [position, fingers, speeds, rotation]
    for frequency in config.frequencies:
        parts += [np.sin(frequency * scaled), np.cos(frequency * scaled)]
    if config.use_joints:
        parts += [np.sin(flat[..., 11:18]), np.cos(flat[..., 11:18])]
    return np.concatenate(parts, axis=-1).astype(np.float32)
