"""From a task's goal to the skills that reach it."""

import numpy as np

from heisd.errors import BadInput
from heisd.sim.experts.expert import Expert, Skill
from heisd.sim.experts.geometry import up
from heisd.sim.experts.grasps import plan_handle_grasp
from heisd.sim.experts.compartments import (
    Place,
    Turn,
    along,
    before_oven,
    beside,
    hand_outside,
    hand_towards_base,
    in_drawer,
    in_oven,
    on_top,
    way_out,
)
from heisd.sim.experts.primitives import Approach, Carry, CloseUntilStill, Hand, Hold, Primitive, Release, Retreat, Insert
from heisd.sim.experts.style import Style
from heisd.sim.scene import Goal, Scene

_STAGE = {"open": 0, "turnon": 0, "close": 2, "turnoff": 2}  # what must come first or last; things are moved between
_BACK_OUT_M = 0.10


class UnsupportedTask(BadInput):
    """A goal that no skill has been written for yet."""


def build_expert(scene: Scene, style: Style, rng: np.random.Generator) -> Expert:
    """An expert for the task in the scene, one skill for every conjunct of its goal.

    Raises UnsupportedTask for goals other than putting movable objects in or on something.
    """
    goals = sorted(scene.goals, key=lambda goal: _STAGE.get(goal.predicate, 1))
    return Expert(scene, [_skill(scene, goal, style) for goal in goals], style, rng)


def _skill(scene: Scene, goal: Goal, style: Style) -> Skill:
    if goal.predicate not in ("in", "on") or goal.arguments[0] not in scene.objects:
        given = f"{goal.predicate}({', '.join(goal.arguments)})"
        raise UnsupportedTask(f"no expert for the goal {given}; scripted so far: in/on of movable objects")
    name, target = goal.arguments
    if "heating_region" in target:
        return slide_in(goal, style)
    if goal.predicate == "in" and scene.is_site(target) and "cabinet" in target:
        return pick_and_place(goal, in_drawer(target), style, hand_towards_base(name, target))
    is_compartment = scene.is_site(target) and "contain" in target
    turn = along(scene, name, target) if is_compartment else None
    return pick_and_place(goal, _place(scene, name, target), style, turn)


def pick_and_place(goal: Goal, place: Place, style: Style, turn: Turn | None = None) -> Skill:
    """Grasp the goal's first argument, turn it as asked for and release it at the place."""
    hold = Hold(goal.arguments[0])
    grasping = (Approach(hold, style), CloseUntilStill(hold))
    return _resumable(goal, hold, grasping, (Carry(hold, place, style, turn), Release(hold), Retreat(hold)))


def slide_in(goal: Goal, style: Style) -> Skill:
    """Take the goal's first argument by its handle and slide it in where there is a roof."""
    name, site = goal.arguments
    hold = Hold(name)
    grasping = (Approach(hold, style, plan_handle_grasp), CloseUntilStill(hold))
    to_the_front = Carry(hold, before_oven(site), style, hand_outside(name, site))
    back_out = Retreat(hold, way=lambda scene: _BACK_OUT_M * way_out(scene, site))
    placing = (to_the_front, Insert(hold, in_oven(site), style), Release(hold), back_out, Retreat(hold))
    return _resumable(goal, hold, grasping, placing)


def _resumable(goal: Goal, hold: Hold, grasping: tuple[Primitive, ...], placing: tuple[Primitive, ...]) -> Skill:
    """A skill that goes on with the object that is in the hand already."""

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
        return lambda now: now.pose(target).position_m + up(0.006)
    if "contain" in target:
        # Small things drop from the middle of a container, so that hand and walls do not meet; tall ones, held higher
        # up, go further down, so that their middle is inside.
        lift_m = -float(np.clip(np.ptp(scene.points(name)[:, 2]) - 0.05, 0.0, 0.04))
        return lambda now: now.pose(target).position_m + up(lift_m)
    return beside(on_top(scene, target), scene, name, target)
