"""The belt: which way it goes and why, and in the simulator that it carries by friction alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heisd.errors import BadInput
from heisd.sim.splits import FRESH_SEEDS, SHIPPED_STATES, Condition, EpisodeStart, Split, parse_condition
from heisd.sim.targets import first_to_grasp, stands_on_table, targets, with_carriers

MOVING = [condition for condition in Condition if condition.belt_m_s]


def test_conditions_say_what_they_move() -> None:
    assert [c.belt_m_s for c in MOVING] == [0.02, 0.04, 0.06, 0.08, 0.12]
    assert all(c.jitter_m == 0 for c in MOVING)
    assert [parse_condition(name).belt_m_s for name in ("shipped", "jitter", "jitter4")] == [0, 0, 0]


def test_directions_of_evaluation_are_never_those_of_training() -> None:
    def seeds(split: Split) -> set[int]:
        shipped = [EpisodeStart("s", task, state, None) for state in SHIPPED_STATES[split] for task in range(10)]
        fresh = [EpisodeStart("s", task, None, seed) for seed in FRESH_SEEDS[split][:300] for task in range(10)]
        return {start.belt_seed for start in (*shipped, *fresh)}

    by_split = {split: seeds(split) for split in Split}
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))
    jittered = {EpisodeStart("s", t, n, None).jitter_seed for n in range(50) for t in range(10)}
    assert not jittered & set().union(*by_split.values())


PROBLEM = {
    "objects": {"bowl": ["bowl_1"], "box": ["box_1"], "plate": ["plate_1"]},
    "fixtures": {"kitchen_table": ["kitchen_table"], "stove": ["stove_1"]},
    "obj_of_interest": ["bowl_1", "plate_1", "stove_1"],
    "goal_state": [["turnon", "stove_1"], ["on", "bowl_1", "plate_1"]],
    "regions": {"middle": {"target": "kitchen_table"}, "burner": {"target": "stove_1"}},
    "initial_state": [["on", "bowl_1", "box_1"], ["on", "box_1", "middle"], ["on", "plate_1", "middle"]],
}


def test_a_task_file_tells_what_is_grasped_and_what_carries_it() -> None:
    assert targets(PROBLEM) == ["bowl_1", "plate_1"]
    assert first_to_grasp(PROBLEM) == "bowl_1"
    assert with_carriers(PROBLEM, "bowl_1") == ("bowl_1", "box_1")
    assert stands_on_table(PROBLEM, "bowl_1")
    on_plate = {**PROBLEM, "initial_state": [["on", "bowl_1", "plate_1"], ["on", "plate_1", "middle"]]}
    assert with_carriers(on_plate, "bowl_1") == ("bowl_1",)  # the plate is a target itself


@pytest.mark.parametrize("state", [["on", "bowl_1", "burner"], ["in", "bowl_1", "drawer"]])
def test_what_stands_on_or_in_a_fixture_is_not_on_the_table(state: list[str]) -> None:
    assert not stands_on_table({**PROBLEM, "initial_state": [state]}, "bowl_1")
    assert first_to_grasp({**PROBLEM, "goal_state": [["open", "drawer"]]}) is None


# --- geometry; no simulator, but its package ----------------------------------------------------------------------

pytest.importorskip("libero", reason='needs pip install "heisd[libero]"')

from heisd.sim.belt import HALF_WAY_M, WANTED_WAY_M, Belt, draw_way, free_m  # noqa: E402

EAST, NORTH = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def test_a_way_ends_where_the_air_would_get_too_thin() -> None:
    post = np.array([[0.06, 0.0]])
    assert free_m(post, EAST, 0.01) == pytest.approx(0.05)
    assert free_m(post, -EAST, 0.01) == HALF_WAY_M
    assert free_m(post, NORTH, 0.01) == HALF_WAY_M
    assert free_m(np.array([[0.06, 0.009]]), EAST, 0.01) == pytest.approx(0.06 - np.sqrt(0.01**2 - 0.009**2))
    assert free_m(np.array([[0.06, 0.011]]), EAST, 0.01) == HALF_WAY_M
    assert free_m(np.empty((0, 2)), EAST, 0.01) == HALF_WAY_M
    assert free_m(np.array([[0.005, 0.0]]), EAST, 0.01) == 0.0


def test_the_first_long_enough_direction_is_taken_else_the_longest() -> None:
    def way_m(direction: Any) -> float:
        return 0.1 if direction[1] > 0.9 else 0.03  # long to the north alone

    rng = np.random.default_rng
    found = [draw_way(way_m, rng(seed)) for seed in range(40)]
    lengths = [ends[1] - ends[0] for _, ends in found]
    assert max(lengths) == pytest.approx(0.13)
    assert max(lengths) < WANTED_WAY_M
    assert all(ends[0] <= 0 <= ends[1] for _, ends in found)
    for seed, (direction, ends) in enumerate(found):
        angles = rng(seed).uniform(0, 2 * np.pi, 16)
        ways = [way_m(np.array([np.cos(a), np.sin(a)])) + way_m(-np.array([np.cos(a), np.sin(a)])) for a in angles]
        assert ends[1] - ends[0] == max(ways)
        angle = angles[int(np.argmax(ways))]  # the first of the longest
        np.testing.assert_allclose(direction, [np.cos(angle), np.sin(angle), 0])
    everywhere = [draw_way(lambda _: 0.1, rng(seed))[0] for seed in range(200)]
    angles = np.array([np.arctan2(d[1], d[0]) for d in everywhere])
    assert np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0].min() > 30  # every direction occurs
    assert draw_way(lambda _: 0.0, rng(0))[1] == (0.0, 0.0)


class StillBelt(Belt):
    """A belt without a simulator, its target where the test says."""

    def __init__(self, along_m: float, sign: float) -> None:
        self._group, self._speed_m_s, self._sign = ("bowl_1",), 0.04, sign
        self._ends_m, self._direction, self.at = (-0.05, 0.1), EAST, along_m

    def _along_m(self) -> float:
        return self.at


@pytest.mark.parametrize(
    ("along_m", "sign", "after_s", "ahead_m"),
    [
        (0.0, 1, 1.0, 0.04), (0.0, -1, 1.0, -0.04), (0.08, 1, 1.0, 0.0), (0.1, -1, 0.5, -0.02),
        (-0.04, -1, 0.5, 0.0), (0.0, 1, 7.5, 0.0), (0.02, -1, 7.5, 0.0), (0.0, 1, 0.0, 0.0),
    ],
)  # fmt: skip
def test_what_is_carried_is_met_where_it_will_be_turning_round_included(
    along_m: float, sign: float, after_s: float, ahead_m: float
) -> None:
    belt = StillBelt(along_m, sign)
    np.testing.assert_allclose(belt.ahead_m("bowl_1", after_s), ahead_m * EAST, atol=1e-12)
    np.testing.assert_array_equal(belt.ahead_m("plate_1", after_s), np.zeros(3))


# --- in the simulator ---------------------------------------------------------------------------------------------

from heisd.bench.libero_world import libero_setting  # noqa: E402
from heisd.config import EvalConfig  # noqa: E402
from heisd.sim.collect import collect  # noqa: E402
from heisd.sim.demonstrate import Attempt, draw_start  # noqa: E402
from heisd.sim.experts import Style, build_expert  # noqa: E402
from heisd.sim.libero import SETTLE_ACTION, LiberoEnv  # noqa: E402
from heisd.sim.rendering import NONE  # noqa: E402
from heisd.sim.targets import require_carriable  # noqa: E402

SUITE, TASK = "libero_spatial", 2  # a bowl in the middle of the table


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    environment = LiberoEnv(SUITE, TASK, rendering=NONE)
    yield environment
    environment.close()


def start(condition: Condition = Condition.MOVING4, init_state: int = 3) -> EpisodeStart:
    return EpisodeStart(SUITE, TASK, init_state, None, condition)


def places(env: LiberoEnv, n: int) -> Any:
    """(n, 3) where the target is after every step of waiting."""
    found = []
    for _ in range(n):
        env.step(SETTLE_ACTION)
        found.append(env.scene.pose("akita_black_bowl_1").position_m)
    return np.array(found)


@pytest.mark.libero
def test_the_target_is_carried_at_its_speed_forth_and_back_and_nothing_else_is(env: LiberoEnv) -> None:
    observation, info = env.reset(start())
    plain, _ = env.reset(start(Condition.SHIPPED))
    np.testing.assert_array_equal(observation.proprio.joint_pos_rad, plain.proprio.joint_pos_rad)  # the same start
    env.reset(start())
    scene = env.scene
    others = {name: scene.pose(name).position_m for name in scene.solids if name != "akita_black_bowl_1"}
    began, rotation = scene.pose("akita_black_bowl_1").position_m, scene.pose("akita_black_bowl_1").rotation
    direction = np.append(info["belt"]["direction"], 0.0)
    low, high = info["belt"]["ends_m"]
    way = (places(env, 170) - began) @ direction  # 8.5 s at 4 cm a second: to each end at least once
    assert (way.min() - low, high - way.max()) == (pytest.approx(0, abs=0.003), pytest.approx(0, abs=0.003))
    speeds = np.abs(np.diff(way)) * 20
    assert np.median(speeds) == pytest.approx(0.04, rel=0.01)
    now = scene.pose("akita_black_bowl_1")
    np.testing.assert_allclose((now.position_m - began) @ direction * direction, now.position_m - began, atol=0.002)
    np.testing.assert_allclose(now.rotation, rotation, atol=0.02)  # it neither tips nor turns
    for name, place in others.items():
        np.testing.assert_allclose(scene.pose(name).position_m, place, atol=1e-3)


@pytest.mark.libero
def test_a_carried_episode_repeats_bit_for_bit_after_any_history(env: LiberoEnv) -> None:
    def trajectory() -> Any:
        env.reset(start())
        places(env, 25)
        data = env.robosuite_env.sim.data._data
        return np.concatenate([data.qpos, data.qvel, data.qacc_warmstart])

    first = trajectory()
    env.reset(start(Condition.MOVING12, init_state=7))
    places(env, 10)
    np.random.random(3)
    np.testing.assert_array_equal(trajectory(), first)
    _, one = env.reset(start(init_state=4))
    _, other = env.reset(start(init_state=5))
    assert one["belt"]["direction"] != other["belt"]["direction"]
    drawn = [env.reset(start(), rng=np.random.default_rng(seed))[1]["belt"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[2]["direction"] != drawn[0]["direction"] != env.reset(start())[1]["belt"]["direction"]
    env.reset(start(Condition.SHIPPED))
    assert np.ptp(places(env, 5), axis=0).max() < 1e-4  # the belt of before is gone


@pytest.mark.libero
def test_the_belt_goes_on_while_the_policy_thinks(env: LiberoEnv) -> None:
    env.reset(start())
    env.step(SETTLE_ACTION)
    began = env.scene.pose("akita_black_bowl_1").position_m
    for _ in range(10):
        env.wait()
    way_m = np.linalg.norm(env.scene.pose("akita_black_bowl_1").position_m - began)
    assert way_m == pytest.approx(0.5 * 0.04, rel=0.1)


@pytest.mark.libero
@pytest.mark.parametrize(("share", "is_carried"), [(0.5, True), (1.5, False)])
def test_the_belt_pulls_no_more_than_friction_can(env: LiberoEnv, share: float, is_carried: bool) -> None:
    """Held back by a force below (above) friction's bound, the object is carried (stays behind)."""
    _, info = env.reset(start())
    data, model = env.robosuite_env.sim.data._data, env.robosuite_env.sim.model._model
    body = env.robosuite_env.obj_body_id["akita_black_bowl_1"]
    direction, began = np.append(info["belt"]["direction"], 0.0), env.scene.pose("akita_black_bowl_1").position_m
    weight_n = model.body_subtreemass[body] * 9.81
    data.xfrc_applied[body, :3] = -share * 0.95 * weight_n * direction
    way_m = float((places(env, 10)[-1] - began) @ direction)
    data.xfrc_applied[body] = 0.0
    assert way_m == pytest.approx(0.5 * 0.04, rel=0.2) if is_carried else way_m < -0.005


