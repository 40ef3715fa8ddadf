"""Where things go and which way round: shared burners, drawers, compartments, ovens.

A place is where an object's origin should be on the plane and its bottom in height; a turn is how far the object is
from how it should stand. Furniture of LIBERO opens towards its own -y.
"""

from collections.abc import Callable

import numpy as np

from heisd.sim.experts.geometry import turn_between, up, wrap_yaw
from heisd.sim.experts.primitives import Hand
from heisd.sim.scene import Scene
from heisd.types import FloatArray

Place = Callable[[Scene], FloatArray]  # (3,) world
Turn = Callable[[Scene, Hand], float]  # [rad] about the vertical

_HALF_TURN = np.deg2rad(np.arange(0.0, 180.0, 2.0))
_BESIDE_M = 0.11  # from one pot on a burner to the next: a finger has to fit between them
_PALM_M = 0.030  # how far above its finger pads the hand is wide
_FINGERS_M = 0.035  # how far below a tall object's top it is held
_HAND_M = 0.10  # of air that the hand needs above what it puts into a drawer
_CLEAR_M = 0.001  # between a bowl in a drawer and the handle of the drawer above
_LOWER_M = 0.003  # below the floor of a drawer: the hand lets go where the bowl stands
_WALL_M = 0.045  # what is further above a drawer's middle is not its own wall
_MIDDLE_OF_DRAWER_M = 0.010  # of a drawer the rear is still in the cabinet when it is open
_ELONGATED = 1.5  # times as long as wide: such a thing fits a compartment one way only
_IN_FRONT_M = 0.11  # of an oven's opening, where what goes in is brought first
_JUST_INSIDE_M = 0.006
_FLOOR_M = 0.008  # of an oven, above the bottom of its region
_MIDDLE_M = -0.04  # of an oven's opening, along its own x from the middle of its region: the panel takes the rest


def way_out(scene: Scene, site: str) -> FloatArray:
    """(3,) horizontal unit vector out of the furniture that a region belongs to, towards who opens it."""
    return -scene.pose(scene.parent_of(site)).rotation[:, 1]


def beside(place: Place, scene: Scene, name: str, site: str) -> Place:
    """The place moved aside where several objects share a region, each to a slot of its own, in the goals' order."""
    sharing = [goal.arguments[0] for goal in scene.goals if goal.arguments[1:] == (site,)]
    if len(sharing) == 1:
        return place
    along_m = (sharing.index(name) - (len(sharing) - 1) / 2.0) * _BESIDE_M
    return lambda now: place(now) + along_m * now.pose(now.parent_of(site)).rotation[:, 0]


def over_rim(place: Place, scene: Scene, name: str, site: str) -> Place:
    """The place in a container, as high up as the hand that holds the object needs to stay above the walls."""
    rim_m = scene.points(scene.parent_of(site))[:, 2].max()
    in_fingers_m = max(float(np.ptp(scene.points(name)[:, 2])) - _FINGERS_M, 0.009)

    def above(now: Scene) -> FloatArray:
        there = place(now)
        return np.append(there[:2], max(there[2], rim_m + _PALM_M - in_fingers_m))

    return above


def is_shared(scene: Scene, site: str) -> bool:
    """Whether several objects go to a region: only the last may still be in the hand when the task is solved."""
    return sum(goal.arguments[1:] == (site,) for goal in scene.goals) > 1


def on_table(scene: Scene, site: str) -> Place:
    """On a region of the table, which LIBERO's regions lie a little below: on what the lowest object stands on."""
    below_m = float(scene.pose(site).position_m[2]) - 0.01
    bottoms = np.array([scene.points(name)[:, 2].min() for name in scene.objects])
    lift_m = float(bottoms[bottoms > below_m].min(initial=np.inf)) - scene.pose(site).position_m[2]
    return lambda now: now.pose(site).position_m + up(lift_m if np.isfinite(lift_m) else 0.0)


def centred(place: Place, name: str) -> Place:
    """The place for the middle of what is seen of an object from above, which need not be its origin."""

    def origin(now: Scene) -> FloatArray:
        xy = now.points(name)[:, :2]
        middle = (xy.min(axis=0) + xy.max(axis=0)) / 2.0
        return np.asarray(place(now) + np.append(now.pose(name).position_m[:2] - middle, 0.0))

    return origin


def is_low(scene: Scene, drawer: str) -> bool:
    """Whether so much of the cabinet is above a drawer that the hand comes near its front."""
    return bool(scene.points(scene.parent_of(drawer))[:, 2].max() > scene.pose(drawer).position_m[2] + _HAND_M)


