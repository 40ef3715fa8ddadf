"""Joints and touches: their geometry, without a simulator."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from heisd.sim.experts.articulated import Follow, Touch, _approaches, _long_axis, aim, facing, wrist_cost_m
from heisd.sim.experts.grasps import contact_cost_m, volume_cost_m
from heisd.sim.experts.primitives import Hand
from heisd.sim.experts.slanted import into_table_m
from heisd.sim.reach import wrist_m
from heisd.sim.scene import Goal, Joint, Pose

BODY = Pose(np.array([0.1, -0.2, 0.9]), Rotation.from_euler("z", 0.3).as_matrix())


def joint(*, is_hinge: bool, position: float = 0.0, limits=(-0.16, 0.01), axis=(0.0, 0.6, 0.8)) -> Joint:
    return Joint(is_hinge, np.array(axis), np.array([0.2, 0.1, 1.0]), position, limits, BODY)


@pytest.mark.parametrize("is_hinge", [True, False])
def test_two_moves_of_a_joint_are_one_and_back_again_is_none(is_hinge):
    moving = joint(is_hinge=is_hinge)
    twice, once = moving.carry(moving.carry(BODY, 0.4), 0.3), moving.carry(BODY, 0.7)
    assert np.allclose(twice.position_m, once.position_m)
    assert np.allclose(twice.rotation, once.rotation)
    assert np.allclose(moving.carry(once, -0.7).position_m, BODY.position_m)


def test_a_hinge_keeps_distances_from_its_axis_and_a_slide_keeps_orientations():
    hinge, slide = joint(is_hinge=True), joint(is_hinge=False)
    far = hinge.carry(BODY, 1.1).position_m
    assert hinge.lever_m(far) == pytest.approx(hinge.lever_m(BODY.position_m))
    assert (far - hinge.anchor_m) @ hinge.axis == pytest.approx((BODY.position_m - hinge.anchor_m) @ hinge.axis)
    assert np.array_equal(slide.carry(BODY, 0.1).rotation, BODY.rotation)
    assert slide.lever_m(BODY.position_m) == pytest.approx(1.0)


@pytest.mark.parametrize("is_hinge", [True, False])
def test_the_heading_is_how_a_point_moves_per_unit_of_position(is_hinge):
    moving = joint(is_hinge=is_hinge)
    ahead, behind = (moving.carry(BODY, by).position_m for by in (1e-6, -1e-6))
    assert np.allclose(moving.heading(BODY.position_m), (ahead - behind) / 2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("is_hinge", "position", "wanted", "expected"),
    [
        (False, 0.0, (-0.16, -0.14), -0.15),  # a drawer to open
        (False, -0.147, (0.0, 0.005), 0.005),  # and to close: less room behind the edge than one would like
        (False, -0.15, (-0.16, -0.14), -0.15),  # it is open
        (False, 0.0, (-0.2, -0.155), -0.16),  # wanted beyond what the joint allows
        (True, 0.0, (0.5, 2.1), 0.8),
        (True, -1.5, (-0.005, 0.0), 0.0),
    ],
)
def test_the_aim_is_a_little_inside_what_is_wanted(is_hinge, position, wanted, expected):
    limits = (-2.0, 2.1) if is_hinge else (-0.16, 0.01)
    assert aim(joint(is_hinge=is_hinge, position=position, limits=limits), wanted) == pytest.approx(expected)


def test_facing_points_the_fingers_and_prefers_the_half_turn_nearer_home():
    for approach, tilt_rad in _approaches(np.array([0.6, -0.8, 0.0])):
        closing = np.cross(approach, [0.8, 0.6, 0.0])
        rotation = facing(approach, closing)
        assert np.allclose(rotation.T @ rotation, np.eye(3))
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert np.allclose(rotation[:, 2], approach)
        assert abs(rotation[:, 1] @ closing) == pytest.approx(1.0)
        assert np.array_equal(rotation, facing(approach, -closing))
        assert approach[2] == pytest.approx(-np.cos(tilt_rad))
        home = Rotation.from_euler("x", np.pi)
        angles = [(Rotation.from_matrix(r) * home.inv()).magnitude() for r in (rotation, rotation * [-1.0, -1.0, 1.0])]
        assert angles[0] <= angles[1]


@pytest.mark.parametrize("yaw_deg", [-100.0, -80.0, 80.0, 100.0])
def test_of_two_half_turns_as_far_from_home_the_wrist_takes_the_one_it_is_nearer_to(yaw_deg):
    approach, closing = np.array([0.0, 0.5, -np.sqrt(0.75)]), np.array([-1.0, 0.0, 0.0])
    home, now = (
        Rotation.from_euler("z", yaw, degrees=True) * Rotation.from_euler("x", np.pi) for yaw in (0.0, yaw_deg)
    )
    rotation = facing(approach, closing, near=home.as_matrix() + now.as_matrix())
    turned = Rotation.from_matrix(rotation * [-1.0, -1.0, 1.0])
    to_it, to_other = ((r * now.inv()).magnitude() for r in (Rotation.from_matrix(rotation), turned))
    assert to_it < to_other
    assert np.allclose(rotation[:, 2], approach)


def test_what_is_held_turns_the_hand_and_what_is_pushed_does_not():
    turn = np.eye(3)
    door = joint(is_hinge=True, axis=(0.0, 0.0, 1.0))
    held, pushed = (Touch(Goal("close", ("door",)), None, is_held, rotation=turn) for is_held in (True, False))
    for touch in (held, pushed):
        touch.hand_in_part = Pose(door.body.to_body(np.array([0.3, 0.1, 1.0])), door.body.rotation.T @ turn)
    expected = Rotation.from_euler("z", 0.5).as_matrix()
    assert np.allclose(held.pose(door, 0.5).rotation, expected)
    assert np.array_equal(pushed.pose(door, 0.5).rotation, turn)
    for touch in (held, pushed):
        assert np.allclose(touch.pose(door).position_m, [0.3, 0.1, 1.0])
        assert np.allclose(touch.pose(door, 0.5).position_m, [0.2 + 0.1 * np.cos(0.5), 0.1 + 0.1 * np.sin(0.5), 1.0])


def test_turning_into_an_orientation_is_the_rotation_that_is_missing():
    rng = np.random.default_rng(0)
    for _ in range(20):
        now, wanted = Rotation.random(2, random_state=rng)
        hand = Hand(np.zeros(3), now.as_matrix(), 0.08, 0.0)
        assert np.allclose(
            (Rotation.from_rotvec(hand.turn_into(wanted.as_matrix())) * now).as_matrix(), wanted.as_matrix()
        )


def test_the_long_axis_of_a_bar_is_found_and_always_the_same_way_round():
    bar = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 3)) * [0.01, 0.05, 0.01]
    turn = Rotation.from_euler("z", 0.4)
    assert _long_axis(turn.apply(bar)) @ turn.apply([0.0, 1.0, 0.0]) == pytest.approx(1.0, abs=1e-2)
    assert np.allclose(_long_axis(turn.apply(bar)), _long_axis(-turn.apply(bar)))


def test_what_is_inside_the_wrist_costs_more_than_what_is_close_to_it_and_the_rest_nothing():
    pose, shoulder_m = (
        Pose(np.array([0.0, 0.1, 0.95]), facing(np.array([0.0, 0.6, -0.8]), np.array([-1.0, 0.0, 0.0]))),
        np.zeros(3),
    )
    ends = wrist_m(pose.position_m, pose.rotation[:, 2], shoulder_m)
    aside = np.cross(ends[1] - ends[0], [0.0, 1.0, 0.0])
    aside /= np.linalg.norm(aside)
    for at in (*ends, ends.mean(axis=0)):
        inside, close, away = (wrist_cost_m(at[None] + off_m * aside, pose, shoulder_m) for off_m in (0.03, 0.06, 0.07))
        assert inside > close > away == 0.0


def test_a_hand_that_is_wide_upwards_meets_the_table_sooner_than_one_that_is_wide_sideways():
    approach, at_m = np.array([0.0, 0.8, -0.6]), np.array([0.0, 0.0, 0.95])
    sideways = facing(approach, np.array([-1.0, 0.0, 0.0]))
    upwards = facing(approach, np.cross(approach, [1.0, 0.0, 0.0]))
    assert into_table_m(at_m, sideways, 0.9) == 0.0
    assert into_table_m(at_m, upwards, 0.9) > 0.0
    assert into_table_m(at_m, upwards, 0.85) == pytest.approx(max(0.0, into_table_m(at_m, upwards, 0.9) - 0.05))


@pytest.mark.parametrize("is_held", [True, False])
def test_only_a_hand_that_holds_what_it_moves_may_stay_where_it_is(is_held):
    assert Follow(Touch(Goal("close", ("door",)), None, is_held)).is_on_the_spot == is_held


def test_closed_fingers_are_narrower_than_open_ones():
    beside = np.array([[0.0, 0.05, 0.0]])
    across, along, up = beside[:, 1], beside[:, 0], beside[:, 2]
    assert volume_cost_m(across, along, up, 0.022) == 0.0
    assert volume_cost_m(across, along, up) == contact_cost_m(beside, np.zeros(3), 0.0) > 0.0
