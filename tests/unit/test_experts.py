"""The experts' maths and bookkeeping, without a simulator."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from heisd.sim.experts import geometry
from heisd.sim.experts.expert import Expert, Skill
from heisd.sim.experts.grasps import contact_cost_m
from heisd.sim.experts.primitives import CLOSED, OPEN, Command, Hand, Phase, Status
from heisd.sim.experts.style import Disturbance, SmoothNoise, Style, start_displacement
from heisd.sim.reach import ceiling, reach_excess
from heisd.sim.scene import Goal
from heisd.types import Proprioception

SHOULDER_M = np.array([-0.66, 0.0, 1.245])


def proprio(position_m=(0.0, 0.0, 1.0), *, rotation: Rotation | None = None, width_m: float = 0.08) -> Proprioception:
    down = Rotation.from_euler("x", np.pi)
    return Proprioception(
        eef_pos_m=np.array(position_m),
        eef_quat_xyzw=((rotation or Rotation.identity()) * down).as_quat(),
        gripper_qpos_m=np.array([width_m / 2, -width_m / 2]),
        gripper_qvel_m_s=np.zeros(2),
        joint_pos_rad=np.zeros(7),
        joint_vel_rad_s=np.zeros(7),
    )


def test_limit_keeps_the_direction_and_caps_the_norm():
    vector = np.array([3.0, -4.0, 0.0])
    assert np.allclose(geometry.limit(vector, 1.0), [0.6, -0.8, 0.0])
    assert np.allclose(geometry.limit(vector, 9.0), vector)
    assert np.allclose(geometry.limit(np.zeros(3), 1.0), 0.0)


@pytest.mark.parametrize("yaw", np.linspace(-7.0, 7.0, 29))
def test_wrapped_yaw_is_the_same_grasp(yaw):
    wrapped = geometry.wrap_yaw(yaw)
    assert -np.pi / 2 <= wrapped < np.pi / 2
    assert np.sin(2 * wrapped) == pytest.approx(np.sin(2 * yaw), abs=1e-9)
    assert np.cos(2 * wrapped) == pytest.approx(np.cos(2 * yaw), abs=1e-9)


def test_travel_rises_before_it_goes_sideways():
    below = geometry.travel(np.array([0.3, 0.0, 0.2]), blend_m=0.03, bend_rad=0.0)
    level = geometry.travel(np.array([0.3, 0.0, 0.0]), blend_m=0.03, bend_rad=0.0)
    assert np.allclose(below, [0.0, 0.0, 0.2])
    assert np.allclose(level, [0.3, 0.0, 0.0])


def test_travel_bends_the_heading_only_while_far():
    far = geometry.travel(np.array([0.3, 0.0, 0.0]), blend_m=0.03, bend_rad=0.5)
    near = geometry.travel(np.array([0.01, 0.0, 0.0]), blend_m=0.03, bend_rad=0.5)
    assert np.arctan2(far[1], far[0]) == pytest.approx(0.5)
    assert np.linalg.norm(far) == pytest.approx(0.3)
    assert np.allclose(near, [0.01, 0.0, 0.0])


def test_corridor_sees_what_is_ahead_and_nothing_else():
    start, end = np.array([0.0, 0.0, 1.0]), np.array([0.4, 0.0, 1.0])
    ahead, behind, beside = [0.2, 0.03, 0.7], [-0.05, 0.0, 0.9], [0.2, 0.2, 0.95]
    points = np.array([ahead, behind, beside])
    assert geometry.corridor_height(points, start, end, 0.06) == pytest.approx(0.7)
    assert geometry.corridor_height(points[1:], start, end, 0.06) == -np.inf


def test_the_ceiling_is_where_the_reach_ends():
    for x in np.linspace(-0.3, 0.1, 9):
        top = ceiling(np.array([x, 0.1, 0.9]), SHOULDER_M)
        assert reach_excess(np.array([x, 0.1, top - 0.01]), SHOULDER_M) == 0.0
        assert reach_excess(np.array([x, 0.1, top + 0.01]), SHOULDER_M) > 0.0


def test_the_ceiling_never_presses_a_hand_down_that_noise_pushed_out_of_reach():
    assert ceiling(np.array([0.3, 0.0, 1.14]), SHOULDER_M) == 1.14


def test_an_arm_is_trapped_only_where_it_is_stretched_more_than_its_way_asks_for():
    near, far = np.array([-0.2, 0.0, 1.0]), np.array([0.2, 0.0, 1.0])
    assert geometry.trap(far, near - far, SHOULDER_M) == 1.0
    assert geometry.trap(far, np.zeros(3), SHOULDER_M) == 0.0
    assert geometry.trap(near, far - near, SHOULDER_M) == 0.0


def test_hand_turns_to_a_yaw_by_the_rotation_that_is_missing():
    hand = Hand.of(proprio(rotation=Rotation.from_euler("z", 0.4)))
    assert hand.yaw_rad == pytest.approx(0.4)
    assert np.allclose(hand.turn_to(0.4), 0.0, atol=1e-9)
    assert np.allclose(hand.turn_to(0.7), [0.0, 0.0, 0.3], atol=1e-9)


def test_an_obstacle_between_the_open_fingers_costs_more_than_one_beside_them():
    point = np.array([0.0, 0.0, 0.9])
    between = point + np.array([[0.0, 0.02, 0.0]])  # yaw 0 closes along y
    near = point + np.array([[0.0, 0.064, 0.0]])
    away = point + np.array([[0.05, 0.0, 0.0]])
    costs = [contact_cost_m(p, point, 0.0) for p in (between, near, away)]
    assert costs[0] > costs[1] > costs[2] == 0.0
    assert contact_cost_m(near, point, np.pi / 2) == 0.0


def test_smooth_noise_has_unit_variance_and_moves_slowly():
    stds, steps = [], []
    for seed in range(20):
        noise = SmoothNoise(3, 4.0, np.random.default_rng(seed))
        path = np.array([noise.step() for _ in range(1500)])
        stds.append(path.std())
        steps.append(np.abs(np.diff(path, axis=0)).mean())
    assert np.mean(stds) == pytest.approx(1.0, abs=0.1)
    assert np.mean(steps) < 0.3  # white noise would move by 1.13 a step


def test_disturbance_is_on_about_half_of_the_time_and_absent_from_the_nominal_style():
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        disturbance = Disturbance(Style.sample(rng), rng)
        shares.append(np.mean([disturbance.step().any() for _ in range(400)]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    calm = Disturbance(Style.nominal(), np.random.default_rng(0))
    assert not any(calm.step().any() for _ in range(100))


def test_start_displacement_is_smooth_and_repeatable():
    n_closed = 0
    for seed in range(60):
        actions = np.array(start_displacement(np.random.default_rng(seed)))
        assert actions.shape[1] == 7
        assert (actions[:, 6] == actions[0, 6]).all()
        assert np.abs(actions).max() <= 1.0
        assert np.abs(np.diff(actions[:, :6], axis=0)).max() < 0.65  # of 2
        assert np.array_equal(actions, start_displacement(np.random.default_rng(seed)))
        n_closed += actions[0, 6] != OPEN
    assert 0.05 < n_closed / 60 < 0.3  # half of the far starts


class FakeScene:
    """A scene that knows whether the goal holds, and where the arm is."""

    shoulder_m = SHOULDER_M

    def __init__(self, holds: list[bool]) -> None:
        self._answers = iter(holds)

    def holds(self, _goal: Goal) -> bool:
        return next(self._answers)


class Scripted:
    """A primitive that reports the given statuses, one per question, then runs for ever."""

    phase = Phase.APPROACH

    def __init__(self, *statuses: Status, move_m=(0.02, 0.0, 0.0)) -> None:
        self._script, self._move_m, self.n_starts = iter(statuses), np.array(move_m), 0

    def start(self, _scene, _hand) -> None:
        self.n_starts += 1

    def status(self, _scene, _hand) -> Status:
        return next(self._script, Status.RUNNING)

    def command(self, _scene, _hand) -> Command:
        return Command(self._move_m, np.zeros(3), CLOSED)


def expert(primitives, *, holds=(), style: Style | None = None, seed: int = 0) -> Expert:
    skill = Skill(Goal("on", ("bowl", "plate")), tuple(primitives))
    return Expert(FakeScene(list(holds)), [skill], style or Style.nominal(), np.random.default_rng(seed))


def test_primitives_run_in_order_until_the_goal_holds():
    first, second = Scripted(Status.RUNNING, Status.DONE), Scripted(Status.RUNNING, Status.DONE)
    runner = expert([first, second], holds=[True])
    done = [runner.act(proprio()) and runner.done for _ in range(3)]
    assert done == [False, False, True]
    assert (first.n_starts, second.n_starts, runner.n_retries) == (1, 1, 0)


def test_a_lost_object_and_a_missed_goal_both_start_the_skill_again_and_are_counted():
    first = Scripted(Status.DONE, Status.DONE, Status.DONE)
    second = Scripted(Status.LOST, Status.DONE, Status.DONE)
    runner = expert([first, second], holds=[False, True])
    runner.act(proprio())
    assert runner.done
    assert (first.n_starts, runner.n_retries, runner.n_stalls) == (3, 2, 0)


def test_a_hand_that_does_not_move_is_a_stall():
    runner = expert([Scripted()])
    for _ in range(60):
        runner.act(proprio())
    assert runner.n_stalls == runner.n_retries == 2


def test_labels_are_clean_and_only_the_executed_action_is_disturbed():
    style = Style.sample(np.random.default_rng(3))
    moving = [expert([Scripted()], style=style, seed=s).act(proprio()) for s in range(40)]
    assert any(not np.array_equal(step.action, step.executed) for step in moving)
    assert all(step.action[6] == step.executed[6] == CLOSED for step in moving)
    mean = np.mean([step.action[:3] for step in moving], axis=0)
    assert mean == pytest.approx([0.6, 0.0, 0.0], abs=0.06)  # gain 1.5 x 0.02 m / 0.05 m, tremor averages out
    calm = expert([Scripted()]).act(proprio())
    assert np.array_equal(calm.action, calm.executed)


def test_consecutive_labels_of_a_sampled_style_rarely_repeat_and_rarely_saturate():
    runner = expert([Scripted(move_m=(0.2, 0.1, 0.05))], style=Style.sample(np.random.default_rng(1)))
    labels = np.array([runner.act(proprio((0.01 * i, 0.0, 1.0))).action for i in range(100)])
    bins = np.digitize(labels[:, :3], np.linspace(-1.0, 1.0, 257))
    assert (np.diff(bins, axis=0) == 0).mean() < 0.5
    assert (np.abs(labels[:, :3]) >= 1.0).mean() < 0.01


def test_a_trapped_arm_is_drawn_back_towards_the_base_first():
    runner = expert([Scripted(move_m=(-0.02, 0.0, 0.0))])
    free = runner.act(proprio((-0.2, 0.0, 1.0))).action
    trapped = runner.act(proprio((0.12, 0.0, 1.0))).action
    assert trapped[0] < free[0] == pytest.approx(-0.6)
