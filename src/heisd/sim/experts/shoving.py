"""Pushing a flat round thing over the table with closed fingers, from behind."""

from dataclasses import dataclass, field

import numpy as np

from heisd.sim.experts.articulated import contact_cost_at_m, facing
from heisd.sim.experts.geometry import corridor_height, ramp, travel
from heisd.sim.experts.primitives import CLOSED, Command, Hand, Phase, Status
from heisd.sim.experts.style import Style
from heisd.sim.reach import ceiling
from heisd.sim.scene import Pose, Scene
from heisd.types import FloatArray

_DOWN = np.array([0.0, 0.0, -1.0])
_ABOVE_TABLE_M = 0.014  # of the hand: its fingertips are 4 mm above the table
_FINGER_M = 0.018  # from the middle of the closed fingers to their edge, in whatever direction
_GAP_M = 0.015  # air between them and the rim before the push begins
_PRESS_M = 0.045  # how far into the thing to aim
_THERE_M = 0.010
_DETOUR_COST_M = 0.05  # price of pushing in another direction than the goal's, per square radian
_TURN_COST_M = 0.004  # price of turning the wrist by one radian; grows with its square
_ALIGNED_RAD = 0.5  # further from behind the hand goes around instead of pushing
_YAWS_RAD = np.deg2rad([0.0, 30.0, -30.0, 60.0, -60.0, 90.0])
_DETOURS_RAD = np.deg2rad(np.arange(-90.0, 91.0, 7.5))


@dataclass(slots=True)
class Shove:
    """What the primitives of one push share."""

    name: str
    goal_m: FloatArray  # (3,) where its middle should go; the height does not matter
    yaw_rad: float = 0.0  # of the hand, constant
    _radius_m: float = field(default=0.0)

    def prepare(self, scene: Scene) -> None:
        """Choose the wrist's angle that leaves the hand most room behind the thing."""
        surface = scene.points(self.name) - scene.pose(self.name).position_m
        self._radius_m = float(np.linalg.norm(surface[:, :2], axis=1).max())
        costs = [min(self._costs(scene, yaw)) + _TURN_COST_M * yaw**2 for yaw in _YAWS_RAD]
        self.yaw_rad = float(_YAWS_RAD[int(np.argmin(costs))])

    def way(self, scene: Scene) -> FloatArray:
        """(2,) unit vector in which to push now: to the goal, or as near to that as the neighbours leave room for."""
        return self._ways(scene)[int(np.argmin(self._costs(scene, self.yaw_rad)))]

    def behind(self, scene: Scene, way: FloatArray, gap_m: float = _GAP_M) -> FloatArray:
        """(3,) where the hand is behind the thing."""
        point = scene.pose(self.name).position_m - np.append((self._radius_m + _FINGER_M + gap_m) * way, 0.0)
        point[2] = scene.points(self.name)[:, 2].min() + _ABOVE_TABLE_M
        return np.asarray(point)

    def left_m(self, scene: Scene) -> FloatArray:
        """(2,) how far the thing still has to go."""
        return np.asarray((self.goal_m - scene.pose(self.name).position_m)[:2])

    def _ways(self, scene: Scene) -> list[FloatArray]:
        left = self.left_m(scene)
        x, y = left / max(float(np.linalg.norm(left)), 1e-9)
        turns = ((np.cos(t), np.sin(t)) for t in _DETOURS_RAD)
        return [np.array([c * x - s * y, s * x + c * y]) for c, s in turns]

    def _costs(self, scene: Scene, yaw_rad: float) -> list[float]:
        rotation = facing(_DOWN, np.array([-np.sin(yaw_rad), np.cos(yaw_rad), 0.0]))
        obstacles = scene.obstacles(besides=self.name)
        middle = scene.pose(self.name).position_m
        obstacles = obstacles[np.linalg.norm((obstacles - middle)[:, :2], axis=1) < self._radius_m + 0.18]
        return [
            contact_cost_at_m(obstacles, Pose(self.behind(scene, way), rotation), is_open=False) + _DETOUR_COST_M * t**2
            for way, t in zip(self._ways(scene), _DETOURS_RAD, strict=True)
        ]


class GetBehind:
    """Come from anywhere down to the table behind the thing, with closed fingers."""

    phase = Phase.APPROACH

    def __init__(self, shove: Shove, style: Style) -> None:
        self._shove, self._style = shove, style

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002 (part of the protocol)
        """Choose the wrist's angle."""
        self._shove.prepare(scene)

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done behind it."""
        move = self._shove.behind(scene, self._shove.way(scene)) - hand.position_m
        return Status.DONE if np.linalg.norm(move[:2]) < 0.012 and abs(move[2]) < 0.008 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Down a funnel, over what stands in between."""
        point = self._shove.behind(scene, self._shove.way(scene))
        turn = hand.turn_to(self._shove.yaw_rad)
        distance = float(np.linalg.norm((point - hand.position_m)[:2]))
        openness = max(ramp(distance, 0.010, self._style.funnel_m), ramp(float(np.linalg.norm(turn)), 0.10, 0.5))
        height = point[2] + self._style.hover_m * openness**0.5
        if distance > 0.07:
            around = scene.obstacles(besides=self._shove.name)
            height = max(height, corridor_height(around, hand.position_m, point, 0.06) + 0.03)
        move = point - hand.position_m
        move[2] = min(height, ceiling(hand.position_m, scene.shoulder_m)) - hand.position_m[2]
        return Command(travel(move, 0.05, self._style.approach_bend_rad), turn, CLOSED, is_delicate=openness == 0.0)


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
        return Command(move, hand.turn_to(shove.yaw_rad), CLOSED)


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
