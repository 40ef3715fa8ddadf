"""Pushing a flat thing over the table: closed fingers inside its rim, leaning on the rim ahead."""

import numpy as np

from heisd.sim.experts.geometry import corridor_height, ramp, travel
from heisd.sim.experts.primitives import CLOSED, Command, Hand, Phase, Status
from heisd.sim.experts.style import Style
from heisd.sim.reach import ceiling
from heisd.sim.scene import Scene
from heisd.types import FloatArray

_INSET = 0.55  # of the radius: where the fingers come down, ahead of the middle
_ABOVE_BOTTOM_M = 0.020  # of the hand above the lowest point of what is pushed
_THERE_M = 0.012
_OFF = 1.1  # radii from the middle at which the fingers are no longer inside


class Dip:
    """Bring the closed fingers down inside the rim of a flat thing, on the side that is to go ahead."""

    phase = Phase.APPROACH

    def __init__(self, name: str, goal_m: FloatArray, style: Style) -> None:
        self._name, self._goal_m, self._style = name, goal_m, style

    def start(self, scene: Scene, hand: Hand) -> None:
        """Nothing to remember: the motion follows from the state."""

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done at the bottom."""
        move = inside_rim(scene, self._name, self._goal_m) - hand.position_m
        return Status.DONE if np.linalg.norm(move[:2]) < 0.012 and move[2] > -0.006 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Down a funnel, over what stands in between."""
        point = inside_rim(scene, self._name, self._goal_m)
        turn = hand.turn_to(self._style.grasp_yaw_bias_rad)
        distance = float(np.linalg.norm((point - hand.position_m)[:2]))
        openness = max(ramp(distance, 0.010, self._style.funnel_m), ramp(float(np.linalg.norm(turn)), 0.10, 0.5))
        height = point[2] + self._style.hover_m * openness**0.5
        if distance > 0.07:
            around = scene.obstacles(besides=self._name)
            height = max(height, corridor_height(around, hand.position_m, point, 0.06) + 0.03)
        move = point - hand.position_m
        move[2] = min(height, ceiling(hand.position_m, scene.shoulder_m)) - hand.position_m[2]
        return Command(travel(move, 0.05, self._style.approach_bend_rad), turn, CLOSED, is_delicate=openness == 0.0)


class Slide:
    """Push from inside the rim until the thing is where it should be."""

    phase = Phase.TRANSPORT

    def __init__(self, name: str, goal_m: FloatArray, style: Style) -> None:
        self._name, self._goal_m, self._style = name, goal_m, style

    def start(self, scene: Scene, hand: Hand) -> None:
        """Nothing to remember."""

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done at the goal; lost when the fingers have left the rim behind."""
        middle = scene.pose(self._name).position_m
        if np.linalg.norm((self._goal_m - middle)[:2]) < _THERE_M:
            return Status.DONE
        is_off = np.linalg.norm((hand.position_m - middle)[:2]) > _OFF * radius_m(scene, self._name)
        return Status.LOST if is_off else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """As far as the thing has to go, at the height of the rim."""
        move = self._goal_m - scene.pose(self._name).position_m
        move[2] = scene.points(self._name)[:, 2].min() + _ABOVE_BOTTOM_M - hand.position_m[2]
        return Command(move, hand.turn_to(self._style.grasp_yaw_bias_rad), CLOSED)


class Rise:
    """Leave straight up, the fingers as they are."""

    phase = Phase.RETREAT
    _RISE_M = 0.08

    def __init__(self) -> None:
        self._anchor_m: FloatArray = np.zeros(3)

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002 (part of the protocol)
        """Remember where it began."""
        self._anchor_m = hand.position_m

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002
        """Done near the top."""
        return Status.DONE if hand.position_m[2] > self._anchor_m[2] + self._RISE_M - 0.015 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:  # noqa: ARG002
        """Up."""
        return Command(self._anchor_m + np.array([0.0, 0.0, self._RISE_M]) - hand.position_m, np.zeros(3), CLOSED)


def radius_m(scene: Scene, name: str) -> float:
    """Largest horizontal distance of an object's surface from its middle."""
    return float(np.linalg.norm((scene.points(name) - scene.pose(name).position_m)[:, :2], axis=1).max())


def inside_rim(scene: Scene, name: str, goal_m: FloatArray) -> FloatArray:
    """(3,) where the hand pushes: inside the rim, on the side of the goal."""
    middle = scene.pose(name).position_m
    way = (goal_m - middle)[:2]
    ahead = way / max(float(np.linalg.norm(way)), 1e-9)
    point = middle + np.append(_INSET * radius_m(scene, name) * ahead, 0.0)
    point[2] = scene.points(name)[:, 2].min() + _ABOVE_BOTTOM_M
    return point
