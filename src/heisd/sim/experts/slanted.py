"""Coming along a slanted line: to what is reached from the side, and to an object that something hangs over."""

import numpy as np
from scipy.spatial.transform import Rotation

from heisd.sim.experts.geometry import corridor_height, ramp, travel, wrap_yaw
from heisd.sim.experts.grasps import Grasp, rim_point
from heisd.sim.experts.primitives import CLOSED, OPEN, Approach, Command, Hand, Hold, Phase, Status
from heisd.sim.experts.style import Style
from heisd.sim.reach import ceiling
from heisd.sim.scene import Scene
from heisd.types import FloatArray

_OVERHANG_M = 0.11  # what is above an object and no further to the side hangs over the hand that grasps it
_LEANS_RAD = np.deg2rad([15.0, 20.0, 25.0, 30.0])  # of a hand beside an overhang
_ASIDE_RAD = np.deg2rad(np.arange(-75.0, 76.0, 15.0))  # from the way out, around the rim
_ASIDE_COST, _YAW_COST, _LEAN_COST, _CONTACT_COST, TABLE_COST = 0.02, 0.03, 0.05, 0.03, 5.0
_PALM_M = np.array([[x, y, -0.030] for x in (-0.034, 0.034) for y in (-0.105, 0.105)])  # its lower corners, hand frame
_WAYS_M = (0.0, 0.03, 0.06)  # before a grasp, where the hand must have room too
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
    above = _overhang(scene, name)
    if not len(above):
        return None
    away = (scene.pose(name).position_m - above.mean(axis=0)) * [1.0, 1.0, 0.0]
    return np.asarray(away / max(float(np.linalg.norm(away)), 1e-9))


def is_clear(scene: Scene, name: str, point_m: FloatArray, yaw_rad: float) -> bool:
    """Whether an upright hand that grasps an object here (3,) touches nothing that hangs over it, nor on its way up."""
    above, rotation = _overhang(scene, name), _upright(yaw_rad).as_matrix()
    return not any(_n_inside(above, point_m + way * _UP, rotation) for way in _WAYS_M)


def _overhang(scene: Scene, name: str) -> FloatArray:
    """(V, 3) points of what hangs over an object and the hand that grasps it."""
    middle, top = scene.pose(name).position_m, scene.points(name)[:, 2].max()
    above = scene.obstacles(besides=name)
    is_beside = np.linalg.norm((above - middle)[:, :2], axis=1) < _OVERHANG_M
    return np.asarray(above[(above[:, 2] > top + 0.02) & is_beside])


class ApproachAslant(Approach):
    """An approach that takes the rim's free side, the hand leaning away, where an upright one would touch what hangs
    over the object.
    """

    def start(self, scene: Scene, hand: Hand) -> None:
        """Plan the grasp."""
        super().start(scene, hand)
        grasp, away = self._hold.grasp, way_out(scene, self._hold.name)
        assert grasp is not None
        if away is None or is_clear(scene, self._hold.name, grasp.point(scene.pose(self._hold.name)), grasp.yaw_rad):
            return
        self._hold.grasp, self._hold.lean_rad = _plan_aslant(scene, self._hold.name, away)

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Head for the grasp, at the end in the direction in which the fingers point."""
        if self._hold.lean_rad is None:
            return super().command(scene, hand)
        point, turn = self._target(scene, hand)
        back, way_m = Rotation.from_rotvec(self._hold.lean_rad).apply(_UP), self._style.hover_m + 0.04
        move = slanted_move(hand, point, turn, back, way_m, scene, self._around(scene), self._style)
        return Command(move, turn, OPEN, is_delicate=bool(np.linalg.norm(point - hand.position_m) < 0.02))


def _plan_aslant(scene: Scene, name: str, away: FloatArray) -> tuple[Grasp, FloatArray]:
    """Where on the rim, and how much the hand leans (3,): clear of what hangs over it, of neighbours and the table."""
    surface, pose, obstacles = scene.points(name), scene.pose(name), scene.obstacles(besides=name)
    obstacles = obstacles[np.linalg.norm(obstacles - pose.position_m, axis=1) < 0.35]
    table_m = surface[:, 2].min()
    best, least = None, np.inf
    for aside_rad in _ASIDE_RAD:
        outward = Rotation.from_rotvec(aside_rad * _UP).apply(away)
        point = rim_point(surface, pose, outward)
        yaw_rad = wrap_yaw(float(np.arctan2(-outward[0], outward[1])))
        for lean in _LEANS_RAD:
            lean_rad = lean * np.cross(_UP, outward)
            rotation = (Rotation.from_rotvec(lean_rad) * _upright(yaw_rad)).as_matrix()
            into_table = into_table_m(point, rotation, table_m)
            n_touching = sum(_n_inside(obstacles, point - way * rotation[:, 2], rotation) for way in _WAYS_M)
            cost = _ASIDE_COST * aside_rad**2 + _YAW_COST * yaw_rad**2 + _LEAN_COST * (lean - _LEANS_RAD[2]) ** 2
            cost += TABLE_COST * into_table + _CONTACT_COST * float(np.log1p(n_touching))
            if cost < least:
                best, least = (Grasp(pose.to_body(point), yaw_rad, pose), lean_rad), cost
    assert best is not None
    return best


def into_table_m(position_m: FloatArray, rotation: FloatArray, table_m: float) -> float:
    """How deep [m] the palm of a hand at a pose would be in a table of a height, or nearer to it than it should be."""
    return max(0.0, table_m + 0.006 - float((position_m + _PALM_M @ rotation.T)[:, 2].min()))


def _upright(yaw_rad: float) -> Rotation:
    return Rotation.from_euler("z", yaw_rad) * Rotation.from_euler("x", np.pi)


def _n_inside(points: FloatArray, position_m: FloatArray, rotation: FloatArray) -> int:
    """How many points (V, 3) are inside the open hand or the wrist behind it."""
    along, across, ahead = ((points - position_m) @ rotation).T
    along, across, up = np.abs(along), np.abs(across), -ahead
    fingers = (across < 0.065) & (along < 0.018) & (up > -0.010) & (up < 0.04)
    palm = (across < 0.110) & (along < 0.040) & (up > 0.028) & (up < 0.105)
    wrist = (np.hypot(across, along) < 0.055) & (up >= 0.105) & (up < 0.25)
    return int((fingers | palm | wrist).sum())


class SlipOut:
    """Bring the held object out from under what hangs over it."""

    phase = Phase.TRANSPORT

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._goal_m: FloatArray = np.zeros(3)

    def start(self, scene: Scene, hand: Hand) -> None:
        """Decide where out is."""
        away = way_out(scene, self._hold.name)
        self._goal_m = hand.position_m.copy()
        if away is not None and not is_clear(scene, self._hold.name, hand.position_m, hand.yaw_rad):
            self._goal_m = hand.position_m + _WAY_M * (away + _SLOPE * _UP) / np.hypot(1.0, _SLOPE)

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002 (part of the protocol)
        """Done outside."""
        return Status.DONE if np.linalg.norm(self._goal_m - hand.position_m) < 0.03 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:  # noqa: ARG002
        """Straight there."""
        return Command(self._goal_m - hand.position_m, self._hold.turn(hand), CLOSED)
