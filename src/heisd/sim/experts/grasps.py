"""Where to grasp: top-down parallel-jaw grasps from the collision surface of an object.

The gripper's closing axis at yaw ``t`` is (-sin t, cos t); its long thin axis (cos t, sin t). A grasp and its
half turn are the same grasp, so yaws live in [-pi/2, pi/2).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heisd.sim.experts.geometry import up, wrap_yaw
from heisd.sim.experts.style import Style
from heisd.sim.reach import reach_excess
from heisd.sim.scene import Pose, Scene
from heisd.types import FloatArray

RIM_GRASPED = ("bowl", "mug", "plate")  # thin walls, wider than the gripper: one finger inside, one outside
_TIGHT = ("moka_pot",)  # hardly narrower than the gripper, and that one way only: always turned to the same side
_MAX_WIDTH_M = 0.076  # the open fingers are 0.08 m apart
_FINGER_REACH_M = 0.035  # how far down a tall object the fingers go before the hand touches its top
_RIM_DEPTH_M = 0.023
_RIM_INSET_M = 0.004
_HANDLE_M = 0.02  # how far from its outermost point a handle reaches, at least
_HANDLE_INSET_M = 0.007
_YAW_COST_M = 0.02  # price of wrist rotation by one radian, in metres of object width; grows with its square
_SIDE_COST_M = 0.03  # price of a place on the rim's right half; nothing on its leftmost point
_SLIDE_COST = 0.3
_REACH_COST = 15.0
_STRETCH_MARGIN_M = 0.03  # a nearly straight arm descends badly
_LIFT_M = 0.08  # a grasp is only good if the hand can rise this far above it
TOUCH_COST_M = 0.03  # price of obstacle points inside the gripper's volume, per e-fold of their number
CLOSE_COST_M = 0.008  # and of those inside a margin around it


@dataclass(frozen=True, slots=True)
class Grasp:
    """A planned grasp; it follows its object while that is only shifted."""

    point_body_m: FloatArray  # (3,) where the finger pads close, in the object's frame
    yaw_rad: float
    planned_at: Pose  # the object's pose it was planned for
    is_tight: bool = False  # the open fingers have only millimetres to spare

    def point(self, now: Pose) -> FloatArray:
        """(3,) the grasp point in the world, for the object's present pose."""
        return now.to_world(self.point_body_m)

    def is_stale(self, now: Pose) -> bool:
        """Whether the object has turned or tipped by more than about 3 degrees since planning."""
        cosine = (np.trace(now.rotation @ self.planned_at.rotation.T) - 1.0) / 2.0
        return bool(cosine < np.cos(0.05))


@dataclass(frozen=True, slots=True)
class _Candidate:
    point_m: FloatArray  # (3,) world
    yaw_rad: float
    cost_m: float


def plan_grasp(scene: Scene, name: str, style: Style) -> Grasp:
    """The cheapest grasp of an object: narrow, little wrist rotation, clear of its neighbours."""
    surface = scene.points(name)
    is_rim = any(kind in scene.category(name) for kind in RIM_GRASPED)
    pose = scene.pose(name)
    is_tight = any(kind in scene.category(name) for kind in _TIGHT)
    found = _rim_candidates(surface, pose, style) if is_rim else _width_candidates(surface, style)
    if is_tight:
        found = (grasp for grasp in found if grasp.yaw_rad < 1.0)
    nearby = _near(scene.obstacles(besides=name), surface.mean(axis=0))

    def cost_m(candidate: _Candidate) -> float:
        contacts = contact_cost_m(nearby, candidate.point_m, candidate.yaw_rad)
        too_far = max(
            reach_excess(candidate.point_m, scene.shoulder_m, margin_m=_STRETCH_MARGIN_M),
            reach_excess(candidate.point_m + up(_LIFT_M), scene.shoulder_m),
        )
        return candidate.cost_m + contacts + _REACH_COST * too_far

    best = min(found, key=cost_m)
    point = best.point_m - up(style.grasp_depth_m)
    return Grasp(pose.to_body(point), best.yaw_rad, pose, is_tight)


def plan_handle_grasp(scene: Scene, name: str, style: Style) -> Grasp:
    """The grasp of a handle that stands out sideways, one finger on either side: the hand stays outside the object."""
    pose = scene.pose(name)
    point, yaw = handle_grasp(scene.points(name), style)
    return Grasp(pose.to_body(point), yaw, pose)


def handle_grasp(surface: FloatArray, style: Style) -> tuple[FloatArray, float]:
    """(3,) where to close on the handle of a surface (V, 3) and the hand's yaw there, its thin side to the object."""
    bottom, top = surface[:, 2].min(), surface[:, 2].max()
    foot = surface[surface[:, 2] < bottom + 0.015, :2]
    offset = surface[:, :2] - [_midrange(foot[:, 0]), _midrange(foot[:, 1])]
    distance = np.linalg.norm(offset, axis=1)
    handle = distance > distance.max() - _HANDLE_M
    outward = offset[handle].mean(axis=0)
    outward /= np.linalg.norm(outward)
    xy = surface[0, :2] - offset[0] + outward * (distance.max() - _HANDLE_INSET_M + style.grasp_slide_m / 2)
    z = max(surface[handle, 2].max() - _HANDLE_M, top - _FINGER_REACH_M) - style.grasp_depth_m
    # Handles mostly point along an axis of the world: no yaw that is common may lie where half turns meet.
    yaw = wrap_yaw(float(np.arctan2(outward[1], outward[0])) + np.pi / 4) - np.pi / 4
    return np.append(xy, z), yaw


