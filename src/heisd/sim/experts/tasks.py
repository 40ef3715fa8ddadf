"""From a task's goal to the skills that reach it."""

from collections.abc import Callable

import numpy as np

from heisd.errors import BadInput
from heisd.sim.experts.expert import Expert, Skill
from heisd.sim.experts.geometry import up
from heisd.sim.experts.primitives import Approach, Carry, CloseUntilStill, Hand, Hold, Release, Retreat
from heisd.sim.experts.style import Style
from heisd.sim.scene import Goal, Scene
from heisd.types import FloatArray

Place = Callable[[Scene], FloatArray]  # where the bottom centre of the object should go, world


class UnsupportedTask(BadInput):
    """A goal that no skill has been written for yet."""


def build_expert(scene: Scene, style: Style, rng: np.random.Generator) -> Expert:
    """An expert for the task in the scene.

    Raises UnsupportedTask for goals other than putting movable objects in or on something.
    """
    return Expert(scene, [_skill(scene, goal, style) for goal in scene.goals], style, rng)


def _skill(scene: Scene, goal: Goal, style: Style) -> Skill:
    if goal.predicate not in ("in", "on") or goal.arguments[0] not in scene.objects:
        given = f"{goal.predicate}({', '.join(goal.arguments)})"
        raise UnsupportedTask(f"no expert for the goal {given}; scripted so far: in/on of movable objects")
    return pick_and_place(goal, _place(scene, *goal.arguments), style)


def pick_and_place(goal: Goal, place: Place, style: Style) -> Skill:
    """Grasp the goal's first argument and release it at the place."""
    hold = Hold(goal.arguments[0])
    grasping = (Approach(hold, style), CloseUntilStill(hold))
    placing = (Carry(hold, place, style), Release(hold), Retreat(hold))

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
    lift_m = 0.005
    if "contain" in target:
        # Small things drop from the middle of a container, so that hand and walls do not meet; tall ones, held higher
        # up, go further down, so that their middle is inside.
        lift_m = -float(np.clip(np.ptp(scene.points(name)[:, 2]) - 0.05, 0.0, 0.04))
    return lambda now: now.pose(target).position_m + up(lift_m)
