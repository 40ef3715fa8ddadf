"""LIBERO as an environment: typed observations, reproducible starts, Gymnasium's five return values.

``terminated`` is LIBERO's own success predicate, ``truncated`` the protocol's horizon; stepping on after either is
allowed (demonstrations record the release). Images and proprioception are sampled when robosuite samples its sensors.
"""

import atexit
import contextlib
import gc
import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heisd.errors import BadInput
from heisd.sim import robosuite_env
from heisd.sim.belt import Belt
from heisd.sim.gl import choose_backend, choose_backend_if_any
from heisd.sim.jitter import TargetJitter
from heisd.sim.protocols import OPENVLA, Protocol
from heisd.sim.rendering import FAST, NONE, STOCK, Renderer, Rendering, make_renderer
from heisd.sim.scene import Scene
from heisd.sim.splits import EpisodeStart
from heisd.sim.suites import init_states, suite_info
from heisd.types import FloatArray, ImageArray, Observation, Proprioception

log = logging.getLogger(__name__)

CONTROL_STEP_S = 0.05  # 20 Hz
SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


class LiberoEnv:
    """One LIBERO task, reused between episodes.

    Raises UnknownName or IncompleteSuite for a wrong suite, BadInput for a wrong task index, MissingExtra
    without LIBERO or OpenGL (``rendering=NONE`` needs no OpenGL).
    """

    def __init__(
        self,
        suite: str,
        task_index: int,
        *,
        protocol: Protocol = OPENVLA,
        cameras: Sequence[str] = ("agentview", "wrist"),
        image_size: int = 128,
        rendering: Rendering = FAST,
        draws_late: bool = False,
    ) -> None:
        """With ``draws_late`` a picture is drawn when it is first read: for policies that do not look at every step.

        Whoever times a policy reads the pictures before (:func:`heisd.sim.rendering.draw`), or draws inside its clock.
        """
        self.task = suite_info(suite).task(task_index)
        self.suite, self.protocol, self.rendering = suite, protocol, rendering
        self.horizon = protocol.horizon(suite)
        backend = choose_backend() if rendering is not NONE else choose_backend_if_any()
        self._env = robosuite_env.build(self.task.bddl_file, stock_rendering=rendering is STOCK)
        self._shipped = init_states(self.task)
        self._soft_reset = robosuite_env.SoftReset(self._env)
        self._jitter, self._belt = TargetJitter(self._env), Belt(self._env)
        self._sensors = _Sensors(self._env)
        self._renderer = make_renderer(rendering, backend, self._env.sim, tuple(cameras), image_size)
        self._draws, self._draws_late = False, draws_late
        self._images: Mapping[str, ImageArray] = {}
        self._proprio = self._sensors.read()
        self._step = 0
        self._command = SETTLE_ACTION  # the last one
        robosuite_env.observe_with(self._env, self._sample)
        self._free = weakref.finalize(self, _free, self._renderer, self._env)
        # At interpreter exit it must run before mujoco ends OpenGL: the last to register is the first to run.
        self._free.atexit = False
        atexit.register(self._free)

    @property
    def instruction(self) -> str:
        """The sentence the policy is given."""
        return self.task.instruction

    @property
    def robosuite_env(self) -> Any:
        """The inner robosuite environment, for privileged experts only."""
        return self._env

    @property
    def scene(self) -> Scene:
        """What the simulator knows of the task, for privileged experts only."""
        return Scene(self._env, self._belt)

    def reset(
        self, start: EpisodeStart, *, extra_jitter_m: float = 0.0, rng: np.random.Generator | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Set up ``start`` and settle; the same start gives bit-identical results after any history.

        The start's condition moves the targets with its own seed; ``extra_jitter_m`` moves them once more with ``rng``
        (for demonstrations), which then draws a belt's direction as well. A belt sets off with the first step. Raises
        BadInput for a start of another task, a missing state or a target that no belt can carry.
        """
        self._draws = False
        self._belt.stop()
        self._place(start)
        offsets = self._jitter.apply(start.condition.jitter_m, np.random.default_rng(start.jitter_seed))
        if extra_jitter_m > 0:
            if rng is None:
                raise BadInput("extra_jitter_m needs the generator to draw from: pass rng")
            extra = self._jitter.apply(extra_jitter_m, rng)
            offsets = {name: offsets.get(name, 0.0) + moved for name, moved in extra.items()}
        self._publish_state()
        for remaining in reversed(range(self.protocol.settle_steps)):
            self._draws = remaining == 0
            self._advance(SETTLE_ACTION)
        self._draws, self._step, self._command = True, 0, SETTLE_ACTION
        info = {"start": start.key, "target_offsets_m": offsets}
        if start.condition.belt_m_s:
            belt_rng = np.random.default_rng(start.belt_seed) if rng is None else rng
            info["belt"] = self._belt.start(start.condition.belt_m_s, belt_rng)
        return self._observation(), info

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step of 50 ms: observation, reward (1.0 on success), terminated, truncated, info.

        ``action`` is (7,) in the environment's convention, each entry in [-1, 1] (clipped by the controller).
        Raises BadInput for a wrong shape or a value that is not finite.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (7,) or not np.isfinite(values).all():
            raise BadInput(f"an action is 7 finite numbers [dx dy dz drx dry drz gripper]; got {action!r}")
        self._command = values
        return self._outcome(self._advance(values))

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step of 50 ms without a new command, as when a policy is late; returns what :meth:`step` does.

        The arm's controller goes on to the goal it was given last and stays there; the fingers go on as commanded.
        """
        with robosuite_env.kept_goal(self._env):
            return self._outcome(self._advance(self._command))

    def close(self) -> None:
        """Free the renderer and the simulation; the environment cannot be used afterwards."""
        self._renderer = None
        self._free()
        atexit.unregister(self._free)
        gc.collect()  # robosuite's objects refer to one another in circles: 130 MB would wait for a late collection

    def _place(self, start: EpisodeStart) -> None:
        if (start.suite, start.task_index) != (self.suite, self.task.index):
            raise BadInput(f"start {start.key} is not of {self.suite} task {self.task.index}")
        if start.init_state is None:
            assert start.seed is not None
            self._soft_reset(start.seed)
            return
        if start.init_state >= len(self._shipped):
            raise BadInput(
                f"{self.suite} task {self.task.index} ships {len(self._shipped)} initial states; "
                f"{start.init_state} was asked for: use a fresh seed"
            )
        self._soft_reset(self.protocol.env_seed)
        self._env.sim.set_state_from_flattened(self._shipped[start.init_state])

    def _publish_state(self) -> None:
        """What LIBERO's ``set_init_state`` does after writing the state."""
        env = self._env
        env.sim.forward()
        self._draws = self.protocol.settle_steps == 0
        with robosuite_env.quiet():
            env._check_success()
            env._post_process()
            env._update_observables(force=True)

    def _advance(self, action: FloatArray) -> bool:
        plain = self.rendering is STOCK and not self._belt.is_running  # the belt needs a step in two halves
        substeps = contextlib.nullcontext() if plain else robosuite_env.fused_substeps(self._env, self._belt.drive)
        with substeps:
            _, _, success, _ = self._env.step(action)
        return bool(success)

    def _sample(self) -> None:
        """Called by robosuite's sensor clock, once per control period."""
        self._proprio = self._sensors.read()
        if self._draws and self._renderer is not None:
            self._images = self._renderer.late() if self._draws_late else self._renderer.render()

    def _outcome(self, success: bool) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return self._observation(), float(success), success, self._step >= self.horizon, {"success": success}

    def _observation(self) -> Observation:
        return Observation(self._images, self._proprio, self.instruction, self._step * CONTROL_STEP_S)


def _free(renderer: Renderer | None, env: Any) -> None:
    if renderer is not None:
        renderer.close()
    env.close()


class _Sensors:
    """Reads proprioception as robosuite's own observables do."""

    def __init__(self, env: Any) -> None:
        robot = env.robots[0]
        self._data = env.sim.data._data
        self._site = robot.eef_site_id
        self._hand = env.sim.model.body_name2id(robot.robot_model.eef_name)
        self._arm_qpos, self._arm_qvel = robot._ref_joint_pos_indexes, robot._ref_joint_vel_indexes
        self._gripper_qpos = robot._ref_gripper_joint_pos_indexes
        self._gripper_qvel = robot._ref_gripper_joint_vel_indexes

    def read(self) -> Proprioception:
        """The robot's state at this instant, copied."""
        data = self._data
        return Proprioception(
            eef_pos_m=data.site_xpos[self._site].copy(),
            eef_quat_xyzw=data.xquat[self._hand][[1, 2, 3, 0]],
            gripper_qpos_m=data.qpos[self._gripper_qpos],
            gripper_qvel_m_s=data.qvel[self._gripper_qvel],
            joint_pos_rad=data.qpos[self._arm_qpos],
            joint_vel_rad_s=data.qvel[self._arm_qvel],
        )


_open_env: list[tuple[Any, LiberoEnv]] = []  # at most one


def cached_env(suite: str, task_index: int, **options: Any) -> LiberoEnv:
    """The process's one open environment: the same again for equal arguments, else the old one is closed first.

    Options are those of :class:`LiberoEnv`; they must be hashable. For workers that serve one task after another.
    """
    key = (suite, task_index, frozenset(options.items()))
    if _open_env and _open_env[0][0] != key:
        _open_env.pop()[1].close()
    if not _open_env:
        _open_env.append((key, LiberoEnv(suite, task_index, **options)))
    return _open_env[0][1]
