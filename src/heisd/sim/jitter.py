"""Move a task's target objects on the plane: the ``jitter`` conditions and varied demonstrations.

Targets are LIBERO's objects of interest that can move (fixtures stay). What carries a target, when it can
move too (the ramekin under a bowl), moves with it, so that the instruction stays true. An offset that pushes
an object into another is drawn again; after a few tries its range shrinks, down to no offset at all.
"""

from typing import Any

import numpy as np

from heisd.sim.targets import targets, with_carriers
from heisd.types import FloatArray, IntArray

_TRIES_PER_RANGE = 10
_N_RANGES = 4  # full range, 1/2, 1/4, 1/8, then the object stays
_EXTRA_PENETRATION_M = 1e-3


class TargetJitter:
    """Uniform xy offsets for the target objects of one environment."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._groups = {name: with_carriers(env.parsed_problem, name) for name in targets(env.parsed_problem)}

    @property
    def names(self) -> tuple[str, ...]:
        """The targets."""
        return tuple(self._groups)

    def push(self, target: str, offset_m: FloatArray) -> bool:
        """Move one target, and what carries it, by (2,) metres unless that pushes it into something else."""
        group = self._groups[target]
        return self._fits(group, offset_m, self._penetration_m(group) + _EXTRA_PENETRATION_M)

    def apply(self, half_width_m: float, rng: np.random.Generator) -> dict[str, FloatArray]:
        """Move every target by an offset in ``[-half_width_m, half_width_m]^2``; returns target -> (2,) offset [m]."""
        if half_width_m <= 0:
            return {}
        return {target: self._move(group, half_width_m, rng) for target, group in self._groups.items()}

    def _move(self, group: tuple[str, ...], half_width_m: float, rng: np.random.Generator) -> FloatArray:
        allowed_m = self._penetration_m(group) + _EXTRA_PENETRATION_M
        for attempt in range(_TRIES_PER_RANGE * _N_RANGES):
            width_m = half_width_m / 2 ** (attempt // _TRIES_PER_RANGE)
            offset = rng.uniform(-width_m, width_m, size=2)
            if self._fits(group, offset, allowed_m):
                return offset
        return np.zeros(2)

    def _fits(self, group: tuple[str, ...], offset_m: FloatArray, allowed_m: float) -> bool:
        """Move a group; back again, and False, if it then overlaps with anything else by more than is allowed."""
        data = self._env.sim.data
        addresses = np.array([self._xy_address(name) for name in group])
        before = data.qpos[addresses].copy()
        data.qpos[addresses] = before + offset_m
        if self._penetration_m(group) <= allowed_m:
            return True
        data.qpos[addresses] = before
        return False

    def _xy_address(self, name: str) -> IntArray:
        start, _ = self._env.sim.model.get_joint_qpos_addr(self._env.objects_dict[name].joints[-1])
        return np.arange(start, start + 2)

    def _penetration_m(self, group: tuple[str, ...]) -> float:
        """Deepest overlap [m] between the group and anything else, in the current state."""
        sim = self._env.sim
        sim.forward()
        roots = {sim.model.body_rootid[self._env.obj_body_id[name]] for name in group}
        contact = sim.data._data.contact
        sides = sim.model.body_rootid[sim.model.geom_bodyid[contact.geom]]
        crossing = np.isin(sides, list(roots)).sum(axis=1) == 1
        return float(-contact.dist[crossing].min(initial=0.0))
