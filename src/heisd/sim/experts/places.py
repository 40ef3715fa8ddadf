"""Where things go that are put in or on the regions of fixtures."""

import numpy as np

from heisd.sim.reach import reach_excess
from heisd.sim.scene import Scene
from heisd.types import FloatArray

_FINGER_DEPTH_M = 0.03  # how far below an object's top it is held, about
_AIR_M = 0.05  # and how far above its place it arrives
_MARGIN_M = 0.03  # of the arm's reach
_USABLE = 0.6  # share of a region's half width in which to put things
_OUT_OF_CABINET_M = 0.010  # of a drawer the rear is still in the cabinet when it is open


def is_in_drawer(scene: Scene, site: str) -> bool:
    """Whether a region opens and closes."""
    return scene.is_site(site) and scene.has_joint(site)


def in_drawer(scene: Scene, site: str) -> FloatArray:
    """(3,) the middle of what an open drawer shows, now."""
    joint, middle = scene.joint(site), scene.pose(site).position_m
    closed = min(joint.limits, key=abs)
    return np.asarray(middle + _OUT_OF_CABINET_M * np.sign(joint.position - closed) * joint.axis)


def on_region(scene: Scene, name: str, site: str) -> FloatArray:
    """(3,) a place for the object on a region: its middle, or as much nearer to the robot as the arm's reach asks for.

    The height is that of the surface there; LIBERO's regions lie a little above or inside what they belong to.
    """
    middle, extent = scene.pose(site).position_m, scene.extent_m(site)
    middle = np.append(middle[:2], _surface_m(scene, site, extent))
    hand = middle + np.array([0.0, 0.0, np.ptp(scene.points(name)[:, 2]) - _FINGER_DEPTH_M + _AIR_M])
    towards = (scene.shoulder_m - middle) * [1.0, 1.0, 0.0]
    towards /= np.linalg.norm(towards)
    furthest = float(np.min(_USABLE * extent[:2] / np.maximum(np.abs(towards[:2]), 1e-9)))
    steps = np.linspace(0.0, furthest, 20)
    excess = [reach_excess(hand + step * towards, scene.shoulder_m, margin_m=_MARGIN_M) for step in steps]
    return np.asarray(middle + steps[int(np.argmin(excess))] * towards)


def _surface_m(scene: Scene, site: str, extent: FloatArray) -> float:
    """Height of what the object will stand on: the fixture's highest point in the region, else the region itself."""
    middle = scene.pose(site).position_m
    owner = scene.parent_of(site)
    if owner not in scene.solids:
        return float(middle[2])
    points = scene.points(owner)
    inside = (np.abs(points - middle)[:, :2] < extent[:2]).all(axis=1) & (points[:, 2] < middle[2] + 0.05)
    return float(max(points[inside, 2].max(initial=-np.inf), middle[2]))
