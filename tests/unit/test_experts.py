"""The experts' maths and bookkeeping, without a simulator."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from heisd.sim.experts import geometry
from heisd.sim.experts.articulated import DrawOut
from heisd.sim.experts.expert import Expert, Skill
from heisd.sim.experts.grasps import Grasp, contact_cost_m, handle_grasp
from heisd.sim.experts.primitives import CLOSED, OPEN, Command, Hand, Hold, Insert, Phase, Retreat, Status
from heisd.sim.experts.style import Disturbance, SmoothNoise, Style, start_displacement
from heisd.sim.reach import ceiling, reach_excess, stretch_m, wrist_m
from heisd.sim.scene import Goal, Pose
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


@pytest.mark.parametrize("angle", np.linspace(-3.1, 3.1, 9))
def test_the_turn_between_two_directions_is_what_takes_one_to_the_other(angle):
    start = np.array([0.3, -0.2, 0.9])
    end = Rotation.from_euler("z", angle).apply(start)
    assert geometry.turn_between(start, end) == pytest.approx(angle)


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


def test_the_wrist_is_where_the_reach_is_measured_to_and_turns_with_the_hand_about_its_tip():
    hand_m, down = np.array([0.1, -0.2, 1.0]), np.array([0.0, 0.0, -1.0])
    wrist, forearm = wrist_m(hand_m, down, SHOULDER_M)
    assert np.linalg.norm(wrist - SHOULDER_M) == pytest.approx(stretch_m(hand_m, SHOULDER_M))
    assert forearm[2] == pytest.approx(wrist[2])
    assert forearm[1] > wrist[1] + 0.1
    tilted, _ = wrist_m(hand_m, np.array([0.0, 0.6, -0.8]), SHOULDER_M)
    assert np.linalg.norm(tilted - hand_m) == pytest.approx(np.linalg.norm(wrist - hand_m))
    assert tilted[1] < wrist[1] - 0.1  # behind a hand that points to the left
    assert tilted[2] < wrist[2]


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


def mug(yaw_rad: float) -> np.ndarray:
    """(V, 3) a cup 10 cm high whose handle stands out 8 cm along its own x, on a table at 0.9 m."""
    around, upwards = np.linspace(0.0, 2.0 * np.pi, 60), np.linspace(0.0, 0.1, 21)
    angle, height_m = (grid.ravel() for grid in np.meshgrid(around, upwards))
    cup = np.stack([0.045 * np.cos(angle), 0.045 * np.sin(angle), height_m], axis=1)
    bar = np.array([[x, y, z] for x in (0.07, 0.08) for y in (-0.008, 0.008) for z in np.linspace(0.03, 0.08, 11)])
    return Rotation.from_euler("z", yaw_rad).apply(np.concatenate([cup, bar])) + [0.1, 0.2, 0.9]


@pytest.mark.parametrize("yaw", np.linspace(-3.0, 3.0, 9))
def test_a_handle_is_taken_between_the_fingers_with_the_hand_outside_and_above_the_cup(yaw):
    point, hand_yaw = handle_grasp(mug(yaw), Style.nominal())
    along, across, height = Rotation.from_euler("z", -yaw).apply(point - [0.1, 0.2, 0.9])
    assert (along, across) == pytest.approx((0.073, 0.0), abs=0.003)
    assert 0.03 < height < 0.08
    assert height + 0.042 > 0.1  # where the hand begins above the finger pads
    assert np.sin(hand_yaw - yaw) == pytest.approx(0.0, abs=0.05)  # the hand's thin axis along the handle


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


class World:
    """A scene whose goals are met and undone by its primitives."""

    shoulder_m = SHOULDER_M

    def __init__(self, met=()) -> None:
        self.met, self.log = set(met), []

    def holds(self, goal: Goal) -> bool:
        return goal in self.met


class Doing(Scripted):
    """A primitive that makes its goal true at once, and may undo another the first time."""

    def __init__(self, goal: Goal, undoes: Goal | None = None) -> None:
        super().__init__()
        self.goal, self._undoes = goal, undoes

    def start(self, scene, _hand) -> None:
        scene.log.append(self.goal)
        scene.met.add(self.goal)
        scene.met.discard(self._undoes)
        self._undoes = None

    def status(self, _scene, _hand) -> Status:
        return Status.DONE


FIRST, SECOND, THIRD = (Goal("on", (name, "plate")) for name in ("bowl", "mug", "pot"))


def staged(world: World, primitives, firsts=None) -> Expert:
    firsts = firsts or [0] * len(primitives)
    skills = [
        Skill(p.goal, (Scripted(Status.DONE), p) if first else (p,), lambda *_, first=first: first)
        for p, first in zip(primitives, firsts, strict=True)
    ]
    return Expert(world, skills, Style.nominal(), np.random.default_rng(0))


def test_stages_run_in_order_and_what_holds_already_is_left_alone():
    world = World(met=[SECOND])
    runner = staged(world, [Doing(FIRST), Doing(SECOND), Doing(THIRD)])
    runner.act(proprio())
    assert runner.done
    assert world.log == [FIRST, THIRD]
    assert runner.n_retries == 0


def test_a_stage_that_a_later_one_undid_is_made_again_and_counted():
    world = World()
    runner = staged(world, [Doing(FIRST), Doing(SECOND, undoes=FIRST)])
    runner.act(proprio())
    assert runner.done
    assert world.log == [FIRST, SECOND, FIRST]
    assert runner.n_retries == 1


def test_what_was_only_opened_to_put_something_in_may_be_closed_again():
    world = World()
    opening, putting, closing = Doing(FIRST), Doing(SECOND), Doing(THIRD, undoes=FIRST)
    skills = [Skill(p.goal, (p,), is_means=p is opening) for p in (opening, putting, closing)]
    runner = Expert(world, skills, Style.nominal(), np.random.default_rng(0))
    runner.act(proprio())
    assert runner.done
    assert world.log == [FIRST, SECOND, THIRD]


def test_whoever_takes_over_goes_on_with_what_is_in_the_hand():
    world = World()
    runner = staged(world, [Doing(FIRST), Doing(SECOND)], firsts=[0, 1])
    runner.act(proprio())
    assert runner.done
    assert world.log == [SECOND, FIRST]
    assert runner.n_retries == 0


class Carried:
    """A cube of 4 cm that moves with the hand."""

    offset_m = np.array([0.0, 0.05, -0.02])

    def __init__(self, hand_m) -> None:
        self.hand_m = np.array(hand_m)

    def hand(self) -> Hand:
        return Hand.of(proprio(self.hand_m, width_m=0.02))

    def pose(self, _name) -> Pose:
        return Pose(self.hand_m + self.offset_m, np.eye(3))

    def points(self, _name) -> np.ndarray:
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        return self.hand_m + self.offset_m + 0.02 * corners

    def way_of(self, primitive, n_steps=200) -> np.ndarray:
        """(T, 3) where the hand goes until the primitive is done."""
        primitive.start(self, self.hand())
        way = [self.hand_m]
        while primitive.status(self, self.hand()) is Status.RUNNING:
            assert len(way) < n_steps
            self.hand_m = self.hand_m + geometry.limit(0.3 * primitive.command(self, self.hand()).move_m, 0.01)
            way.append(self.hand_m)
        return np.array(way)


def held(world: Carried) -> Hold:
    hold = Hold("cube")
    hold.grasp = Grasp(np.zeros(3), 0.0, world.pose("cube"))
    hold.object_in_hand_m = world.hand().rotation.T @ world.offset_m
    return hold


@pytest.mark.parametrize("start_m", [(0.0, 0.0, 0.95), (0.0, 0.0, 1.10), (0.05, -0.05, 1.0)])
def test_what_slides_under_a_roof_is_at_its_height_before_it_goes_in(start_m):
    place_m, world = np.array([0.02, 0.30, 0.96]), Carried(start_m)
    style = replace(Style.sample(np.random.default_rng(0)), place_offset_m=(0.0, 0.0))
    way = world.way_of(Insert(held(world), lambda _: place_m, style))
    cube = way + world.offset_m
    bottom = cube[:, 2] - 0.02 - place_m[2]
    is_moving_in = np.append(np.abs(np.diff(way[:, 1])) > 1e-4, False)
    assert (bottom[is_moving_in] > -0.012).all()
    assert (bottom[is_moving_in] < 0.042).all()
    assert cube[-1, :2] == pytest.approx(place_m[:2], abs=0.006)


def test_sliding_is_over_when_the_object_is_lost():
    world = Carried((0.0, 0.0, 1.0))
    slide = Insert(held(world), lambda _: np.array([0.0, 0.3, 0.96]), Style.nominal())
    assert slide.status(world, world.hand()) is Status.RUNNING
    world.offset_m = world.offset_m + [0.0, 0.0, -0.06]
    assert slide.status(world, world.hand()) is Status.LOST


@pytest.mark.parametrize("front_m", [0.05, 0.02])
def test_a_drawer_is_drawn_out_by_what_stands_behind_its_front_and_no_further_than_needed(front_m):
    """A front that the cube pushes along; it stops where the cube fits, at once where that is so already."""
    world, out, needed_m = Carried((0.0, 0.0, 1.0)), np.array([0.0, -1.0, 0.0]), 0.035

    def missing_m(now) -> float:
        nonlocal front_m
        front_m = max(front_m, float((now.hand_m @ out) + 0.010))  # the cube's foot against it
        return needed_m - front_m

    first_m = front_m
    way = world.way_of(DrawOut(held(world), missing_m, out))
    assert np.allclose(way[:, [0, 2]], way[0, [0, 2]])
    assert front_m >= needed_m
    assert front_m < max(first_m, needed_m + 0.010) + 1e-9
    assert (len(way) == 1) == (first_m >= needed_m)


def test_drawing_out_gives_up_a_drawer_that_does_not_come_and_an_object_that_slips():
    world, out = Carried((0.0, 0.0, 1.0)), np.array([0.0, -1.0, 0.0])
    drawing = DrawOut(held(world), lambda _: 0.02, out)
    world.way_of(drawing, n_steps=40)
    drawing.start(world, world.hand())
    assert drawing.status(world, world.hand()) is Status.RUNNING
    world.offset_m = world.offset_m + [0.0, 0.0, -0.06]
    assert drawing.status(world, world.hand()) is Status.LOST


def test_a_hand_backs_out_the_way_it_is_told_and_rises_without_being_told():
    for way_m, retreat in [((0.0, -0.1, 0.0), {"way": lambda _: np.array([0.0, -0.1, 0.0])}), ((0.0, 0.0, 0.08), {})]:
        world = Carried((0.0, 0.0, 1.0))
        gone = np.diff(world.way_of(Retreat(held(world), **retreat))[[0, -1]], axis=0)[0]
        assert gone == pytest.approx(way_m, abs=0.016)
        assert gone @ way_m > 0.0
