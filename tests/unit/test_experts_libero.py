"""The experts in the simulator: physics only, a few episodes."""

import numpy as np
import pytest

pytest.importorskip("libero", reason="needs the extra `libero`")

from heisd.sim.experts import Style, UnsupportedTask, build_expert
from heisd.sim.experts.grasps import plan_grasp
from heisd.sim.experts.measure import Trial, run_task
from heisd.sim.experts.primitives import Phase
from heisd.sim.libero import LiberoEnv
from heisd.sim.rendering import NONE
from heisd.sim.scene import Goal, Scene
from heisd.sim.splits import EpisodeStart

pytestmark = pytest.mark.libero


@pytest.mark.parametrize(("suite", "task"), [("libero_object", 1), ("libero_spatial", 4)])
def test_the_nominal_expert_succeeds_without_a_retry(suite, task):
    trial = Trial(suite, n_states=1, is_sampled=False, is_fresh=False, jitter_m=0.0, seed=0)
    (outcome,) = run_task(trial, task)
    assert outcome.is_success
    assert (outcome.n_retries, outcome.n_stalls) == (0, 0)
    assert outcome.n_steps < 130


@pytest.mark.parametrize(("suite", "task"), [("libero_object", 3), ("libero_spatial", 9)])
def test_an_object_is_always_grasped_from_the_same_side(suite, task):
    """A bowl offers both sides of its rim and a flat bottle turns of the hand either way: one must be the habit."""
    env = LiberoEnv(suite, task, rendering=NONE)
    try:
        yaws_rad, sides_m = [], []
        for number in range(8):
            rng = np.random.default_rng(number)
            env.reset(EpisodeStart(suite, task, number, None), extra_jitter_m=0.02, rng=rng)
            scene = Scene(env.robosuite_env)
            name = scene.goals[0].arguments[0]
            grasp = plan_grasp(scene, name, Style.sample(rng))
            yaws_rad.append(grasp.yaw_rad)
            sides_m.append((grasp.point(scene.pose(name)) - scene.pose(name).position_m)[1])
        assert np.ptp(yaws_rad) < 1.2
        assert np.ptp(sides_m) < 0.05
    finally:
        env.close()


@pytest.mark.parametrize("n_before", [5, 60])
def test_another_expert_takes_over_before_and_after_the_grasp(n_before):
    env = LiberoEnv("libero_spatial", 2, rendering=NONE)
    try:
        observation, _ = env.reset(EpisodeStart("libero_spatial", 2, 0, None))
        scene, rng = Scene(env.robosuite_env), np.random.default_rng(0)
        name = scene.goals[0].arguments[0]
        for expert, n_steps in ((build_expert(scene, Style.nominal(), rng), n_before), (None, 120)):
            assert scene.is_held(name) == (expert is None and n_before == 60)
            expert = expert or build_expert(scene, Style.nominal(), rng)
            phases = []
            for _ in range(n_steps):
                step = expert.act(observation.proprio)
                phases.append(step.phase)
                observation, _, is_success, *_ = env.step(step.executed)
                if is_success:
                    break
        assert is_success
        assert expert.n_retries == 0
        assert phases[0] == (Phase.TRANSPORT if n_before == 60 else Phase.APPROACH)
    finally:
        env.close()


def test_the_same_seed_gives_the_same_demonstration():
    env = LiberoEnv("libero_object", 0, rendering=NONE)
    try:
        runs = []
        for _ in range(2):
            observation, _ = env.reset(EpisodeStart("libero_object", 0, 0, None))
            rng = np.random.default_rng(5)
            expert = build_expert(Scene(env.robosuite_env), Style.sample(rng), rng)
            labels = []
            for _ in range(15):
                step = expert.act(observation.proprio)
                labels.append(step.action)
                observation, *_ = env.step(step.executed)
            runs.append(np.array(labels))
        assert np.array_equal(*runs)
    finally:
        env.close()


def test_a_goal_nobody_has_scripted_is_refused(monkeypatch):
    env = LiberoEnv("libero_goal", 0, rendering=NONE)
    try:
        monkeypatch.setattr(Scene, "goals", (Goal("up", ("plate_1",)),))
        with pytest.raises(UnsupportedTask, match="scripted so far"):
            build_expert(Scene(env.robosuite_env), Style.nominal(), np.random.default_rng(0))
    finally:
        env.close()