def contact_cost_m(obstacles: FloatArray, point_m: FloatArray, yaw_rad: float) -> float:
    """Price of (V, 3) obstacle points inside the open gripper at this grasp, or inside a margin around it."""
    offset = obstacles - point_m
    across = offset[:, 1] * np.cos(yaw_rad) - offset[:, 0] * np.sin(yaw_rad)
    along = offset[:, 0] * np.cos(yaw_rad) + offset[:, 1] * np.sin(yaw_rad)
    return volume_cost_m(across, along, offset[:, 2])


def volume_cost_m(across: FloatArray, along: FloatArray, up: FloatArray, fingers_m: float = 0.060) -> float:
    """Price of points inside the gripper, whose fingers end so far from the middle, or inside a margin around it.

    Points (V,) are given by their distances from the grasp point: across, along the closing axis; along the hand's
    thin side; up, from the fingertips to the wrist.
    """
    touching = _count_inside(across, along, up, fingers_m, margin_m=0.0)
    close = _count_inside(across, along, up, fingers_m, margin_m=0.008)
    return TOUCH_COST_M * float(np.log1p(touching)) + CLOSE_COST_M * float(np.log1p(close))


def _count_inside(across: FloatArray, along: FloatArray, up: FloatArray, fingers_m: float, margin_m: float) -> int:
    across, along, up = np.abs(across), np.abs(along), up + margin_m
    # What lies between the fingers would be grasped with the object.
    fingers = (across < fingers_m + margin_m) & (along < 0.012 + margin_m) & (up > -0.010) & (up < 0.05)
    hand = (across < 0.105 + margin_m) & (along < 0.034 + margin_m) & (up > 0.042) & (up < 0.20)
    return int((fingers | hand).sum())


def _near(points: FloatArray, centre: FloatArray) -> FloatArray:
    is_near = np.linalg.norm(points[:, :2] - centre[:2], axis=1) < 0.22
    return np.asarray(points[is_near])


def _width_candidates(surface: FloatArray, style: Style) -> Iterator[_Candidate]:
    """Grasps around the whole object at the finger height, over all yaws and a few slides along it."""
    bottom, top = surface[:, 2].min(), surface[:, 2].max()
    height = top - bottom
    is_tall = height > 0.05
    z = max(bottom + 0.010, top - _FINGER_REACH_M) if is_tall else bottom + max(0.008, min(height * 0.5, 0.014))
    section = surface[np.abs(surface[:, 2] - z) < 0.02][:, :2]
    if len(section) < 8:
        section = surface[:, :2]
    for yaw in np.deg2rad(np.arange(-88.0, 90.0, 4.0)):
        across, along = np.array([-np.sin(yaw), np.cos(yaw)]), np.array([np.cos(yaw), np.sin(yaw)])
        width, length = np.ptp(section @ across), np.ptp(section @ along)
        turn = yaw - style.grasp_yaw_bias_rad
        too_wide = max(0.0, float(width) - _MAX_WIDTH_M) * 50.0
        middle = across * _midrange(section @ across) + along * _midrange(section @ along)
        for slide in (0.0, 0.01, -0.01, 0.02, -0.02, 0.03, -0.03):
            if abs(slide) > 0.35 * length:
                continue
            xy = middle + along * (slide + min(1.0, length / 0.05) * style.grasp_slide_m)
            cost = float(width) + _YAW_COST_M * turn**2 + _SLIDE_COST * abs(slide) + too_wide
            yield _Candidate(np.append(xy, z), float(yaw), cost)


def _rim_candidates(surface: FloatArray, pose: Pose, style: Style) -> Iterator[_Candidate]:
    """Grasps of the rim all around the object's own axis, which may be tilted."""
    for heading in np.deg2rad(np.arange(0.0, 360.0, 10.0)):
        outward = np.array([np.cos(heading), np.sin(heading), 0.0])
        point = rim_point(surface, pose, outward)
        yaw = wrap_yaw(float(np.arctan2(-outward[0], outward[1])))
        turn = yaw - style.grasp_yaw_bias_rad
        # Of a tilted rim the higher side leaves the hand more air. Of two equal sides always the left one: a choice
        # that nobody can see coming would be two modes in the demonstrations, and a policy between them misses both.
        far_side = _SIDE_COST_M * (1.0 - outward[1])
        yield _Candidate(point, yaw, _YAW_COST_M * turn**2 + far_side - 0.4 * point[2])


def rim_point(surface: FloatArray, pose: Pose, outward: FloatArray) -> FloatArray:
    """(3,) where the rim of an object, (V, 3) points, is grasped on its side in a horizontal direction (3,)."""
    axis = pose.rotation[:, 2] if pose.rotation[2, 2] > 0.5 else np.array([0.0, 0.0, 1.0])
    offset = surface - pose.position_m
    height = offset @ axis
    radius = np.linalg.norm(offset - height[:, None] * axis, axis=1).max()
    radial = outward - axis * (outward @ axis)
    radial /= np.linalg.norm(radial)
    point: FloatArray = pose.position_m + axis * (height.max() - _RIM_DEPTH_M) + radial * (radius - _RIM_INSET_M)
    return point


def _midrange(values: FloatArray) -> float:
    return float(values.min() + values.max()) / 2.0
