"""Gripper events, contact and the phase of a manipulation, from commands, finger width and speed alone.

Contact is an estimate: fingers told to close that stopped above the fully closed width hold something. What the
simulator knows about contacts is never read.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from heisd.kinematics.motion import Motion

EMPTY_WIDTH_M = 0.002  # closed Panda fingers rest at 1.0 mm; the thinnest thing held in the demonstrations is 3.4 mm
STILL_WIDTH_M = 0.001  # change per control step; free fingers move 4 to 10 mm a step
SHUTTING_M = 0.004  # closing this much per step, fingers hold nothing any more: what slips moves less
START_STEPS = 3  # steps after the command until the fingers are under way
RECENT_STEPS = 12  # control steps a change of the command counts as recent: closing on a rim takes 11


class Phase(StrEnum):
    """What the hand is doing, in the order of a pick and place."""

    APPROACH = "approach"  # open fingers on their way, or nothing known yet
    GRASP = "grasp"  # fingers closing, closed on nothing, or something just held and not moved yet
    TRANSPORT = "transport"  # something held and moved
    RELEASE = "release"  # fingers just told to open and not yet open and away


@dataclass(frozen=True, slots=True)
class GripperState:
    """What the gripper was told and what came of it."""

    is_commanded_closed: bool | None  # by the newest executed action; None: no action yet, or NaN
    steps_since_change: int | None  # 1: the newest action changed the command; None: no change is remembered
    width_m: float  # between the fingers, now; NaN without a pose
    width_change_m: float  # over the last control step, negative while closing; NaN below two poses
    is_holding: bool  # commanded closed, the fingers have stopped, and not because they met each other

    def changed_within(self, n_steps: int) -> bool:
        """Whether one of the last ``n_steps`` executed actions changed the command."""
        return self.steps_since_change is not None and self.steps_since_change <= n_steps


def read_gripper(motion: Motion) -> GripperState:
    """The gripper's state. What precedes a command that is NaN is forgotten; a width that is NaN is never holding."""
    is_closed, n_steps, has_changed = _last_command(motion.actions[:, -1].tolist())
    fingers = motion.gripper_qpos_m[-(n_steps + 2) :]
    widths = (fingers[:, 0] - fingers[:, 1]).tolist()
    width = widths[-1] if widths else math.nan
    change = width - widths[-2] if len(widths) > 1 else math.nan
    is_holding = bool(is_closed) and width > EMPTY_WIDTH_M and change > -SHUTTING_M
    if is_holding:
        since = widths[-(n_steps + 1) :]
        is_holding = _has_settled(since[START_STEPS - 1 :] if has_changed else since)
    return GripperState(is_closed, n_steps if has_changed else None, width, change, is_holding)


def label_phase(gripper: GripperState, speed_mm: float, speed_gate_mm: float, *, is_readable: bool) -> Phase:
    """The phase, by these rules in turn (``is_readable``: commands and widths are finite; otherwise the strictest)."""
    is_moving = speed_mm > speed_gate_mm  # False for NaN
    if not is_readable:
        return Phase.GRASP
    if gripper.is_commanded_closed:
        is_lifted = is_moving or not gripper.changed_within(RECENT_STEPS)
        return Phase.TRANSPORT if gripper.is_holding and is_lifted else Phase.GRASP
    if gripper.changed_within(RECENT_STEPS):
        is_away = is_moving and abs(gripper.width_change_m) < STILL_WIDTH_M
        return Phase.APPROACH if is_away else Phase.RELEASE
    return Phase.APPROACH


def is_readable(motion: Motion) -> bool:
    """Whether the newest command and finger joints are numbers; True where there are none yet."""
    return bool(np.isfinite(motion.actions[-1:, -1]).all() and np.isfinite(motion.gripper_qpos_m[-1:]).all())


def _last_command(commands: list[float]) -> tuple[bool | None, int, bool]:
    """-> closed?; for how many steps; whether its beginning is remembered."""
    if not commands or math.isnan(commands[-1]):
        return None, 0, False
    is_closed = commands[-1] > 0
    n = 0
    for command in reversed(commands):
        if math.isnan(command):
            return is_closed, n, False
        if (command > 0) is not is_closed:
            return is_closed, n, True
        n += 1
    return is_closed, n, False


def _has_settled(widths: list[float]) -> bool:
    """Whether the width stood still for two steps in a row; later slipping does not undo it."""
    steps = [abs(later - sooner) < STILL_WIDTH_M for sooner, later in pairwise(widths)]
    return any(a and b for a, b in pairwise(steps))
