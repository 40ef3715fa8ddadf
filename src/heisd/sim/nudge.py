"""A target object that is pushed along the table while the robot is at work."""

from typing import Any

import numpy as np

from heisd.sim.faults import Disturbance
from heisd.sim.jitter import TargetJitter
from heisd.sim.shifts import Shift

SPEED_M_S = 0.05
_STEP_M = SPEED_M_S * 0.05  # a control step is 50 ms
_LIFTED_M = 0.005  # above where it stood: it is no longer on the table


class Nudge(Disturbance):
    """Moves one target, and what carries it, by 2.5 mm before every control step until it has come far enough.

    Slowly, so that it neither jumps nor tips, and only where it is free to go: against something else, in the fingers
    or off the table it stays where it is for that step. What it leaves out is not made up for: the push has its time.
    """

    def __init__(self, shift: Shift, rng: np.random.Generator, robosuite_env: Any) -> None:
        super().__init__(shift, rng)
        self._env = robosuite_env
        self._targets = TargetJitter(robosuite_env)
        names = sorted(self._targets.names)
        self._target = names[int(rng.integers(len(names)))] if names else None
        angle = rng.uniform(0.0, 2.0 * np.pi)
        self._direction = np.array([np.cos(angle), np.sin(angle)])
        self._n_steps = round(shift.number("cm") / 100.0 / _STEP_M)
        self._first_step = max(self.onset_step, 1)  # the first observation is the start's own
        self._stood_at_m: float | None = None  # height of the target

    def prepare(self, step: int) -> None:
        """Push, if it is time to."""
        if self._target is None or not 0 <= step - self._first_step < self._n_steps:
            return
        if self._stood_at_m is None:
            self._stood_at_m = self._height_m()
        if not self._is_held() and self._height_m() < self._stood_at_m + _LIFTED_M:
            self._targets.push(self._target, _STEP_M * self._direction)

    def _height_m(self) -> float:
        return float(self._env.sim.data.body_xpos[self._env.obj_body_id[self._target]][2])

    def _is_held(self) -> bool:
        grasped = self._env._check_grasp(
            gripper=self._env.robots[0].gripper, object_geoms=self._env.get_object(self._target)
        )
        return bool(grasped)
