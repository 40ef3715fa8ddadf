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
_ABOVE_TABLE_M = 0.014  # of the upright hand: its fingertips are a few millimetres above the table
_HIGHER_M = 0.009  # of the leaning one, whose fingertips have a lower edge
_FINGER_M = 0.018  # from the middle of the closed fingers to their edge, in whatever direction
_GAP_M = 0.010  # air between them and the rim before the push begins
_AHEAD_M = 0.026  # how far ahead to aim while pushing
_ASIDE_M = 0.045  # further from the line through the middle the thing would turn away
_AT_PLACE_M = 0.018  # of the hand behind the thing; a handle may leave it no more room
_THERE_M = 0.010
_DETOUR_COST_M = 0.20  # price of pushing in another direction than the goal's, per square radian
_REACH_COST = 15.0
_DETOURS_RAD = np.deg2rad(np.arange(-90.0, 91.0, 7.5))


@dataclass(slots=True)
class Shove:
    """What the primitives of one push share."""

    name: str
    goal_m: FloatArray  # (3,) where its middle should go; the height does not matter
    way: FloatArray = field(default_factory=lambda: np.zeros(2))  # (2,) unit vector in which the push begins
    _radius_m: float = 0.0
    _table_m: float = 0.0

    def prepare(self, scene: Scene) -> None:
        """Choose where to begin, and the hand's orientation: leaning over the thing in the direction of the push."""
        surface = scene.points(self.name)
        self._table_m = float(surface[:, 2].min())
        self._radius_m = float(np.linalg.norm((surface - scene.pose(self.name).position_m)[:, :2], axis=1).max())
        self.way = self._first_way(scene)

    def behind(self, scene: Scene, way: FloatArray) -> FloatArray:
        """(3,) where the hand is behind the thing, seen in a direction (2,)."""
        point = scene.pose(self.name).position_m - np.append((self._radius_m + _FINGER_M + _GAP_M) * way, 0.0)
        point[2] = self._table_m + _ABOVE_TABLE_M + _HIGHER_M
        return np.asarray(point)

    def hand(self, pushed_m: float) -> tuple[FloatArray, float]:
        """Orientation (3, 3) and height [m] of the hand: the further the push has come, the more upright."""
        share = 1.0 - ramp(pushed_m, 0.015, 0.06)
        return _leaning_over(self.way, share * _LEAN_RAD), self._table_m + _ABOVE_TABLE_M + share * _HIGHER_M

    def left_m(self, scene: Scene) -> FloatArray:
        """(2,) how far the thing still has to go."""
        return np.asarray((self.goal_m - scene.pose(self.name).position_m)[:2])

    def _first_way(self, scene: Scene) -> FloatArray:
        """(2,) the cheapest direction: little detour, no contacts of the hand, within reach."""
        left, middle = self.left_m(scene), scene.pose(self.name).position_m
        obstacles = scene.obstacles(besides=self.name)
        near = obstacles[np.linalg.norm((obstacles - middle)[:, :2], axis=1) < self._radius_m + 0.17]
        straight = np.arctan2(left[1], left[0])

        def cost_m(detour_rad: float) -> float:
            way = _direction(straight + detour_rad)
            pose = Pose(self.behind(scene, way), _leaning_over(way, _LEAN_RAD))
            wrist = pose.position_m - 0.2 * pose.rotation[:, 2] - up(0.2)  # as if the hand pointed down
            too_far = _REACH_COST * reach_excess(wrist, scene.shoulder_m, margin_m=0.02)
            return contact_cost_at_m(near, pose, is_open=False) + too_far + _DETOUR_COST_M * detour_rad**2

        return _direction(straight + min(_DETOURS_RAD, key=cost_m))


def _direction(angle_rad: float) -> FloatArray:
    return np.array([np.cos(angle_rad), np.sin(angle_rad)])


def _leaning_over(way: FloatArray, lean_rad: float) -> FloatArray:
    """(3, 3) the hand's orientation with the fingers pointing down and somewhat against a direction (2,)."""
    fingers = np.append(-np.sin(lean_rad) * way, -np.cos(lean_rad))
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
        move = self._shove.behind(scene, self._shove.way) - hand.position_m
        return Status.DONE if np.linalg.norm(move[:2]) < _AT_PLACE_M and move[2] > -0.006 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Down along the line of the fingers, over what stands in between."""
        point = self._shove.behind(scene, self._shove.way)
        rotation, _ = self._shove.hand(0.0)
        turn, back = hand.turn_into(rotation), -rotation[:, 2]
        obstacles = scene.obstacles(besides=self._shove.name)
        move = slanted_move(hand, point, turn, back, self._style.hover_m, scene, obstacles, self._style)
        return Command(move, turn, CLOSED, is_delicate=bool(np.linalg.norm(point - hand.position_m) < 0.02))


class Push:
    """Push until the thing is where it should be; where the direction changes the hand shifts to stay behind.

    The fingers may slip under the rim a little and carry it: what counts is only where its middle is.
    """

    phase = Phase.TRANSPORT

    def __init__(self, shove: Shove) -> None:
        self._shove = shove
        self._begin_m: FloatArray = np.zeros(3)

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002
        """Remember where the thing was."""
        self._begin_m = scene.pose(self._shove.name).position_m

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done at the goal; lost when the thing is no longer ahead."""
        if np.linalg.norm(self._shove.left_m(scene)) < _THERE_M:
            return Status.DONE
        ahead, aside = self._seen(scene, hand)
        is_behind = ahead > 0.0 and np.linalg.norm(aside) < _ASIDE_M
        return Status.RUNNING if is_behind else Status.LOST

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Ahead, and to the line on which the thing's middle and the goal are."""
        _, aside = self._seen(scene, hand)
        ahead_m = min(_AHEAD_M, 0.008 + float(np.linalg.norm(self._shove.left_m(scene))))
        pushed_m = float(np.linalg.norm((scene.pose(self._shove.name).position_m - self._begin_m)[:2]))
        rotation, height_m = self._shove.hand(pushed_m)
        down_m = height_m - hand.position_m[2]
        ahead_m *= 1.0 - 0.5 * ramp(-down_m, 0.005, 0.010)  # higher up the fingers would slip over the rim
        move = np.append(ahead_m * self._way(scene) + 0.6 * aside, 1.5 * down_m)
        return Command(move, hand.turn_into(rotation), CLOSED)

    def _way(self, scene: Scene) -> FloatArray:
        left = self._shove.left_m(scene)
        return np.asarray(left / max(float(np.linalg.norm(left)), 1e-9))

    def _seen(self, scene: Scene, hand: Hand) -> tuple[float, FloatArray]:
        """How far ahead the thing's middle is [m], and how far to the side (2,) [m]."""
        way = self._way(scene)
        offset = (scene.pose(self._shove.name).position_m - hand.position_m)[:2]
        ahead = float(offset @ way)
        return ahead, np.asarray(offset - ahead * way)


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
