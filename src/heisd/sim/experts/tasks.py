"""From a task's goal to the skills that reach it."""

from dataclasses import replace

import numpy as np

from heisd.errors import BadInput
from heisd.sim.experts.articulated import OPERATED, DrawOut, operate
from heisd.sim.experts.compartments import (
    Place,
    Turn,
    along,
    before_oven,
    below_handles,
    beside,
    centred,
    hand_beside,
    hand_outside,
    in_oven,
    is_low,
    is_shared,
    missing_m,
    on_table,
    over_rim,
    way_out,
)
from heisd.sim.experts.expert import Expert, Skill
from heisd.sim.experts.geometry import up
from heisd.sim.experts.grasps import plan_handle_grasp
from heisd.sim.experts.leaning import CarryLeaning, is_aslant, lean, slope_place
from heisd.sim.experts.places import in_drawer, is_in_drawer, on_region
from heisd.sim.experts.primitives import (
    Approach,
    Carry,
    CloseUntilStill,
    Hand,
    Hold,
    Insert,
    LowerInto,
    Primitive,
    Release,
    Retreat,
)
from heisd.sim.experts.shoving import GetBehind, Push, Rise, Shove
from heisd.sim.experts.slanted import ApproachAslant, SlipOut
from heisd.sim.experts.style import Style
from heisd.sim.scene import Goal, Scene

_STAGE = {"open": 0, "turnon": 0, "close": 2, "turnoff": 2}  # what must come first or last; things are moved between
_OFF_THE_FRONT_M = 0.020  # how far an object that drew a drawer out is lifted from that again
_BACK_OUT_M = 0.10
_EXACTLY = (0.0, 0.0)  # where there is no room for anybody's carelessness
_TALL_M = 0.05  # heights of objects are told apart in steps of this


class UnsupportedTask(BadInput):
    """A goal that no skill has been written for yet."""


def build_expert(scene: Scene, style: Style, rng: np.random.Generator) -> Expert:
    """An expert for the task in the scene, one skill for every conjunct of its goal.

    Raises UnsupportedTask for goals other than putting movable objects in or on something and opening, closing or
    turning a fixture.
    """
    skills = [skill for goal in in_order(scene) for skill in _skills(scene, goal, style)]
    return Expert(scene, skills, style, rng)


def in_order(scene: Scene) -> list[Goal]:
    """The goal's conjuncts in the order in which to go about them.

    Between what must come first and last, what is low is put on its place before something tall stands beside it.
    """

    def rank(goal: Goal) -> tuple[int, int]:
        is_put_on = goal.predicate == "on" and goal.arguments[0] in scene.objects
        height_m = float(np.ptp(scene.points(goal.arguments[0])[:, 2])) if is_put_on else 0.0
        return _STAGE.get(goal.predicate, 1), int(height_m / _TALL_M)

    return sorted(scene.goals, key=rank)


def _skills(scene: Scene, goal: Goal, style: Style) -> list[Skill]:
    """What it takes to make one conjunct true, from the scene as it is now."""
    if goal.predicate in OPERATED:
        return [operate(goal, style)]
    if goal.predicate not in ("in", "on") or goal.arguments[0] not in scene.objects:
        given = f"{goal.predicate}({', '.join(goal.arguments)})"
        raise UnsupportedTask(
            f"no expert for the goal {given}; scripted so far: in/on of movable objects, {'/'.join(OPERATED)}"
        )
    name, target = goal.arguments
    if is_in_drawer(scene, target):
        opened = Goal("open", (target,))
        opening = [] if scene.holds(opened) else [replace(operate(opened, style), is_means=True)]
        return [*opening, put_in_drawer(scene, goal, style)]
    if "heating_region" in target:
        return [slide_in(goal, style)]
    if scene.is_site(target) and is_aslant(scene, target):
        return [lay(scene, goal, style)]
    if "plate" in scene.category(name) and scene.is_site(target):
        return [push(scene, goal, style)]
    place = _place(scene, name, target)
    if scene.is_site(target) and "contain" in target:
        if turn := along(scene, name, target):
            return [fit_in(goal, place, turn, style)]
        if is_shared(scene, target):
            place = over_rim(place, scene, name, target)
    return [pick_and_place(goal, place, style)]


def pick_and_place(goal: Goal, place: Place, style: Style) -> Skill:
    """Grasp the goal's first argument and release it at the place."""
    hold = Hold(goal.arguments[0])
    grasping = (Approach(hold, style), CloseUntilStill(hold))
    return _grasp_and(goal, hold, grasping, (Carry(hold, place, style), Release(hold), Retreat(hold)))


