"""Each primitive of libero_goal by itself, in the simulator: physics only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("libero", reason="needs the extra `libero`")

from heisd.errors import UnknownName
from heisd.sim.experts import Expert, Style
from heisd.sim.experts.articulated import Touch, operate, plan_push
from heisd.sim.experts.expert import Skill
from heisd.sim.experts.places import on_region
from heisd.sim.experts.primitives import Hand, Hold
from heisd.sim.experts.slanted import ApproachAslant, way_out
from heisd.sim.experts.tasks import lay, push, put_in_drawer
from heisd.sim.libero import LiberoEnv
from heisd.sim.reach import reach_excess, wrist_m
from heisd.sim.rendering import NONE
from heisd.sim.scene import Goal, Scene
from heisd.sim.splits import EpisodeStart
from heisd.types import Observation

pytestmark = pytest.mark.libero
CABINET, BOWL = "wooden_cabinet_1", "akita_black_bowl_1"


@contextmanager
def started(suite: str, task: int) -> Iterator[tuple[LiberoEnv, Scene, Observation]]:
    env = LiberoEnv(suite, task, rendering=NONE)
    try:
        observation, _ = env.reset(EpisodeStart(suite, task, 0, None))
        yield env, env.scene, observation
    finally:
        env.close()


def perform(env: LiberoEnv, scene: Scene, observation: Observation, *skills: Skill, n_steps: int = 200) -> Expert:
    """Run skills to their end, the last retreat included."""
    expert = Expert(scene, skills, Style.nominal(), np.random.default_rng(0))
    for _ in range(n_steps):
        if expert.done:
            break
        observation, *_ = env.step(expert.act(observation.proprio).executed)
    return expert


def set_joint(env: LiberoEnv, name: str, position: float) -> None:
    """Put a joint of a fixture somewhere."""
    model, data = env.robosuite_env.sim.model._model, env.robosuite_env.sim.data._data
    data.qpos[model.jnt_qposadr[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)]] = position
    env.robosuite_env.sim.forward()


def put(env: LiberoEnv, name: str, position_m: np.ndarray) -> None:
    """Put an object somewhere, turned as it is."""
    joint = env.robosuite_env.get_object(name).joints[0]
    qpos = env.robosuite_env.sim.data.get_joint_qpos(joint).copy()
    qpos[:3] += position_m - env.scene.pose(name).position_m
    env.robosuite_env.sim.data.set_joint_qpos(joint, qpos)
    env.robosuite_env.sim.forward()


@pytest.mark.parametrize(
    ("suite", "task", "goal"),
    [
        ("libero_goal", 0, Goal("open", (f"{CABINET}_middle_region",))),
        ("libero_goal", 0, Goal("open", (f"{CABINET}_top_region",))),
        ("libero_goal", 7, Goal("turnon", ("flat_stove_1",))),
        ("libero_10", 2, Goal("turnon", ("flat_stove_1",))),
        ("libero_10", 3, Goal("close", ("white_cabinet_1_bottom_region",))),
        ("libero_10", 9, Goal("close", ("microwave_1",))),
    ],
)
def test_a_fixture_is_operated_without_a_retry_and_left_alone_then(suite, task, goal):
    with started(suite, task) as (env, scene, observation):
        assert not scene.holds(goal)
        name = goal.arguments[0]
        others = {n: scene.pose(n).position_m for n in scene.objects}
        expert = perform(env, scene, observation, operate(goal, Style.nominal()))
        assert expert.done
        assert (expert.n_retries, expert.n_stalls) == (0, 0)
        assert scene.holds(goal)
        low, high = scene.wanted(goal)
        assert low - 0.01 <= scene.joint(name).position <= high + 0.01
        moved_m = [np.linalg.norm(scene.pose(n).position_m - at) for n, at in others.items()]
        assert max(moved_m) < 0.02
        for _ in range(10):
            env.step(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
        assert scene.holds(goal)


def test_what_opens_also_closes():
    opened, closed = (Goal(p, (f"{CABINET}_top_region",)) for p in ("open", "close"))
    with started("libero_goal", 3) as (env, scene, observation):
        set_joint(env, f"{CABINET}_top_level", -0.15)
        assert scene.holds(opened)
        expert = perform(env, scene, observation, operate(closed, Style.nominal()))
        assert expert.done
        assert scene.holds(closed)


def test_a_scene_tells_joints_what_they_move_and_what_they_leave():
    with started("libero_goal", 0) as (env, scene, _):
        region = f"{CABINET}_middle_region"
        set_joint(env, f"{CABINET}_middle_level", scene.joint(region).position)  # after a step poses are a step old
        before, still = np.concatenate(scene.moving_parts(region)), scene.surroundings(region)
        joint = scene.joint(region)
        set_joint(env, f"{CABINET}_middle_level", -0.1)
        after = np.concatenate(scene.moving_parts(region))
        assert np.allclose(after - before, -0.1 * joint.axis, atol=1e-9)
        assert np.array_equal(scene.surroundings(region), still)
        assert np.allclose(joint.carry(joint.body, -0.1).position_m, scene.joint(region).body.position_m, atol=1e-9)
        assert scene.has_joint("flat_stove_1")
        assert not scene.has_joint(f"{CABINET}_top_side")
        with pytest.raises(UnknownName, match=region):
            scene.joint(f"{CABINET}_top_side")


def test_a_bowl_half_under_the_open_drawer_is_drawn_out_from_there_and_put_inside():
    goal = Goal("in", (BOWL, f"{CABINET}_top_region"))
    with started("libero_goal", 3) as (env, scene, observation):
        assert way_out(scene, BOWL) is None
        set_joint(env, f"{CABINET}_top_level", -0.15)
        back = way_out(scene, BOWL)
        assert back is not None
        assert back[0] < 0.0 < back[1]  # away from the cabinet's corner
        expert = perform(env, scene, observation, put_in_drawer(scene, goal, Style.nominal()))
        assert expert.done
        assert (expert.n_retries, expert.n_stalls) == (0, 0)
        assert scene.holds(Goal("open", (f"{CABINET}_top_region",)))


def test_the_wrist_of_a_hand_that_pushes_a_drawer_shut_keeps_clear_of_what_is_around():
    goal = Goal("close", ("white_cabinet_1_bottom_region",))
    with started("libero_10", 3) as (env, scene, observation):
        hand, data = Hand.of(observation.proprio), env.robosuite_env.sim.data
        wrist, forearm = wrist_m(hand.position_m, hand.rotation[:, 2], scene.shoulder_m)
        assert wrist == pytest.approx(data.get_body_xpos("robot0_link5"), abs=0.02)
        aside = data.get_body_xmat("robot0_link5").reshape(3, 3)[:, 1]
        assert (forearm - wrist) @ aside > 0.12
        put(env, BOWL, scene.pose("white_cabinet_1_bottom_region").position_m - [0.0, 0.0, 0.03])
        for position_m in (-0.16, -0.15, -0.14):
            set_joint(env, "white_cabinet_1_bottom_level", position_m)
            joint, pose = scene.joint(goal.arguments[0]), plan_push(scene, goal, Style.nominal())
            around = scene.surroundings(goal.arguments[0])
            for at in (pose, joint.carry(pose, -joint.position)):
                ends = wrist_m(at.position_m, at.rotation[:, 2], scene.shoulder_m)
                assert min(np.linalg.norm(around - end, axis=1).min() for end in ends) > 0.05


@pytest.mark.parametrize("yaw_rad", [-1.7, 1.7])
def test_a_wrist_that_has_turned_either_way_turns_no_further_than_it_must(yaw_rad):
    goal = Goal("close", ("white_cabinet_1_bottom_region",))
    with started("libero_10", 3) as (_, scene, observation):
        rotation = Rotation.from_euler("z", yaw_rad) * Rotation.from_euler("x", np.pi)
        hand = replace(Hand.of(observation.proprio), rotation=rotation.as_matrix())
        touch = Touch(goal, plan_push, is_held=False)
        touch.prepare(scene, hand, Style.nominal())
        assert np.linalg.norm(hand.turn_into(touch.rotation)) < np.pi / 2


def test_a_hand_leans_only_where_an_upright_one_would_touch_what_hangs_over_the_bowl():
    with started("libero_10", 3) as (env, scene, observation):
        hand, leans = Hand.of(observation.proprio), []
        for y_m in (-0.06, -0.04, 0.02):  # free, the handle above beside it, half under that
            put(env, BOWL, scene.pose(BOWL).position_m * [1.0, 0.0, 1.0] + [0.0, y_m, 0.0])
            hold = Hold(BOWL)
            ApproachAslant(hold, Style.nominal()).start(scene, hand)
            leans.append((way_out(scene, BOWL) is not None, hold.lean_rad is not None))
        assert leans == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("position_m", [-0.141, -0.155])
def test_a_drawer_too_little_open_for_the_bowl_is_drawn_out_with_it(position_m):
    region = "white_cabinet_1_bottom_region"
    goal = Goal("in", (BOWL, region))
    with started("libero_10", 3) as (env, scene, observation):
        set_joint(env, "white_cabinet_1_bottom_level", position_m)
        expert = perform(env, scene, observation, put_in_drawer(scene, goal, Style.nominal()))
        assert expert.done
        assert expert.n_retries == 0
        assert scene.points(BOWL)[:, 2].max() < np.concatenate(scene.moving_parts(region))[:, 2].max()
        assert scene.joint(region).position < -0.150


def test_a_plate_is_pushed_over_the_table_and_nothing_is_lifted():
    goal = Goal("on", ("plate_1", "main_table_stove_front_region"))
    with started("libero_goal", 5) as (env, scene, observation):
        before = scene.pose("plate_1").position_m
        expert = Expert(scene, [push(scene, goal, Style.nominal())], Style.nominal(), np.random.default_rng(0))
        heights_m = []
        while not expert.done and len(heights_m) < 200:
            observation, *_ = env.step(expert.act(observation.proprio).executed)
            heights_m.append(scene.pose("plate_1").position_m[2])
        assert expert.done
        assert max(heights_m) < before[2] + 0.03  # its rim may lie on the fingertips
        aside = scene.pose("plate_1").position_m - scene.pose("main_table_stove_front_region").position_m
        assert np.linalg.norm(aside[:2]) < 0.03


def test_a_bottle_lies_on_the_rack_and_stays_there():
    goal = Goal("on", ("wine_bottle_1", "wine_rack_1_top_region"))
    with started("libero_goal", 9) as (env, scene, observation):
        expert = perform(env, scene, observation, lay(scene, goal, Style.nominal()))
        assert expert.done
        assert expert.n_retries == 0
        for _ in range(20):
            env.step(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
        assert scene.holds(goal)
        assert scene.pose("wine_bottle_1").rotation[2, 2] < 0.8


def test_a_place_on_a_region_is_within_it_and_within_reach():
    with started("libero_goal", 2) as (_, scene, _):
        region, bottle = f"{CABINET}_top_side", "wine_bottle_1"
        place, low = on_region(scene, bottle, region), on_region(scene, "plate_1", region)
        middle, extent = scene.pose(region).position_m, scene.extent_m(region)
        assert (np.abs(place - middle)[:2] < extent[:2]).all()
        assert place[2] == pytest.approx(scene.points(CABINET)[:, 2].max(), abs=2e-3)
        height = np.ptp(scene.points(bottle)[:, 2])
        assert reach_excess(middle + [0.0, 0.0, height], scene.shoulder_m) > 0.0  # in the middle it would not be
        assert reach_excess(place + [0.0, 0.0, height], scene.shoulder_m) == 0.0
        assert np.linalg.norm((low - middle)[:2]) < np.linalg.norm((place - middle)[:2])  # flat things go further
