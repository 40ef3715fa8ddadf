"""A belt under a task's target: the ``moving`` conditions carry it along the table at a constant speed.

The belt is friction, not teleportation. In every contact between the target (or what carries it) and the table, the
solver is told that the table moves: the reference of the friction rows becomes the belt's velocity instead of rest.
So the object is dragged along within its friction cone, can be held back by a hand or another object, and is free of
the belt once it is lifted; then the belt stops for good.

It runs forth and back over a way that is clear of everything else, so that the target neither leaves the arm's reach
nor comes to rest by itself: a policy that is late cannot wait it out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from heisd.errors import BadInput
from heisd.sim.reach import reach_excess
from heisd.sim.scene import Scene
from heisd.sim.targets import first_to_grasp, stands_on_table, with_carriers
from heisd.types import FloatArray

HALF_WAY_M = 0.10  # at most, to either side of where the target stood
WANTED_WAY_M = 0.14  # the first direction drawn that has this much clear way in all is taken
_SHORTEST_WAY_M = 0.02  # where there is no more room than this, the belt stands still
_N_DIRECTIONS = 16
_GRID_M = 0.005  # of the places that stand for surfaces, and of those on a way whose reach is checked
_AIR_M = 0.015  # between the passing target and everything else
_REACH_MARGIN_M = 0.04  # a nearly straight arm grasps badly
_HAND_UP_M = 0.10  # above the table, where the hand has to go for a grasp
_LIFTED_M = 0.015
_ACCELERATION_M_S2 = 1.0  # of the belt, setting off and turning round: a tenth of what would make things slip
_TANGENTS = (1, 2)  # rows of a contact's frame, and of its constraint: the normal, then two tangents


class Belt:
    """The belt of one environment; stands still until :meth:`start`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._target = first_to_grasp(env.parsed_problem) or ""
        self._group = with_carriers(env.parsed_problem, self._target)
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the target is being carried."""
        return self._speed_m_s > 0

    def stop(self) -> None:
        """Stand still."""
        self._speed_m_s, self._sign, self._velocity_m_s = 0.0, 1.0, 0.0  # the last: now, along the direction
        self._origin_m: FloatArray = np.zeros(3)
        self._direction: FloatArray = np.zeros(3)
        self._ends_m = (0.0, 0.0)  # of the way, along the direction

    def start(self, speed_m_s: float, rng: np.random.Generator) -> dict[str, Any]:
        """Carry the target from where it stands now; ``rng`` draws the direction.

        Returns what was drawn, for the record. Raises BadInput where the target does not stand on the table.
        """
        self.stop()
        if not (self._target and stands_on_table(self._env.parsed_problem, self._target)):
            raise BadInput("no target of this task stands on the table, where a belt could carry it")
        self._find_support()
        self._origin_m = self._position_m()
        self._direction, self._ends_m = draw_way(self._way(), rng)
        if self._ends_m[1] - self._ends_m[0] >= _SHORTEST_WAY_M:
            self._speed_m_s = speed_m_s
        return {"target": self._target, "direction": self._direction[:2].tolist(), "ends_m": self._ends_m}

    def ahead_m(self, name: str, after_s: float) -> FloatArray:
        """(3,) how far an object will have been carried in so many seconds if nothing holds it back."""
        if name not in self._group or not self.is_running:
            return np.zeros(3)
        low, high = self._ends_m
        now = float(np.clip(self._along_m(), low, high))
        unfolded = (now - low if self._sign > 0 else 2 * (high - low) - (now - low)) + self._speed_m_s * after_s
        folded = unfolded % (2 * (high - low))
        there = low + min(folded, 2 * (high - low) - folded)
        return (there - now) * self._direction

    def drive(self) -> None:
        """Called in every substep between the dynamics' first half and the solver."""
        if not self.is_running:
            return
        if self._position_m()[2] > self._origin_m[2] + _LIFTED_M:
            self.stop()
            return
        now = self._velocity_m_s
        comes_to_rest_m = self._along_m() + now * abs(now) / (2 * _ACCELERATION_M_S2)
        if comes_to_rest_m >= self._ends_m[1]:
            self._sign = -1.0
        elif comes_to_rest_m <= self._ends_m[0]:
            self._sign = 1.0
        change = _ACCELERATION_M_S2 * self._env.sim.model._model.opt.timestep
        self._velocity_m_s = float(np.clip(self._sign * self._speed_m_s, now - change, now + change))
        self._drag(self._velocity_m_s * self._direction)

    def _drag(self, velocity_m_s: FloatArray) -> None:
        """Let the friction rows of the group's contacts with the table aim at this relative velocity."""
        data = self._env.sim.data._data
        contact = data.contact
        first, second = contact.geom[:, 0], contact.geom[:, 1]
        is_first, is_second = np.isin(first, self._geoms), np.isin(second, self._geoms)
        is_driven = (is_first & np.isin(second, self._support)) | (is_second & np.isin(first, self._support))
        for i in np.flatnonzero(is_driven & (contact.efc_address >= 0) & (contact.dim > max(_TANGENTS))):
            # Rows measure the second body's velocity relative to the first's.
            wanted = velocity_m_s if is_second[i] else -velocity_m_s
            frame, row = contact.frame[i].reshape(3, 3), contact.efc_address[i]
            for axis in _TANGENTS:
                data.efc_aref[row + axis] += data.efc_KBIP[row + axis, 1] * float(frame[axis] @ wanted)

    def _find_support(self) -> None:
        """Geoms of the group, and of the table under it."""
        env, model = self._env, self._env.sim.model._model
        root = model.body_rootid[model.geom_bodyid]  # of every geom
        self._geoms = np.flatnonzero(np.isin(root, [env.obj_body_id[name] for name in self._group]))
        touching = env.sim.data._data.contact.geom
        touched = np.setdiff1d(touching[np.isin(touching, self._geoms).any(axis=1)], self._geoms)
        fixtures = [env.obj_body_id[name] for name in env.fixtures_dict if name in env.obj_body_id]
        is_table = (model.body_weldid[model.geom_bodyid[touched]] == 0) & ~np.isin(root[touched], fixtures)
        self._support = touched[is_table]

    def _way(self) -> Callable[[FloatArray], float]:
        """What tells how far the group can go along a direction (3,) [m]: clear of others, within the arm's reach."""
        scene = Scene(self._env)
        mine = np.concatenate([scene.points(name) for name in self._group])
        others = np.concatenate([np.empty((0, 3)), *(scene.points(n) for n in scene.solids if n not in self._group)])
        footprint, around = _footprint(mine), _footprint(others[others[:, 2] < mine[:, 2].max() + _AIR_M])
        offsets, air_m = in_the_way((around[None] - footprint[:, None]).reshape(-1, 2))
        hand, shoulder = self._origin_m + np.array([0.0, 0.0, _HAND_UP_M]), scene.shoulder_m

        def way_m(direction: FloatArray) -> float:
            free = free_m(offsets, direction, air_m)
            steps = np.arange(0.0, free, _GRID_M)
            excess = [reach_excess(hand + s * direction, shoulder, margin_m=_REACH_MARGIN_M) for s in steps]
            is_far = [more > excess[0] for more in excess]  # a target that stands far out may still come in
            return float(steps[is_far.index(True)]) if any(is_far) else free

        return way_m

    def _along_m(self) -> float:
        return float((self._position_m() - self._origin_m) @ self._direction)

    def _position_m(self) -> FloatArray:
        return np.asarray(self._env.sim.data._data.xpos[self._env.obj_body_id[self._target]]).copy()