def below_handles(scene: Scene, name: str, drawer: str) -> Place:
    """In an open drawer, as far out as the handle of the drawer above asks for."""
    out, at_m = way_out(scene, drawer), scene.pose(drawer).position_m
    offset = scene.points(scene.parent_of(drawer)) - at_m
    is_above = (offset[:, 2] > _WALL_M) & (offset[:, 2] < _HAND_M)
    is_near = np.abs(np.cross(out, offset)[:, 2]) < 0.06
    handle_m = float((offset[is_above & is_near] @ out).max(initial=-np.inf))
    clear_m = float(at_m @ out) + handle_m + _half_m(scene, name, out) + _CLEAR_M

    def place(now: Scene) -> FloatArray:
        middle_m = now.pose(drawer).position_m
        return np.asarray(middle_m + max(_MIDDLE_OF_DRAWER_M, clear_m - float(middle_m @ out)) * out - up(_LOWER_M))

    return place


def missing_m(scene: Scene, name: str, drawer: str, place_m: FloatArray) -> float:
    """How much further [m] out a drawer has to come, and can, for an object at a place (3,) to be behind its front."""
    joint, out = scene.joint(drawer), way_out(scene, drawer)
    half_m = _half_m(scene, name, out)
    walls = np.concatenate(scene.moving_parts(drawer)) - place_m
    is_ahead = (walls @ out > 0.0) & (walls[:, 2] > 0.0) & (np.abs(np.cross(out, walls)[:, 2]) < half_m)
    front_m = float((walls[is_ahead] @ out).min(initial=np.inf))
    left_m = max((limit - joint.position) * float(joint.axis @ out) for limit in joint.limits)
    return min(half_m + _CLEAR_M - front_m, left_m - _CLEAR_M)


def hand_beside(name: str, drawer: str) -> Turn:
    """The hand, wide along its fingers, beside the object and not between it and the cabinet's front."""

    def turn(now: Scene, hand: Hand) -> float:
        side, across = hand.position_m - now.pose(name).position_m, now.pose(now.parent_of(drawer)).rotation[:, 0]
        return min(turn_between(side, across), turn_between(side, -across), key=abs)

    return turn


def hand_outside(name: str, site: str) -> Turn:
    """The hand on the outer side of the object."""
    return lambda scene, hand: turn_between(hand.position_m - scene.pose(name).position_m, way_out(scene, site))


def in_oven(site: str) -> Place:
    """Just inside, as far as a hand that stays outside can bring it."""

    def place(now: Scene) -> FloatArray:
        out = way_out(now, site)
        half_m = now.extent_m(site)
        deep_m = float(np.abs(out) @ half_m) - _JUST_INSIDE_M
        aside = _MIDDLE_M * now.pose(now.parent_of(site)).rotation[:, 0]
        return np.asarray(now.pose(site).position_m + aside + out * deep_m - up(half_m[2] - _FLOOR_M))

    return place


def before_oven(site: str) -> Place:
    """In front of the opening, at the height at which things go in."""
    inside = in_oven(site)
    return lambda now: inside(now) + _IN_FRONT_M * way_out(now, site)


def _half_m(scene: Scene, name: str, direction: FloatArray) -> float:
    """Half an object's extent [m] along a direction (3,)."""
    return float(np.ptp(scene.points(name) @ direction)) / 2.0


def along(scene: Scene, name: str, site: str) -> Turn | None:
    """A long object along a long compartment; None where either is about as wide as long."""
    half_m = scene.extent_m(site)[:2]
    if half_m.max() < _ELONGATED * half_m.min() or _long_axis(scene, name)[0] < _ELONGATED:
        return None
    wanted = np.eye(2)[int(half_m.argmax())]
    return lambda now, _hand: wrap_yaw(turn_between(_long_axis(now, name)[1], wanted))


def _long_axis(scene: Scene, name: str) -> tuple[float, FloatArray]:
    """How many times as long as wide an object is, seen from above, and (2,) the direction in which it is long."""
    xy = scene.points(name)[:, :2]
    axes = np.stack([np.cos(_HALF_TURN), np.sin(_HALF_TURN)])
    extents = np.ptp(xy @ axes, axis=0)
    across = int(extents.argmin())
    along = (across + len(_HALF_TURN) // 2) % len(_HALF_TURN)
    return float(extents[along] / extents[across]), axes[:, along]
