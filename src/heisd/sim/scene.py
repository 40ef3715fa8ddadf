"""Privileged reads of a LIBERO scene: poses, collision surfaces, goal predicates.

The scripted experts see the simulator through this file only; no policy may import it. Frames are
LIBERO's world frame, metres, z up.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

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
class Joint:
    """A hinge or a slide of a fixture, as it is now."""

    is_hinge: bool
    axis: FloatArray  # (3,) unit, world; positions grow along it, or right-handed around it
    anchor_m: FloatArray  # (3,) a point of the axis, world
    position: float  # [rad] of a hinge, [m] of a slide
    limits: tuple[float, float]
    body: Pose  # of what it moves

    def carry(self, pose: Pose, by: float) -> Pose:
        """Where a pose that moves with the joint will be when that has moved by so much."""
        if not self.is_hinge:
            return Pose(pose.position_m + by * self.axis, pose.rotation)
        turn = Rotation.from_rotvec(by * self.axis).as_matrix()
        return Pose(self.anchor_m + turn @ (pose.position_m - self.anchor_m), turn @ pose.rotation)

    def heading(self, point_m: FloatArray) -> FloatArray:
        """(3,) how a point of the moving part goes per unit of position, world."""
        return np.cross(self.axis, point_m - self.anchor_m) if self.is_hinge else self.axis

    def lever_m(self, point_m: FloatArray) -> float:
        """How far a point is from the axis of a hinge; 1 for a slide, whose positions are metres."""
        return float(np.linalg.norm(self.heading(point_m)))


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
        parts = [self._shape(*geom) for geom in self._collision_geoms(name)]
        return np.concatenate(parts) if parts else self.pose(name).position_m[None]

    def obstacles(self, *, besides: str) -> FloatArray:
        """(V, 3) collision points of everything but the named object."""
        return np.concatenate([self.points(n) for n in self.solids if n != besides])

    def is_held(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        gripper = self._env.robots[0].gripper
        return bool(self._env._check_grasp(gripper=gripper, object_geoms=self._env.get_object(name)))

    def extent_m(self, site: str) -> FloatArray:
        """(3,) half the size of the box around a region, along the world's axes."""
        return np.asarray(np.abs(self.pose(site).rotation) @ np.asarray(self._env.object_sites_dict[site].size))

    def joint(self, name: str) -> Joint:
        """The joint that opens, closes or turns a fixture or the region of one; raises UnknownName."""
        joint, body = self._joint_ids(name)
        model, data = self._env.sim.model._model, self._env.sim.data._data
        return Joint(
            is_hinge=bool(model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE),
            axis=data.xaxis[joint].copy(),
            anchor_m=data.xanchor[joint].copy(),
            position=float(data.qpos[model.jnt_qposadr[joint]]),
            limits=(float(model.jnt_range[joint, 0]), float(model.jnt_range[joint, 1])),
            body=Pose(data.xpos[body].copy(), data.xmat[body].reshape(3, 3).copy()),
        )

    def has_joint(self, name: str) -> bool:
        """Whether a fixture or a region moves on a joint of its own."""
        return bool(self._joint_names(name))

    def moving_parts(self, name: str) -> list[FloatArray]:
        """(V, 3) points for each of the collision shapes that the joint moves."""
        return self._split(name)[0]

    def surroundings(self, name: str) -> FloatArray:
        """(V, 3) collision points of everything that the joint leaves where it is, its own fixture included."""
        return np.concatenate([self.obstacles(besides=self._owner(name)), *self._split(name)[1]])

    def wanted(self, goal: Goal) -> tuple[float, float]:
        """Positions of the joint between which ``open``, ``close``, ``turnon`` or ``turnoff`` holds."""
        ranges = self._env.get_object(self._owner(goal.arguments[0])).object_properties["articulation"]
        low, *_, high = sorted(ranges[f"default_{goal.predicate}_ranges"])
        return float(low), float(high)

    def holds(self, goal: Goal) -> bool:
        """Whether this conjunct of the goal is true now, by the benchmark's own predicate."""
        return bool(self._env._eval_predicate([goal.predicate, *goal.arguments]))

    def _owner(self, name: str) -> str:
        return self.parent_of(name) if self.is_site(name) else name

    def _joint_names(self, name: str) -> list[str]:
        thing = self._env.object_sites_dict[name] if self.is_site(name) else self._env.get_object(name)
        return list(thing.joints or ())

    def _joint_ids(self, name: str) -> tuple[int, int]:
        """The joint and the body it moves."""
        names = self._joint_names(name)
        if not names:
            raise UnknownName(
                "joint", name, [n for n in (*self.solids, *self._env.object_sites_dict) if self.has_joint(n)]
            )
        model = self._env.sim.model._model
        joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, names[0])
        return joint, int(model.jnt_bodyid[joint])

    def _split(self, name: str) -> tuple[list[FloatArray], list[FloatArray]]:
        """The shapes of a fixture that its joint moves, and the others."""
        model, (_, body) = self._env.sim.model._model, self._joint_ids(name)
        moving: list[FloatArray] = []
        still: list[FloatArray] = []
        for geom, local in self._collision_geoms(self._owner(name)):
            side = moving if _descends(model, int(model.geom_bodyid[geom]), body) else still
            side.append(self._shape(geom, local))
        return moving, still

    def _shape(self, geom: int, local: FloatArray) -> FloatArray:
        data = self._env.sim.data
        return np.asarray(data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T)

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