@pytest.mark.libero
def test_what_is_lifted_is_free_for_good(env: LiberoEnv) -> None:
    env.reset(start())
    places(env, 5)
    robosuite = env.robosuite_env
    joint = robosuite.objects_dict["akita_black_bowl_1"].joints[-1]
    place = robosuite.sim.data.get_joint_qpos(joint).copy()
    place[2] += 0.03
    robosuite.sim.data.set_joint_qpos(joint, place)
    dropped = places(env, 40)
    assert dropped[-1, 2] < place[2] - 0.02
    assert np.linalg.norm(dropped[-1] - dropped[-15]) < 1e-3  # it lies where it fell
    np.testing.assert_array_equal(env.scene.ahead_m("akita_black_bowl_1", 1.0), np.zeros(3))


@pytest.mark.libero
def test_a_carried_pile_stays_a_pile() -> None:
    env = LiberoEnv(SUITE, 3, rendering=NONE)  # the bowl on the box of cookies
    env.reset(EpisodeStart(SUITE, 3, 0, None, Condition.MOVING6))
    scene, names = env.scene, ("akita_black_bowl_1", "cookies_1")
    before = {name: scene.pose(name).position_m for name in names}
    for _ in range(20):
        env.step(SETTLE_ACTION)
    moved = [scene.pose(name).position_m - before[name] for name in names]
    env.close()
    assert np.linalg.norm(moved[0]) > 0.03
    np.testing.assert_allclose(moved[0], moved[1], atol=0.001)