def fit_in(goal: Goal, place: Place, turn: Turn, style: Style) -> Skill:
    """Grasp the goal's first argument, turn it and lower it into a compartment that it just fits."""
    hold = Hold(goal.arguments[0])
    grasping = (Approach(hold, style), CloseUntilStill(hold))
    carry = LowerInto(hold, centred(place, hold.name), replace(style, place_offset_m=_EXACTLY), turn)
    return _grasp_and(goal, hold, grasping, (carry, Release(hold), Retreat(hold)))


def slide_in(goal: Goal, style: Style) -> Skill:
    """Take the goal's first argument by its handle and slide it in where there is a roof."""
    name, site = goal.arguments
    hold = Hold(name)
    grasping = (Approach(hold, style, plan_handle_grasp), CloseUntilStill(hold))
    to_the_front = Carry(hold, before_oven(site), style, hand_outside(name, site))
    back_out = Retreat(hold, way=lambda scene: _BACK_OUT_M * way_out(scene, site))
    insert = Insert(hold, in_oven(site), replace(style, place_offset_m=_EXACTLY))
    return _grasp_and(goal, hold, grasping, (to_the_front, insert, Release(hold), back_out, Retreat(hold)))


def put_in_drawer(scene: Scene, goal: Goal, style: Style) -> Skill:
    """Put an object in an open drawer, even one that stands half under it."""
    name, region = goal.arguments
    hold = Hold(name)
    grasping = (ApproachAslant(hold, style), CloseUntilStill(hold))
    if is_low(scene, region):
        exactly = replace(style, place_offset_m=_EXACTLY)
        place = below_handles(scene, name, region)
        lifted = replace(exactly, release_height_m=exactly.release_height_m + _OFF_THE_FRONT_M)
        placing: tuple[Primitive, ...] = (
            LowerInto(hold, place, exactly, hand_beside(name, region)),
            DrawOut(hold, lambda now: missing_m(now, name, region, place(now)), way_out(scene, region)),
            Insert(hold, place, lifted),  # lower, it would take the drawer back along
            Insert(hold, place, exactly),
        )
    else:
        placing = (Carry(hold, lambda now: in_drawer(now, region), style),)
    return _grasp_and(goal, hold, grasping, (SlipOut(hold), *placing, Release(hold), Retreat(hold)))


def lay(scene: Scene, goal: Goal, style: Style) -> Skill:
    """Lay an object on a region that is aslant."""
    name, region = goal.arguments
    hold = Hold(name)
    grasping = (Approach(hold, style), CloseUntilStill(hold))
    carry = CarryLeaning(hold, slope_place(scene, region), lean(scene, region), style)
    return _grasp_and(goal, hold, grasping, (carry, Release(hold), Retreat(hold)))


def push(scene: Scene, goal: Goal, style: Style) -> Skill:
    """Push a flat object over the table to a region."""
    name, region = goal.arguments
    shove = Shove(name, scene.pose(region).position_m + np.append(style.place_offset_m, 0.0))
    return Skill(goal, (GetBehind(shove, style), Push(shove), Rise()))


def _grasp_and(goal: Goal, hold: Hold, grasping: tuple[Primitive, ...], placing: tuple[Primitive, ...]) -> Skill:
    def first(scene: Scene, hand: Hand) -> int:
        """Whoever moved the hand before may have grasped the object already."""
        if not scene.is_held(hold.name):
            return 0
        hold.take(scene, hand)
        return len(grasping)

    return Skill(goal, (*grasping, *placing), first)


def _place(scene: Scene, name: str, target: str) -> Place:
    """Where to put an object that goes in or on a target."""
    if not scene.is_site(target):
        # Into a bowl things drop from between its walls: there is no room for fingers further down.
        lift_m = 0.030 if "bowl" in scene.category(target) else 0.006
        return lambda now: now.pose(target).position_m + up(lift_m)
    if "contain" in target:
        # Small things drop from the middle of a container, so that hand and walls do not meet; tall ones, held higher
        # up, go further down, so that their middle is inside.
        lift_m = -float(np.clip(np.ptp(scene.points(name)[:, 2]) - 0.05, 0.0, 0.04))
        return lambda now: now.pose(target).position_m + up(lift_m)
    if scene.parent_of(target) in scene.solids:
        there = on_region(scene, name, target)
        return beside(lambda _: there, scene, name, target)
    return on_table(scene, target)
