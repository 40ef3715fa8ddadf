"""The LIBERO adapter against the published environment, against itself, and against misuse."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heisd.errors import BadInput
from heisd.sim.protocols import OPENVLA
from heisd.sim.splits import Condition, EpisodeStart
from heisd.types import Observation

pytest.importorskip("libero", reason='needs pip install "heisd[libero]"')
pytestmark = pytest.mark.libero

from heisd.sim import robosuite_env  # noqa: E402
from heisd.sim.gl import choose_backend  # noqa: E402
from heisd.sim.libero import SETTLE_ACTION, LiberoEnv  # noqa: E402
from heisd.sim.rendering import FAST, NONE, STOCK  # noqa: E402

SUITE, TASK = "libero_spatial", 5  # the bowl on the ramekin: fixtures, contacts and a carried target
TASK_ON_FIXTURE = 9  # the bowl on the cabinet: placed where the cabinet stands in the model, not in the state
N_STEPS = 40


def start(
    init_state: int | None = 3, *, seed: int | None = None, condition: Condition = Condition.SHIPPED
) -> EpisodeStart:
    return EpisodeStart(SUITE, TASK, init_state, seed, condition)


def actions(n: int = N_STEPS) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Downward into the objects, with turns and a closing gripper: contacts are what breaks reproducibility."""
    rng = np.random.default_rng(7)
    moves = np.clip(rng.normal(0.0, 0.5, (n, 3)) - [0.1, 0.0, 0.5], -1, 1)
    return np.concatenate([moves, rng.normal(0, 0.1, (n, 3)), np.where(np.arange(n) > n // 2, 1, -1)[:, None]], axis=1)


def trajectory(env: LiberoEnv, n: int = N_STEPS) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n, …) full physics state, warm start included, and proprioception after every action."""
    rows = []
    for action in actions(n):
        observation, *_ = env.step(action)
        data, seen = env.robosuite_env.sim.data._data, observation.proprio
        rows.append(np.concatenate([data.qpos, data.qvel, data.qacc_warmstart, seen.eef_pos_m, seen.gripper_qvel_m_s]))
    return np.array(rows)


@pytest.fixture(scope="module", autouse=True)
def _backend() -> None:
    choose_backend()


@pytest.fixture(scope="module")
def fast() -> Iterator[LiberoEnv]:
    env = LiberoEnv(SUITE, TASK, rendering=FAST)
    yield env
    env.close()


class Published:
    """LIBERO's own environment, used as the published evaluation loops use it."""

    def __init__(self, env: LiberoEnv) -> None:
        from libero.libero.envs import OffScreenRenderEnv

        with robosuite_env.quiet():
            self.env = OffScreenRenderEnv(bddl_file_name=str(env.task.bddl_file))
        self._shipped = env._shipped

    def rollout(self, init_state: int, n: int) -> list[dict[str, Any]]:
        with robosuite_env.quiet(), robosuite_env.numpy_seed(OPENVLA.env_seed):
            self.env.reset()
            self.env.set_init_state(self._shipped[init_state])
            observations = [self.env.step(SETTLE_ACTION)[0] for _ in range(OPENVLA.settle_steps)][-1:]
            observations += [self.env.step(action)[0] for action in actions(n)]
        return observations


@pytest.fixture(scope="module")
def published(fast: LiberoEnv) -> Iterator[list[dict[str, Any]]]:
    environment = Published(fast)
    yield environment.rollout(3, 10)
    environment.env.close()


PROPRIO = {
    "robot0_eef_pos": "eef_pos_m",
    "robot0_eef_quat": "eef_quat_xyzw",
    "robot0_gripper_qpos": "gripper_qpos_m",
    "robot0_gripper_qvel": "gripper_qvel_m_s",
    "robot0_joint_pos": "joint_pos_rad",
    "robot0_joint_vel": "joint_vel_rad_s",
}


def test_stock_rendering_equals_the_published_observations_bit_for_bit(published: list[dict[str, Any]]) -> None:
    env = LiberoEnv(SUITE, TASK, rendering=STOCK)
    ours = [env.reset(start())[0]] + [env.step(action)[0] for action in actions(10)]
    env.close()
    for theirs, mine in zip(published, ours, strict=True):
        np.testing.assert_array_equal(mine.images["agentview"], theirs["agentview_image"][::-1, ::-1])
        np.testing.assert_array_equal(mine.images["wrist"], theirs["robot0_eye_in_hand_image"][::-1, ::-1])
        for key, name in PROPRIO.items():
            np.testing.assert_array_equal(getattr(mine.proprio, name), theirs[key], err_msg=key)


def test_fast_rendering_shows_the_published_scene_with_the_published_physics(
    fast: LiberoEnv, published: list[dict[str, Any]]
) -> None:
    ours = [fast.reset(start())[0]] + [fast.step(action)[0] for action in actions(10)]
    for theirs, mine in zip(published, ours, strict=True):
        for key, name in PROPRIO.items():
            np.testing.assert_array_equal(getattr(mine.proprio, name), theirs[key], err_msg=key)
        for camera, key in (("agentview", "agentview_image"), ("wrist", "robot0_eye_in_hand_image")):
            stock = theirs[key][::-1, ::-1].astype(float)
            assert np.abs(mine.images[camera] - stock).mean() < 6
            correlation = np.corrcoef(mine.images[camera].ravel(), stock.ravel())[0, 1]
            mirrored = np.corrcoef(mine.images[camera][:, ::-1].ravel(), stock.ravel())[0, 1]
            assert correlation > 0.95 > mirrored


def test_pictures_drawn_late_are_those_of_their_instant_bit_for_bit(fast: LiberoEnv) -> None:
    late = LiberoEnv(SUITE, TASK, rendering=FAST, draws_late=True)
    at_once = [fast.reset(start())[0]] + [fast.step(action)[0] for action in actions(12)]
    kept = [late.reset(start())[0]] + [late.step(action)[0] for action in actions(12)]
    order = np.random.default_rng(0).permutation(len(kept))
    for i in order:  # all of them behind the last step, and in any order
        for camera in ("wrist", "agentview"):
            np.testing.assert_array_equal(kept[i].images[camera], at_once[i].images[camera])
            assert kept[i].images[camera] is kept[i].images[camera]
    assert list(kept[0].images) == list(at_once[0].images)
    assert "elbow" not in kept[0].images
    unread, _, *_ = late.step(actions(1)[0])
    sent = copy.copy(unread.images)  # as it is sent to another process
    assert type(sent) is dict
    np.testing.assert_array_equal(sent["wrist"], unread.images["wrist"])
    unread, _, *_ = late.step(actions(1)[0])
    late.close()
    with pytest.raises(BadInput, match="after its environment was closed"):
        unread.images["wrist"]


def test_environments_of_one_process_do_not_draw_into_each_other(fast: LiberoEnv) -> None:
    stock = LiberoEnv(SUITE, TASK, rendering=STOCK)
    alone, _ = stock.reset(start())
    fast_alone, _ = fast.reset(start())
    again, _ = stock.reset(start())
    stock.close()
    fast_again, _ = fast.reset(start())
    for camera in ("agentview", "wrist"):
        np.testing.assert_array_equal(again.images[camera], alone.images[camera])
        np.testing.assert_array_equal(fast_again.images[camera], fast_alone.images[camera])


def test_rendering_does_not_change_the_physics_over_a_rollout(fast: LiberoEnv) -> None:
    fast.reset(start())
    drawn = trajectory(fast)
    blind = LiberoEnv(SUITE, TASK, rendering=NONE)
    observation, _ = blind.reset(start())
    assert observation.images == {}
    np.testing.assert_array_equal(trajectory(blind), drawn)
    blind.close()


@pytest.mark.parametrize(
    "wanted",
    [start(3), start(None, seed=2_000_005), start(3, condition=Condition.JITTER4)],
    ids=["shipped", "fresh", "jitter4"],
)
def test_a_start_is_bit_identical_after_any_history(fast: LiberoEnv, wanted: EpisodeStart) -> None:
    fresh = LiberoEnv(SUITE, TASK, rendering=FAST)
    first, _ = fresh.reset(wanted)
    expected = trajectory(fresh)
    fresh.close()
    for other in (start(None, seed=1_234_567), start(17, condition=Condition.JITTER)):
        fast.reset(other)
        trajectory(fast, 15)  # ends with a half-closed gripper, moved objects, a moved cabinet
        np.random.random(3)  # the caller's global generator must not matter
        again, _ = fast.reset(wanted)
        for camera in ("agentview", "wrist"):
            np.testing.assert_array_equal(again.images[camera], first.images[camera])
        np.testing.assert_array_equal(again.proprio.joint_pos_rad, first.proprio.joint_pos_rad)
        np.testing.assert_array_equal(trajectory(fast), expected)


def test_what_stands_on_a_fixture_starts_there_and_where_it_did_before_any_history() -> None:
    env = LiberoEnv(SUITE, TASK_ON_FIXTURE, rendering=NONE)

    def layout(seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        env.reset(EpisodeStart(SUITE, TASK_ON_FIXTURE, None, seed))
        sim, bodies = env.robosuite_env.sim, env.robosuite_env.obj_body_id
        bowl, cabinet = (sim.data.body_xpos[bodies[name]] for name in ("akita_black_bowl_1", "wooden_cabinet_1"))
        assert np.abs(bowl - cabinet)[:2].max() < 0.1
        assert bowl[2] > cabinet[2] + 0.1
        return np.concatenate([sim.data.qpos, sim.model.body_pos.ravel()])

    first = layout(1_000_001)
    assert np.abs(layout(1_000_002) - first).max() > 1e-3
    np.testing.assert_array_equal(layout(1_000_001), first)
    env.close()


def test_a_reset_leaves_the_callers_generator_alone(fast: LiberoEnv) -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    fast.reset(start(None, seed=1_000_001))
    assert np.random.random() == expected


def test_conditions_move_the_targets_with_what_carries_them(fast: LiberoEnv) -> None:
    def positions(condition: Condition) -> dict[str, Any]:
        fast.reset(start(3, condition=condition))
        env = fast.robosuite_env
        return {name: env.sim.data.body_xpos[body].copy() for name, body in env.obj_body_id.items()}

    shipped, jitter4 = positions(Condition.SHIPPED), positions(Condition.JITTER4)
    moved = {name: np.abs(jitter4[name] - shipped[name])[:2].max() for name in shipped}
    bowl, ramekin = (
        (jitter4[name] - shipped[name])[:2] for name in ("akita_black_bowl_1", "glazed_rim_porcelain_ramekin_1")
    )
    assert 0.001 < moved["akita_black_bowl_1"] <= 0.041
    assert np.abs(bowl - ramekin).max() < 0.003  # still standing on it
    assert moved["akita_black_bowl_2"] < 0.001  # not a target
    assert moved["wooden_cabinet_1"] == 0


def test_extra_jitter_follows_the_callers_generator(fast: LiberoEnv) -> None:
    def offsets(seed: int) -> Any:
        _, info = fast.reset(start(3), extra_jitter_m=0.02, rng=np.random.default_rng(seed))
        return np.concatenate(list(info["target_offsets_m"].values()))

    np.testing.assert_array_equal(offsets(1), offsets(1))
    assert np.abs(offsets(1) - offsets(2)).max() > 1e-3
    with pytest.raises(BadInput, match="rng"):
        fast.reset(start(3), extra_jitter_m=0.02)


def test_an_observation_is_not_overwritten_by_the_next(fast: LiberoEnv) -> None:
    first, _ = fast.reset(start())
    kept = {name: image.copy() for name, image in first.images.items()}, first.proprio.eef_pos_m.copy()
    trajectory(fast, 5)
    np.testing.assert_array_equal(first.images["wrist"], kept[0]["wrist"])
    np.testing.assert_array_equal(first.proprio.eef_pos_m, kept[1])


def test_an_episode_is_truncated_at_the_horizon_and_success_needs_the_predicate(fast: LiberoEnv) -> None:
    fast.reset(start())
    fast._draws = False
    ends = [fast.step(SETTLE_ACTION)[2:4] for _ in range(fast.horizon)]
    assert fast.horizon == OPENVLA.horizon(SUITE) == 220
    assert [truncated for _, truncated in ends] == [False] * 219 + [True]
    assert not any(terminated for terminated, _ in ends)


def test_success_terminates(fast: LiberoEnv) -> None:
    fast.reset(start())
    env = fast.robosuite_env
    plate = env.sim.data.get_joint_qpos(env.objects_dict["plate_1"].joints[-1]).copy()
    plate[2] += 0.02
    env.sim.data.set_joint_qpos(env.objects_dict["akita_black_bowl_1"].joints[-1], plate)
    steps = [fast.step(SETTLE_ACTION) for _ in range(20)]
    assert steps[-1][2]
    assert steps[-1][1] == 1.0
    assert steps[-1][4]["success"]


def test_without_a_new_command_the_arm_goes_on_to_the_goal_it_has() -> None:
    env, forward = LiberoEnv(SUITE, TASK, rendering=NONE), np.array([0.0, 1.0, 0, 0, 0, 0, 1.0])  # 5 cm along y

    def hand(observation: Observation) -> Any:
        return observation.proprio.eef_pos_m

    def waited() -> list[Observation]:
        return [env.step(forward)[0]] + [env.wait()[0] for _ in range(20)]

    began = hand(env.reset(start())[0])
    held = waited()
    stopped = [env.reset(start())[0], env.step(forward)[0]] + [
        env.step(np.append(np.zeros(6), 1.0))[0] for _ in "x" * 20
    ]
    assert hand(held[0])[1] - began[1] < 0.03  # a step later it is only under way
    np.testing.assert_allclose(hand(held[-1]) - began, [0, 0.05, 0], atol=0.004)
    assert hand(stopped[-1])[1] - began[1] < 0.045  # a command to stay cuts the way short
    assert np.ptp(held[-1].proprio.gripper_qpos_m) < 0.03  # the fingers went on closing
    assert held[-1].time_s == pytest.approx(21 * 0.05)
    env.reset(start())
    again = waited()
    np.testing.assert_array_equal(hand(again[-1]), hand(held[-1]))
    assert hand(env.step(forward)[0])[1] > hand(held[-1])[1] + 0.001  # the next command is heard
    env.reset(start())
    still = [env.wait()[0] for _ in range(6)][-1]
    assert np.abs(hand(still) - began).max() < 0.002  # settling was the last command
    assert np.ptp(still.proprio.gripper_qpos_m) > 0.07  # with open fingers
    assert [env.wait()[3] for _ in range(env.horizon - 6)] == [False] * (env.horizon - 7) + [True]
    env.close()


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan), np.zeros((1, 7))])
def test_a_malformed_action_is_refused(fast: LiberoEnv, action: Any) -> None:
    with pytest.raises(BadInput, match="7 finite numbers"):
        fast.step(action)


def test_a_start_of_another_task_or_an_unshipped_state_is_refused(fast: LiberoEnv) -> None:
    with pytest.raises(BadInput, match="is not of"):
        fast.reset(EpisodeStart(SUITE, TASK + 1, 0, None))
    with pytest.raises(BadInput, match="ships 50"):
        fast.reset(start(50))


def test_building_and_stepping_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    env = LiberoEnv(SUITE, TASK, rendering=NONE)
    env.reset(start())
    env.step(SETTLE_ACTION)
    env.close()
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_thousand_resets_do_not_leak(fast: LiberoEnv) -> None:
    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def use(n: int) -> None:
        for i in range(n):
            fast.reset(start(None, seed=1_000_000 + i))

    use(50)
    before = resident_mib()
    use(1000)
    assert resident_mib() - before < 20
