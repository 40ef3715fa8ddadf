"""Coming along a slanted line: to what is reached from the side, and to an object that something hangs over."""

import numpy as np

from heisd.sim.experts.geometry import corridor_height, ramp, travel, wrap_yaw
from heisd.sim.experts.grasps import Grasp, rim_point
from heisd.sim.experts.primitives import CLOSED, OPEN, Approach, Command, Hand, Hold, Phase, Status
from heisd.sim.experts.style import Style
from heisd.sim.reach import ceiling
from heisd.sim.scene import Scene
from heisd.types import FloatArray

_OVERHANG_M = 0.11  # what is above an object and no further to the side hangs over the hand that grasps it
_LEAN_RAD = np.deg2rad(25.0)  # of a hand beside an overhang: less and its palm is under it, more and it is in the table
_SLOPE = 0.55  # rise of the way out from under an overhang, per metre sideways
_WAY_M = 0.13  # its length
_UP = np.array([0.0, 0.0, 1.0])


def slanted_move(
    hand: Hand, point_m: FloatArray, turn_rad: FloatArray, back: FloatArray, way_m: float, scene: Scene,
    obstacles: FloatArray, style: Style,
) -> FloatArray:  # fmt: skip
    """(3,) the way to a point (3,), at the end along the unit vector ``back`` (3,) towards it from ``way_m`` away.

    The funnel of an approach from above, laid aslant: how far along the line depends on the distance from the line and
    on the turn (3,) still to make.
    """
    offset = hand.position_m - point_m
    lateral = float(np.linalg.norm(offset - (offset @ back) * back))
    openness = max(ramp(lateral, 0.010, style.funnel_m), ramp(float(np.linalg.norm(turn_rad)), 0.10, 0.5))
    target = point_m + way_m * openness**0.5 * back
    height = target[2]
    if np.linalg.norm((target - hand.position_m)[:2]) > 0.07:
        height = max(height, corridor_height(obstacles, hand.position_m, target, 0.06) + 0.03)
    move = target - hand.position_m
    move[2] = min(height, ceiling(hand.position_m, scene.shoulder_m)) - hand.position_m[2]
    return travel(move, 0.05, style.approach_bend_rad)


def way_out(scene: Scene, name: str) -> FloatArray | None:
    """(3,) horizontal unit vector away from what hangs over an object; None when nothing does."""
    middle, top = scene.pose(name).position_m, scene.points(name)[:, 2].max()
    above = scene.obstacles(besides=name)
    above = above[(above[:, 2] > top + 0.02) & (np.linalg.norm((above - middle)[:, :2], axis=1) < _OVERHANG_M)]
    if not len(above):
        return None
    away = (middle - above.mean(axis=0)) * [1.0, 1.0, 0.0]
    return np.asarray(away / max(float(np.linalg.norm(away)), 1e-9))


class ApproachAslant(Approach):
    """An approach that takes the rim's free side, the hand leaning away, where something hangs over the object."""

    def start(self, scene: Scene, hand: Hand) -> None:
        """Plan the grasp."""
        super().start(scene, hand)
        away = way_out(scene, self._hold.name)
        if away is None:
            return
        pose = scene.pose(self._hold.name)
        yaw_rad = wrap_yaw(float(np.arctan2(-away[0], away[1])))
        self._hold.grasp = Grasp(pose.to_body(rim_point(scene.points(self._hold.name), pose, away)), yaw_rad, pose)
        self._hold.lean_rad = _LEAN_RAD * np.cross([0.0, 0.0, 1.0], away)

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Head for the grasp, at the end in the direction in which the fingers point."""
        lean_rad = self._hold.lean_rad
        if lean_rad is None:
            return super().command(scene, hand)
        point, turn = self._target(scene, hand)
        back = np.sin(_LEAN_RAD) * np.cross(lean_rad / _LEAN_RAD, [0.0, 0.0, 1.0]) + np.cos(_LEAN_RAD) * _UP
        way_m = self._style.hover_m + 0.04
        move = slanted_move(hand, point, turn, back, way_m, scene, self._around(scene), self._style)
        return Command(move, turn, OPEN, is_delicate=bool(np.linalg.norm(point - hand.position_m) < 0.02))


class SlipOut:
    """Bring the held object out from under what hangs over it."""

    phase = Phase.TRANSPORT

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._goal_m: FloatArray = np.zeros(3)

    def start(self, scene: Scene, hand: Hand) -> None:
        """Decide where out is."""
        away = way_out(scene, self._hold.name)
        way = np.zeros(3) if away is None else (away + _SLOPE * _UP) / np.hypot(1.0, _SLOPE)
        self._goal_m = hand.position_m + _WAY_M * way

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002 (part of the protocol)
        """Done outside."""
        return Status.DONE if np.linalg.norm(self._goal_m - hand.position_m) < 0.03 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:  # noqa: ARG002
        """Straight there."""
        return Command(self._goal_m - hand.position_m, self._hold.turn(hand), CLOSED)
