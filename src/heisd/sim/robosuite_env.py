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


def build(bddl_file: Path, *, with_stock_context: bool) -> Any:
    """The inner robosuite environment of a BDDL file, without cameras among its observables."""
    from heisd.sim.suites import import_libero

    with quiet(), _logging_disabled(), numpy_seed(0):
        control_env = import_libero("libero.libero.envs.env_wrapper").ControlEnv
        return control_env(
            bddl_file_name=str(bddl_file),
            use_camera_obs=False,
            has_offscreen_renderer=with_stock_context,
            hard_reset=False,
            ignore_done=True,
        ).env


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


def observe_with(env: Any, callback: Callable[[], None]) -> None:
    """Replace all of robosuite's observables by one that calls ``callback`` when robosuite samples its sensors.

    robosuite re-evaluates dozens of sensors, cameras included, on its own clock, once per control period. Handing
    that clock a single callback keeps the published sampling instant at a fraction of the cost.
    """
    from robosuite.utils.observables import Observable, sensor

    @sensor(modality="heisd")
    def sample(_: Any) -> FloatArray:
        callback()
        return np.zeros(1)

    env._observables.clear()
    env._observables["heisd"] = Observable("heisd", sample, sampling_rate=env.control_freq)
