"""Laying an object against something aslant, as a bottle is laid on a rack."""

import numpy as np

from heisd.sim.experts.geometry import ramp, up
from heisd.sim.experts.primitives import Carry, Command, Hand, Hold
from heisd.sim.experts.style import Style
from heisd.sim.scene import Scene
from heisd.types import FloatArray

_ASLANT_RAD = np.deg2rad(30.0)  # a region whose own axis leans further from the vertical is lain on
_SHARE = 0.55  # of its lean that the object gets in the hand; it falls the rest of the way
_BESIDE = 0.45  # of half the region's length: how far from its middle, where a rack may have a post
_UP_THE_SLOPE_M = 0.008


def is_aslant(scene: Scene, site: str) -> bool:
    """Whether a region leans so far that an object on it does so too."""
    normal = scene.pose(site).rotation[:, 2]
    return bool(0.0 < normal[2] < np.cos(_ASLANT_RAD))


def slope_place(scene: Scene, site: str) -> FloatArray:
    """(3,) where the foot of an object goes that is lain on a region: beside its middle, on the robot's side."""
    pose = scene.pose(site)
    along = pose.rotation[:, 0] * scene.extent_m(site)[0]
    beside = along * np.sign((scene.shoulder_m - pose.position_m) @ along)
    return np.asarray(pose.position_m + _BESIDE * beside + _UP_THE_SLOPE_M * pose.rotation[:, 2])


def lean(scene: Scene, site: str) -> FloatArray:
    """(3,) rotation vector [rad] from upright to how an object is put on the region."""
    normal = scene.pose(site).rotation[:, 2]
    axis = np.cross(up(1.0), normal)
    angle_rad = _SHARE * float(np.arccos(np.clip(normal[2], -1.0, 1.0)))
    return np.asarray(angle_rad * axis / np.linalg.norm(axis))


class CarryLeaning(Carry):
    """Bring the held object to the place and lean it on the way."""

    def __init__(self, hold: Hold, place: FloatArray, lean_rad: FloatArray, style: Style) -> None:
        super().__init__(hold, lambda _: place, style)
        self._lean_rad = lean_rad

    def command(self, scene: Scene, hand: Hand) -> Command:
        """As when carrying upright, with the hand turned by the more of the lean the nearer the place is."""
        apart_m = float(np.linalg.norm(self._to_place(scene)[:2]))
        self._hold.lean_rad = (1.0 - ramp(apart_m, 0.04, 0.12)) * self._lean_rad
        return super().command(scene, hand)
