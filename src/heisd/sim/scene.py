"""Privileged reads of a LIBERO scene: poses, collision surfaces, goal predicates.

The scripted experts see the simulator through this file only; no policy may import it. Frames are
LIBERO's world frame, metres, z up.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from heisd.errors import UnknownName
from heisd.types import FloatArray

_SPACING_M = 0.012  # between points on the faces of boxes
_SHOULDER_ABOVE_BASE_M = 0.333
_CIRCLE = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a body or a site is."""

    position_m: FloatArray  # (3,) world
    rotation: FloatArray  # (3, 3) columns are the body's axes in the world

    def to_world(self, point_m: FloatArray) -> FloatArray:
        """A point of the body frame, in the world frame."""
        return self.position_m + self.rotation @ point_m

    def to_body(self, point_m: FloatArray) -> FloatArray:
        """A point of the world frame, in the body frame."""
        return self.rotation.T @ (point_m - self.position_m)


@dataclass(frozen=True, slots=True)
class Goal:
    """One conjunct of the task's goal, as written in its BDDL file, e.g. ``on(bowl_1, plate_1)``."""

    predicate: str  # lower case: on, in, open, close, turnon …
    arguments: tuple[str, ...]


class Carrier(Protocol):
    """What moves objects beside the robot."""

    def ahead_m(self, name: str, after_s: float) -> FloatArray:
        """(3,) how far it will have carried an object in so many seconds."""
        ...


class Scene:
    """A live view on one simulated task; every call reads the present state."""

    def __init__(self, robosuite_env: Any, carrier: Carrier | None = None) -> None:
        self._env, self._carrier = robosuite_env, carrier
        self._geoms: dict[str, list[tuple[int, FloatArray]]] = {}

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The conjuncts of the goal, in the order of the task file."""
        return tuple(Goal(str(g[0]).lower(), tuple(map(str, g[1:]))) for g in self._env.parsed_problem["goal_state"])

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the movable objects."""
        return tuple(self._env.objects_dict)

    @property
    def solids(self) -> tuple[str, ...]:
        """Names of everything one can bump into besides the robot and the table."""
        return tuple(n for n in (*self._env.objects_dict, *self._env.fixtures_dict) if n in self._env.obj_body_id)

    @property
    def shoulder_m(self) -> FloatArray:
        """(3,) where the arm's reach is measured from: the Panda's second joint."""
        base = np.asarray(self._env.sim.data.get_body_xpos("robot0_base"), dtype=np.float64)
        return np.asarray(base + np.array([0.0, 0.0, _SHOULDER_ABOVE_BASE_M]))

    def is_site(self, name: str) -> bool:
        """Whether the name is a region of something (a drawer, a burner, a basket's inside)."""
        return name in self._env.object_sites_dict

    def parent_of(self, site: str) -> str:
        """Name of the object a region belongs to."""
        return str(self._env.object_sites_dict[site].parent_name)

    def category(self, name: str) -> str:
        """The kind of object, e.g. ``akita_black_bowl``."""
        return str(self._env.get_object(name).category_name)

    def pose(self, name: str) -> Pose:
        """Pose of an object, a fixture or a region; raises UnknownName."""
        data = self._env.sim.data
        if name in self._env.obj_body_id:
            body = self._env.obj_body_id[name]
            return Pose(data.body_xpos[body].copy(), data.body_xmat[body].reshape(3, 3).copy())
        if self.is_site(name):
            return Pose(data.get_site_xpos(name).copy(), data.get_site_xmat(name).reshape(3, 3).copy())
        raise UnknownName("object", name, (*self.solids, *self._env.object_sites_dict))

    def ahead_m(self, name: str, after_s: float) -> FloatArray:
        """(3,) how far an object will have gone by itself in so many seconds, if nothing holds it back."""
        return np.zeros(3) if self._carrier is None else self._carrier.ahead_m(name, after_s)

    def points(self, name: str) -> FloatArray:
        """(V, 3) points that cover the collision surface of an object or fixture, drawers included."""
        data = self._env.sim.data
        parts = [
            data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T
            for geom, local in self._collision_geoms(name)
        ]
        return np.concatenate(parts) if parts else self.pose(name).position_m[None]

    def obstacles(self, *, besides: str) -> FloatArray:
        """(V, 3) collision points of everything but the named object."""
        return np.concatenate([self.points(n) for n in self.solids if n != besides])

    def is_held(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        gripper = self._env.robots[0].gripper
        return bool(self._env._check_grasp(gripper=gripper, object_geoms=self._env.get_object(name)))

    def holds(self, goal: Goal) -> bool:
        """Whether this conjunct of the goal is true now, by the benchmark's own predicate."""
        return bool(self._env._eval_predicate([goal.predicate, *goal.arguments]))

    def _collision_geoms(self, name: str) -> list[tuple[int, FloatArray]]:
        if name not in self._geoms:
            model = self._env.sim.model._model
            root = self._env.obj_body_id[name]
            self._geoms[name] = [
                (geom, _surface(model, geom))
                for geom in range(model.ngeom)
                if _collides(model, geom) and _descends(model, int(model.geom_bodyid[geom]), root)
            ]
        return self._geoms[name]


def _collides(model: Any, geom: int) -> bool:
    return bool(model.geom_contype[geom] or model.geom_conaffinity[geom])


def _descends(model: Any, body: int, root: int) -> bool:
    while body not in (0, root):
        body = int(model.body_parentid[body])
    return body == root


def _surface(model: Any, geom: int) -> FloatArray:
    """(V, 3) points on one geom's surface, in the geom's frame."""
    kind, size = model.geom_type[geom], model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        return np.asarray(model.mesh_vert[first : first + model.mesh_vertnum[mesh]], dtype=np.float64)
    if kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE):
        angle, height = np.meshgrid(_CIRCLE, np.linspace(-size[1], size[1], 8))
        return np.stack([size[0] * np.cos(angle), size[0] * np.sin(angle), height], axis=-1).reshape(-1, 3)
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.asarray(np.concatenate([np.eye(3), -np.eye(3)]) * size[0])
    axes = [np.linspace(-1.0, 1.0, 1 + int(np.ceil(2.0 * half_m / _SPACING_M))) for half_m in size]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    return np.asarray(grid[np.abs(grid).max(axis=1) == 1.0] * size)
