"""The belt in the simulator: it carries by friction alone, repeats bit for bit, and refuses what it cannot carry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("libero", reason='needs pip install "heisd[libero]"')

from heisd.bench.libero_world import libero_setting
from heisd.config import EvalConfig
from heisd.errors import BadInput
from heisd.sim.belt import Belt
from heisd.sim.collect import collect
from heisd.sim.demonstrate import Attempt, draw_start
from heisd.sim.experts import Style, build_expert
from heisd.sim.libero import SETTLE_ACTION, LiberoEnv
from heisd.sim.rendering import NONE
from heisd.sim.splits import Condition, EpisodeStart, Split
from heisd.sim.targets import require_carriable

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
def test_the_belt_sets_off_and_turns_round_gently(env: LiberoEnv) -> None:
    _, info = env.reset(start(Condition.MOVING12))
    began = env.scene.pose("akita_black_bowl_1").position_m
    way = np.append(0.0, (places(env, 60) - began) @ np.append(info["belt"]["direction"], 0.0))
    speeds = np.diff(way) * 20
    assert speeds.max() == pytest.approx(0.12, rel=0.01) == -speeds.min()  # it has turned round
    assert np.abs(np.diff(speeds)).max() * 20 < 1.05  # at 1 m/s^2


@pytest.mark.libero
def test_no_belt_runs_while_the_next_start_settles(env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(start())
    places(env, 5)
    seen = []
    monkeypatch.setattr(Belt, "drive", lambda belt: seen.append(belt.is_running))
    env.reset(start(Condition.SHIPPED))
    assert seen
    assert not any(seen)


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
def test_what_touches_its_neighbour_leaves_it_alone() -> None:
    env = LiberoEnv(SUITE, 0, rendering=NONE)  # the bowl less than a millimetre from the plate
    _, info = env.reset(EpisodeStart(SUITE, 0, 12, None, Condition.MOVING8))
    plate, began = env.scene.pose("plate_1").position_m, env.scene.pose("akita_black_bowl_1").position_m
    way = np.append(0.0, (places(env, 60) - began) @ np.append(info["belt"]["direction"], 0.0))
    pushed_m = np.linalg.norm(env.scene.pose("plate_1").position_m - plate)
    env.close()
    assert np.median(np.abs(np.diff(way))) * 20 == pytest.approx(0.08, rel=0.02)
    assert pushed_m < 0.005


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
