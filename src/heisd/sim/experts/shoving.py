"""Pushing a flat round thing over the table with closed fingers, from behind."""

from dataclasses import dataclass, field

import numpy as np

from heisd.sim.experts.articulated import contact_cost_at_m, facing
from heisd.sim.experts.geometry import ramp, up
from heisd.sim.experts.primitives import CLOSED, Command, Hand, Phase, Status
from heisd.sim.experts.slanted import slanted_move
from heisd.sim.experts.style import Style
from heisd.sim.reach import reach_excess
from heisd.sim.scene import Pose, Scene
from heisd.types import FloatArray

_LEAN_RAD = np.deg2rad(35.0)  # of the hand over the thing, so that behind it there is room for two fingers only
_ABOVE_TABLE_M = 0.019  # of the hand: its fingertips are a few millimetres above the table
_FINGER_M = 0.018  # from the middle of the closed fingers to their edge, in whatever direction
_GAP_M = 0.015  # air between them and the rim before the push begins
_PRESS_M = 0.045  # how far into the thing to aim
_THERE_M = 0.010
_DETOUR_COST_M = 0.05  # price of pushing in another direction than the goal's, per square radian
_REACH_COST = 15.0
_ALIGNED_RAD = 0.5  # further from behind the hand goes around instead of pushing
_DETOURS_RAD = np.deg2rad(np.arange(-90.0, 91.0, 7.5))


@dataclass(slots=True)
class Shove:
    """What the primitives of one push share."""

    name: str
    goal_m: FloatArray  # (3,) where its middle should go; the height does not matter
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))  # (3, 3) the hand's, constant
    _radius_m: float = 0.0

    def prepare(self, scene: Scene) -> None:
        """Choose the hand's orientation: leaning over the thing in the direction of the push."""
        surface = scene.points(self.name) - scene.pose(self.name).position_m
        self._radius_m = float(np.linalg.norm(surface[:, :2], axis=1).max())
        ways = self._ways(scene)
        costs = [self._cost(scene, way, _leaning_over(way)) + _DETOUR_COST_M * t**2 for way, t in ways]
        self.rotation = _leaning_over(ways[int(np.argmin(costs))][0])

    def way(self, scene: Scene) -> FloatArray:
        """(2,) unit vector in which to push now: to the goal, or as near to that as the neighbours leave room for."""
        ways = self._ways(scene)
        costs = [self._cost(scene, way, self.rotation) + _DETOUR_COST_M * t**2 for way, t in ways]
        return ways[int(np.argmin(costs))][0]

    def behind(self, scene: Scene, way: FloatArray, gap_m: float = _GAP_M) -> FloatArray:
        """(3,) where the hand is behind the thing."""
        point = scene.pose(self.name).position_m - np.append((self._radius_m + _FINGER_M + gap_m) * way, 0.0)
        point[2] = scene.points(self.name)[:, 2].min() + _ABOVE_TABLE_M
        return np.asarray(point)

    def left_m(self, scene: Scene) -> FloatArray:
        """(2,) how far the thing still has to go."""
        return np.asarray((self.goal_m - scene.pose(self.name).position_m)[:2])

    def _ways(self, scene: Scene) -> list[tuple[FloatArray, float]]:
        """Directions (2,), each with its angle from the goal's."""
        left = self.left_m(scene)
        x, y = left / max(float(np.linalg.norm(left)), 1e-9)
        turns = ((np.cos(t), np.sin(t), float(t)) for t in _DETOURS_RAD)
        return [(np.array([c * x - s * y, s * x + c * y]), t) for c, s, t in turns]

    def _cost(self, scene: Scene, way: FloatArray, rotation: FloatArray) -> float:
        point, obstacles = self.behind(scene, way), scene.obstacles(besides=self.name)
        near = obstacles[np.linalg.norm((obstacles - point)[:, :2], axis=1) < 0.15]
        contacts = contact_cost_at_m(near, Pose(point, rotation), is_open=False)
        return contacts + _REACH_COST * reach_excess(point - 0.2 * rotation[:, 2] - up(0.2), scene.shoulder_m)


def _leaning_over(way: FloatArray) -> FloatArray:
    """(3, 3) the hand's orientation with the fingers pointing down and against a direction (2,)."""
    fingers = np.append(-np.sin(_LEAN_RAD) * way, -np.cos(_LEAN_RAD))
    return facing(fingers, np.array([way[1], -way[0], 0.0]))


class GetBehind:
    """Come from anywhere down to the table behind the thing, with closed fingers."""

    phase = Phase.APPROACH

    def __init__(self, shove: Shove, style: Style) -> None:
        self._shove, self._style = shove, style

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002 (part of the protocol)
        """Choose the hand's orientation."""
        self._shove.prepare(scene)

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done behind it."""
        move = self._shove.behind(scene, self._shove.way(scene)) - hand.position_m
        return Status.DONE if np.linalg.norm(move[:2]) < 0.012 and abs(move[2]) < 0.008 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Down along the line of the fingers, over what stands in between."""
        point = self._shove.behind(scene, self._shove.way(scene))
        turn, back = hand.turn_into(self._shove.rotation), -self._shove.rotation[:, 2]
        obstacles = scene.obstacles(besides=self._shove.name)
        move = slanted_move(hand, point, turn, back, self._style.hover_m, scene, obstacles, self._style)
        return Command(move, turn, CLOSED, is_delicate=bool(np.linalg.norm(point - hand.position_m) < 0.02))


class Push:
    """Push until the thing is where it should be, going around it as far as the direction changes."""

    phase = Phase.TRANSPORT

    def __init__(self, shove: Shove) -> None:
        self._shove = shove

    def start(self, scene: Scene, hand: Hand) -> None:
        """Nothing to remember: the motion follows from the state."""

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done at the goal; lost when the thing is no longer ahead."""
        shove = self._shove
        if np.linalg.norm(shove.left_m(scene)) < _THERE_M:
            return Status.DONE
        apart = np.linalg.norm((hand.position_m - shove.behind(scene, shove.way(scene), gap_m=0.0))[:2])
        return Status.LOST if apart > 0.09 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Ahead when behind it, else around it."""
        shove, way = self._shove, self._shove.way(scene)
        here = (scene.pose(shove.name).position_m - hand.position_m)[:2]
        off_rad = float(np.arctan2(here[0] * way[1] - here[1] * way[0], here @ way))
        heading = np.arctan2(here[1], here[0]) + np.clip(off_rad, -_ALIGNED_RAD, _ALIGNED_RAD)
        target = shove.behind(scene, np.array([np.cos(heading), np.sin(heading)]), gap_m=0.0)
        freedom = 1.0 - ramp(abs(off_rad), 0.5 * _ALIGNED_RAD, _ALIGNED_RAD)
        ahead_m = freedom * min(_PRESS_M, 0.012 + float(np.linalg.norm(shove.left_m(scene))))
        move = target - hand.position_m + np.append(ahead_m * way, 0.0)
        return Command(move, hand.turn_into(shove.rotation), CLOSED)


class Rise:
    """Leave straight up, the fingers as they are."""

    phase = Phase.RETREAT
    _RISE_M = 0.08

    def __init__(self) -> None:
        self._anchor_m: FloatArray = np.zeros(3)

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002
        """Remember where it began."""
        self._anchor_m = hand.position_m

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002
        """Done near the top."""
        return Status.DONE if hand.position_m[2] > self._anchor_m[2] + self._RISE_M - 0.015 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:  # noqa: ARG002
        """Up."""
        return Command(self._anchor_m + np.array([0.0, 0.0, self._RISE_M]) - hand.position_m, np.zeros(3), CLOSED)