def _footprint(points_m: FloatArray) -> FloatArray:
    """(V, 3) points -> (N, 2) places on the table that they stand for, one per grid cell."""
    return np.asarray(np.unique(np.round(points_m[:, :2] / _GRID_M), axis=0) * _GRID_M)


def in_the_way(offsets_m: FloatArray) -> tuple[FloatArray, float]:
    """Which of the offsets (V, 2) between places matter to a way, and the air [m] to keep from what they lead to.

    A neighbour nearer than wanted gets four fifths of its gap. One that touches shares places with the target, and
    tells no direction by those or the ones beside them: what lies behind bars the ways that lead into it.
    """
    apart_m = np.linalg.norm(offsets_m, axis=1)
    gap_m = float(apart_m.min(initial=np.inf))
    nearest_m = 1.9 * _GRID_M if gap_m < 0.5 * _GRID_M else 0.0  # short of two places
    is_near = (apart_m >= nearest_m) & (apart_m < HALF_WAY_M + _AIR_M)
    return offsets_m[is_near], min(_AIR_M, 0.8 * max(gap_m, _GRID_M))


def free_m(offsets_m: FloatArray, direction: FloatArray, air_m: float) -> float:
    """How far something can go along a direction (3,) and keep its distance to everything else, at most HALF_WAY_M.

    ``offsets_m`` (V, 2): from each of its points to each point of the others.
    """
    along = offsets_m @ direction[:2]
    across = np.abs(offsets_m[:, 0] * direction[1] - offsets_m[:, 1] * direction[0])
    is_ahead = (across < air_m) & (along > 0)
    gaps = along[is_ahead] - np.sqrt(air_m**2 - across[is_ahead] ** 2)
    return float(np.clip(gaps.min(initial=HALF_WAY_M), 0.0, HALF_WAY_M))


def draw_way(way_m: Callable[[FloatArray], float], rng: np.random.Generator) -> tuple[FloatArray, tuple[float, float]]:
    """A direction (3,) and how far back (not positive) and forth [m]; the first long enough, or the longest drawn."""
    best, ends = np.zeros(3), (0.0, 0.0)
    for angle in rng.uniform(0.0, 2.0 * np.pi, _N_DIRECTIONS):
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        found = -way_m(-direction), way_m(direction)
        if found[1] - found[0] > ends[1] - ends[0]:
            best, ends = direction, found
        if ends[1] - ends[0] >= WANTED_WAY_M:
            break
    return best, ends