@pytest.mark.libero
def test_tasks_whose_target_stands_on_no_table_are_refused_by_name() -> None:
    require_carriable("libero_object", None)
    require_carriable(SUITE, (0, 5))
    message = r"in task\(s\) 4, 7, 9 of libero_spatial no target .* choose others: --tasks 0,1,2,3,5,6,8$"
    with pytest.raises(BadInput, match=message):
        require_carriable(SUITE, None)
    with pytest.raises(BadInput, match=r"task\(s\) 9 of"):
        require_carriable(SUITE, (5, 9))
    require_carriable(SUITE, (0, 17))  # what is no task is told by who looks tasks up
    env = LiberoEnv(SUITE, 9, rendering=NONE)
    with pytest.raises(BadInput, match="no target of this task stands on the table"):
        env.reset(EpisodeStart(SUITE, 9, 3, None, Condition.MOVING4))
    env.reset(EpisodeStart(SUITE, 9, 3, None))
    env.close()


@pytest.mark.libero
def test_evaluation_and_collection_refuse_them_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="choose others: --tasks 0,1,2,3,5,6,8"):
        libero_setting(EvalConfig(suite=SUITE, methods=("ar",), condition=Condition.MOVING4))
    with pytest.raises(BadInput, match=r"task\(s\) 7 of"):
        collect(SUITE, 2, tmp_path / "demos", tasks=(5, 7), condition=Condition.MOVING4)
    with pytest.raises(BadInput, match="displaces its targets anyway"):
        collect(SUITE, 2, tmp_path / "demos", condition=Condition.JITTER)
    assert not (tmp_path / "demos").exists()


@pytest.mark.libero
@pytest.mark.parametrize("condition", [Condition.MOVING4, Condition.MOVING12])
def test_the_expert_meets_a_target_on_the_move(env: LiberoEnv, condition: Condition) -> None:
    observation, _ = env.reset(start(condition))
    expert, is_success = build_expert(env.scene, Style.nominal(), np.random.default_rng(0)), False
    for _ in range(150):
        observation, _, is_success, is_over, _ = env.step(expert.act(observation.proprio).executed)
        if is_success or is_over:
            break
    assert is_success
    assert expert.n_retries <= 1


def test_demonstrations_keep_their_condition() -> None:
    for number in range(5):
        attempt = Attempt(SUITE, TASK, number, 0, condition=Condition.MOVING6)
        found = draw_start(attempt, attempt.rngs(1)[0])
        assert (found.condition, found.split) == (Condition.MOVING6, Split.TRAIN)
        assert found.key.endswith("/moving6")
