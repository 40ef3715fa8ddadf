"""Build and reset the robosuite environment behind a LIBERO task: quietly and reproducibly.

robosuite keeps state outside mjData that a soft reset leaves behind: poses of fixtures inside the model,
the gripper's accumulated command, observable timers. :class:`SoftReset` puts all of it back, so that a reset
after any history equals the first one, at a tenth of the cost of rebuilding the scene.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from heisd.errors import HeisdError
from heisd.sim.suites import import_libero
from heisd.sim.textures import with_small_textures
from heisd.types import FloatArray

_MAX_PLACEMENT_TRIES = 200
# What robosuite and LIBERO write into the model at run time: fixture poses, burner glow, site visibility.
_MUTABLE_MODEL_FIELDS = ("body_pos", "body_quat", "site_rgba", "geom_rgba", "site_size")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep robosuite's and LIBERO's prints and warnings out of the caller's streams."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Run with numpy's global generator (the only one LIBERO draws from) seeded, then restore the caller's."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def build(bddl_file: Path, *, stock_rendering: bool) -> Any:
    """The robosuite environment of a BDDL file, as LIBERO configures it but without cameras among its observables.

    Unless ``stock_rendering``, it gets no off-screen context and small textures; its physics is the same.
    """
    with quiet(), _logging_disabled(), numpy_seed(0):
        domain = _domain(bddl_file)
        controller = import_libero("robosuite").load_controller_config(default_controller="OSC_POSE")
        return (domain if stock_rendering else _with_small_textures(domain))(
            str(bddl_file),
            robots=["Panda"],
            controller_configs=controller,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=stock_rendering,
            control_freq=20,
            ignore_done=True,
            hard_reset=False,
        )


def _domain(bddl_file: Path) -> Any:
    """LIBERO's environment class for the problem that a BDDL file names."""
    problem = import_libero("libero.libero.envs.bddl_utils").get_problem_info(str(bddl_file))["problem_name"]
    return import_libero("libero.libero.envs").TASK_MAPPING[problem]


def _with_small_textures(domain: Any) -> Any:
    def initialize(self: Any, xml_string: str | None = None) -> None:
        domain._initialize_sim(self, with_small_textures(xml_string or self.model.get_xml()))

    # LIBERO checks the class name against the BDDL file, so the subclass keeps it.
    return type(domain.__name__, (domain,), {"_initialize_sim": initialize})


@contextlib.contextmanager
def _logging_disabled() -> Iterator[None]:
    """robosuite warns through logging about a macro file nobody needs; mute it while it is imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class SoftReset:
    """Reset one robosuite environment as if it had just been built."""

    def __init__(self, env: Any) -> None:
        self._env = env
        model = env.sim.model._model
        self._pristine = {name: getattr(model, name).copy() for name in _MUTABLE_MODEL_FIELDS}
        # The first reset finds every fixture at the origin. A later one would place the objects that belong on a
        # fixture around where it stood before, and add where it stands now.
        for body in (env.obj_body_id[name] for name in env.fixtures_dict if name in env.obj_body_id):
            self._pristine["body_pos"][body] = 0.0
            self._pristine["body_quat"][body] = (1.0, 0.0, 0.0, 0.0)

    def __call__(self, seed: int) -> None:
        """Sample a start from ``seed``; raises HeisdError when objects cannot be placed."""
        model = self._env.sim.model._model
        for name, value in self._pristine.items():
            getattr(model, name)[:] = value
        gripper = self._env.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)
        with quiet(), numpy_seed(seed):
            self._reset_until_placed()

    def _reset_until_placed(self) -> None:
        from robosuite.utils.errors import RandomizationError

        for _ in range(_MAX_PLACEMENT_TRIES):
            try:
                self._env.reset()
            except RandomizationError:
                continue
            return
        raise HeisdError(f"LIBERO could not place the objects in {_MAX_PLACEMENT_TRIES} tries")


@contextlib.contextmanager
def fused_substeps(env: Any, before_solving: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let ``env.step`` evaluate the dynamics once per substep instead of three times, bit for bit the same.

    robosuite calls ``forward`` twice before every ``step``, which begins with the same computation again. MuJoCo splits
    a step in two so that a controller can act in between: here the first ``forward`` is the first half, further ones
    find it done, and ``step`` is the second half. (Only the force sensors lag one substep; nothing reads them.)
    ``before_solving`` is called between the halves.
    """
    import mujoco

    sim = env.sim
    model, data = sim.model._model, sim.data._data
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:  # cannot be split
        yield
        return
    is_current = False

    def forward() -> None:
        nonlocal is_current
        if not is_current:
            mujoco.mj_step1(model, data)
            is_current = True

    def step(with_udd: bool = True) -> None:  # noqa: ARG001 - robosuite's signature
        nonlocal is_current
        before_solving()
        mujoco.mj_step2(model, data)
        is_current = False

    sim.forward, sim.step = forward, step
    try:
        yield
    finally:
        del sim.forward, sim.step


@contextlib.contextmanager
def kept_goal(env: Any) -> Iterator[None]:
    """Let ``env.step`` leave the arm's controller the goal it has; of the action only the gripper's part counts.

    robosuite's OSC takes a new goal, relative to where the hand is then, with the first substep of every step, and
    servoes towards it in all of them. Without a new one it goes on to the old one.
    """
    controller = env.robots[0].controller
    controller.set_goal = lambda _: None
    try:
        yield
    finally:
        del controller.set_goal


def observe_with(env: Any, callback: Callable[[], None]) -> None:
    """Replace all of robosuite's observables by one that calls ``callback`` when robosuite samples its sensors.

    robosuite re-evaluates dozens of sensors, cameras included, on its own clock, once per control period. Handing
    that clock a single callback keeps the published sampling instant at a fraction of the cost.
    """
    from robosuite.utils.observables import Observable, sensor

    def sample(_: Any) -> FloatArray:
        callback()
        return np.zeros(1)

    env._observables.clear()
    env._observables["heisd"] = Observable("heisd", sensor(modality="heisd")(sample), sampling_rate=env.control_freq)
