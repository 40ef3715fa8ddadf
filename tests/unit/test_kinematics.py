"""The quaternion trap, and rotation matrices against their axioms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from heisd.kinematics import quat_to_axis_angle, quat_to_matrix


def test_axis_angle_of_a_negative_w_is_not_canonicalised() -> None:
    """LIBERO's home pose has w just below zero: robosuite says +3.14…, scipy says -3.14…"""
    w = -9.4e-5
    quat = np.array([0.9996, 0.0, -0.02827, w])
    quat[:3] *= np.sqrt(1 - w**2) / np.linalg.norm(quat[:3])
    ours, scipys = quat_to_axis_angle(quat), Rotation.from_quat(quat).as_rotvec()
    assert ours[0] > 3.13
    assert scipys[0] < -3.13
    assert np.linalg.norm(ours) > np.pi


def test_axis_angle_agrees_with_scipy_where_w_is_positive(rng: np.random.Generator) -> None:
    quats = rng.normal(size=(200, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    quats[:, 3] = np.abs(quats[:, 3])
    np.testing.assert_allclose(quat_to_axis_angle(quats), Rotation.from_quat(quats).as_rotvec(), atol=1e-9)


def test_axis_angle_leaves_its_argument_alone_and_maps_identity_to_zero() -> None:
    quat = np.array([0.0, 0.0, 0.0, 1.0000001])
    np.testing.assert_array_equal(quat_to_axis_angle(quat), np.zeros(3))
    assert quat[3] == 1.0000001


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_matrix_agrees_with_scipy_for_both_signs(rng: np.random.Generator, sign: float) -> None:
    quats = rng.normal(size=(50, 4))
    np.testing.assert_allclose(quat_to_matrix(sign * quats), Rotation.from_quat(quats).as_matrix(), atol=1e-12)
