"""Fixtures with a joint: drawers pulled open by their handles, drawers and doors pushed shut, knobs turned.

All of it follows from the joint's axis and the collision shapes it moves. Where the hand belongs is planned once, in
the frame of the moving part; carried along by the joint it says where the hand belongs at any other position.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from heisd.sim.experts.expert import Skill
from heisd.sim.experts.geometry import ramp
from heisd.sim.experts.grasps import CLOSE_COST_M, TOUCH_COST_M, volume_cost_m
from heisd.sim.experts.primitives import (
    CLOSED,
    OPEN,
    CloseUntilStill,
    Command,
    Hand,
    Hold,
    Phase,
    Status,
    has_slipped,
)
from heisd.sim.experts.slanted import TABLE_COST, into_table_m, slanted_move
from heisd.sim.experts.style import Style
from heisd.sim.reach import wrist_m
from heisd.sim.scene import Goal, Joint, Pose, Scene
from heisd.types import FloatArray

OPERATED = ("open", "close", "turnon", "turnoff")  # goals about a joint
_DOWN = np.diag([1.0, -1.0, -1.0])  # the hand's axes at home: x thin, y along the closing axis, z to the fingertips
_TILTS_RAD = np.deg2rad([0.0, 15.0, 30.0, 45.0, 60.0, 70.0, 80.0, 90.0])
_TILT_COST_M = 0.010  # price of tilting the hand by one radian; grows with its square
_ROLL_COST_M = 0.008  # and of turning it about its own axis
_LEVER_COST = 0.10  # of pushing a door nearer to its hinge, or to its edge, than at three quarters of its width
_INSIDE_M, _INSIDE_RAD = 0.010, 0.3  # how far into the wanted positions to go
_AT_TOUCH_M, _FACING_RAD = 0.010, 0.12
_LEAD_M = 0.06  # how far ahead of the part the hand aims
_PRESS_M = 0.035  # and how far into what it pushes
_FROM_EDGE_M = 0.015  # where a door is pushed, at least, from its upper and lower edge
_SLACK_M, _SLACK_RAD = 0.03, 0.3  # how far beyond the position aimed for to lead what is held
_GAP_M = 0.012  # air between the fingers and what they are about to push
_CLOSED_FINGERS_M = np.array([0.012, 0.022, 0.010])  # half their size along the hand's axes; beyond the pads along z
_WRIST_RADII_M = (0.050, 0.065)  # what touches it, and what comes close
_SLIPPED_M = 0.05
_LEFT_BEHIND_M = 0.12  # a door that was pushed may swing on by itself
_EMPTY_M = 0.005  # closed fingers nearer than this hold nothing


@dataclass(slots=True)
class Touch:
    """How the hand meets the moving part: what the primitives of one skill share."""

    goal: Goal
    plan: Callable[[Scene, Goal, Style], Pose]  # the hand's pose in the world when it is there
    is_held: bool  # between the fingers, so that the hand turns with it; else pushed
    hand_in_part: Pose | None = None
    rotation: FloatArray | None = None  # (3, 3) the hand's as planned, world
    aim: float = 0.0  # position of the joint to go for

    @property
    def name(self) -> str:
        """The fixture or region whose joint it is."""
        return self.goal.arguments[0]

    @property
    def gripper(self) -> float:
        """Command for the fingers on the way there."""
        return OPEN if self.is_held else CLOSED

    def prepare(self, scene: Scene, hand: Hand, style: Style) -> None:
        """Plan, for the joint and the hand as they are now."""
        joint, pose = scene.joint(self.name), self.plan(scene, self.goal, style)
        self.aim = aim(joint, scene.wanted(self.goal))
        # As far from home either way: the wrist may have no more than one of the two left after what it did before.
        self.rotation = facing(pose.rotation[:, 2], pose.rotation[:, 1], near=_DOWN + hand.rotation)
        self.hand_in_part = Pose(joint.body.to_body(pose.position_m), joint.body.rotation.T @ self.rotation)

    def pose(self, joint: Joint, ahead: float = 0.0) -> Pose:
        """Where the hand belongs when the joint has moved on by so much."""
        assert self.hand_in_part is not None, "planning comes first"
        assert self.rotation is not None
        inside = self.hand_in_part
        now = Pose(joint.body.to_world(inside.position_m), joint.body.rotation @ inside.rotation)
        moved = joint.carry(now, ahead)
        return moved if self.is_held else replace(moved, rotation=self.rotation)


def aim(joint: Joint, wanted: tuple[float, float]) -> float:
    """Position [rad or m] to go for: a little inside the wanted ones, or where the joint is if that is inside."""
    low, high = max(wanted[0], joint.limits[0]), min(wanted[1], joint.limits[1])
    inside = min(_INSIDE_RAD if joint.is_hinge else _INSIDE_M, high - low)
    if joint.position <= low:
        return low + inside
    return high - inside if joint.position >= high else joint.position


def operate(goal: Goal, style: Style) -> Skill:
    """Open, close or turn what the goal names."""
    if goal.predicate == "close":
        touch = Touch(goal, plan_push, is_held=False)
        return Skill(goal, (Reach(touch, style), Follow(touch), BackOff(touch)))
    touch = Touch(goal, plan_pull if goal.predicate == "open" else plan_turn, is_held=True)
    return Skill(goal, (Reach(touch, style), Clasp(touch), Follow(touch), BackOff(touch)))


class Reach:
    """Come from anywhere to where the part is touched, at the end in the direction in which the fingers point."""

    phase = Phase.APPROACH

    def __init__(self, touch: Touch, style: Style) -> None:
        self._touch, self._style = touch, style

    def start(self, scene: Scene, hand: Hand) -> None:
        """Plan how to touch."""
        self._touch.prepare(scene, hand, self._style)

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done there, facing the right way."""
        pose = self._touch.pose(scene.joint(self._touch.name))
        is_there = np.linalg.norm(pose.position_m - hand.position_m) < _AT_TOUCH_M
        is_facing = np.linalg.norm(hand.turn_into(pose.rotation)) < _FACING_RAD
        return Status.DONE if is_there and is_facing else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """To the line along which the fingers point, then along it."""
        pose = self._touch.pose(scene.joint(self._touch.name))
        turn, back = hand.turn_into(pose.rotation), -pose.rotation[:, 2]
        obstacles = np.concatenate([scene.surroundings(self._touch.name), *scene.moving_parts(self._touch.name)])
        move = slanted_move(hand, pose.position_m, turn, back, self._style.hover_m, scene, obstacles, self._style)
        is_delicate = bool(np.linalg.norm(pose.position_m - hand.position_m) < 0.02)
        return Command(move, turn, self._touch.gripper, is_delicate)


class Clasp(CloseUntilStill):
    """Close the fingers around a handle or a knob."""

    def __init__(self, touch: Touch) -> None:
        super().__init__(Hold(touch.name))
        self._touch = touch

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002
        """Done once the fingers have been still for two steps; lost when there is nothing between them."""
        if self._are_closing(hand):
            return Status.RUNNING
        return Status.DONE if hand.width_m > _EMPTY_M else Status.LOST

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Stay and close; along the closing axis the fingers centre themselves."""
        pose = self._touch.pose(scene.joint(self._touch.name))
        move, axis = pose.position_m - hand.position_m, pose.rotation[:, 1]
        return Command(move - axis * (axis @ move), hand.turn_into(pose.rotation), CLOSED, is_delicate=True)


class Follow:
    """Take the part along, held or pushed, on the way that its joint leaves it."""

    phase = Phase.TRANSPORT
    _PATIENCE_STEPS = 4  # with the goal reached but not the position aimed for

    def __init__(self, touch: Touch) -> None:
        self._touch, self._n_reached = touch, 0

    @property
    def is_on_the_spot(self) -> bool:
        """The hand may turn a knob where it is; one that pushes and comes no further is stuck."""
        return self._touch.is_held

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002
        """Begin to count."""
        self._n_reached = 0

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done when the part is where it should be; lost when the hand came off it."""
        touch = self._touch
        joint = scene.joint(touch.name)
        is_there = scene.holds(touch.goal)
        self._n_reached = self._n_reached + 1 if is_there else 0
        near = 0.5 * (_INSIDE_RAD if joint.is_hinge else _INSIDE_M)
        if is_there and (abs(touch.aim - joint.position) < near or self._n_reached >= self._PATIENCE_STEPS):
            return Status.DONE
        apart = np.linalg.norm(touch.pose(joint).position_m - hand.position_m)
        return Status.LOST if apart > (_SLIPPED_M if touch.is_held else _LEFT_BEHIND_M) else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Where the hand belongs a little further on; into the part where that is pushed."""
        touch, joint = self._touch, scene.joint(self._touch.name)
        left, at = touch.aim - joint.position, touch.pose(joint).position_m
        most = _LEAD_M / max(joint.lever_m(at), _LEAD_M)
        if touch.is_held:  # what slips a little between the fingers lags behind them
            left += np.sign(left) * (_SLACK_RAD if joint.is_hinge else _SLACK_M)
        pose = touch.pose(joint, float(np.clip(left, -most, most)))
        move = pose.position_m - hand.position_m
        if not touch.is_held:
            move = move + _PRESS_M * np.sign(left) * _unit(joint.heading(at))
        return Command(move, hand.turn_into(pose.rotation), CLOSED)


class BackOff:
    """Let go and leave the way the fingers came; the hand goes as far as they have opened."""

    phase = Phase.RETREAT

    def __init__(self, touch: Touch, way_m: float = 0.08) -> None:
        self._touch, self._way_m = touch, way_m
        self._anchor = Pose(np.zeros(3), np.eye(3))
        self._held_width_m = 0.0

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002
        """Remember where it began."""
        self._anchor, self._held_width_m = Pose(hand.position_m, hand.rotation), hand.width_m

    def status(self, scene: Scene, hand: Hand) -> Status:  # noqa: ARG002
        """Done nearly all the way back."""
        gone = (self._anchor.position_m - hand.position_m) @ self._anchor.rotation[:, 2]
        return Status.DONE if gone > self._way_m - 0.02 else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:  # noqa: ARG002
        """Back, once the fingers are open."""
        freedom = ramp(hand.width_m - self._held_width_m, 0.010, 0.025) if self._touch.is_held else 1.0
        goal = self._anchor.position_m - freedom * self._way_m * self._anchor.rotation[:, 2]
        turn = hand.turn_into(self._anchor.rotation)
        return Command(goal - hand.position_m, turn, self._touch.gripper, is_delicate=freedom == 0.0)


class DrawOut:
    """Draw a drawer out with the held object, whose foot is behind its front, until the object fits in.

    ``missing_m`` says how much further [m] the drawer has to come, in the direction (3,) ``out``.
    """

    phase = Phase.TRANSPORT
    is_on_the_spot = True  # a few millimetres may be all that is missing
    _PATIENCE_STEPS = 20  # then whatever the drawer has come must do

    def __init__(self, hold: Hold, missing_m: Callable[[Scene], float], out: FloatArray) -> None:
        self._hold, self._missing_m, self._out = hold, missing_m, out
        self._n_steps = 0

    def start(self, scene: Scene, hand: Hand) -> None:  # noqa: ARG002
        """Begin to count."""
        self._n_steps = 0

    def status(self, scene: Scene, hand: Hand) -> Status:
        """Done when the object fits; lost when it slipped."""
        self._n_steps += 1
        if has_slipped(scene, self._hold, hand):
            return Status.LOST
        is_over = self._n_steps > self._PATIENCE_STEPS or self._missing_m(scene) <= 0.0
        return Status.DONE if is_over else Status.RUNNING

    def command(self, scene: Scene, hand: Hand) -> Command:
        """Out, ahead of the drawer."""
        move = (max(self._missing_m(scene), 0.0) + _SLACK_M) * self._out
        return Command(move, self._hold.turn(hand), CLOSED, is_delicate=True)


def plan_pull(scene: Scene, goal: Goal, style: Style) -> Pose:
    """The hand around the handle: what of the part is furthest out in the direction in which it should go."""
    name = goal.arguments[0]
    joint, parts = scene.joint(name), scene.moving_parts(name)
    ahead = aim(joint, scene.wanted(goal)) - joint.position
    centres = [_middle(part) for part in parts]
    outwards = [np.sign(ahead) * _unit(joint.heading(centre)) for centre in centres]
    which = int(np.argmax([c @ outwards[int(np.argmax([len(p) for p in parts]))] for c in centres]))
    bar, out = _long_axis(parts[which]), outwards[which]
    centre = centres[which] + 2.0 * style.grasp_slide_m * bar
    candidates = []
    for approach, tilt_rad in _approaches(-out):
        if abs(approach @ bar) > 0.3:
            continue
        approach = _unit(approach - bar * (approach @ bar))
        pose = Pose(centre, facing(approach, np.cross(approach, bar)))
        candidates.append((pose, _TILT_COST_M * tilt_rad**2))
    return _cheapest(scene, name, ahead, candidates, besides=which, is_held=True)


def plan_turn(scene: Scene, goal: Goal, style: Style) -> Pose:  # noqa: ARG001 (planners are alike)
    """The hand over a knob, on its axis, the fingers on the two sides of its ridge."""
    name = goal.arguments[0]
    joint = scene.joint(name)
    outwards = joint.axis * (1.0 if joint.axis[2] >= 0.0 else -1.0)
    points = np.concatenate(scene.moving_parts(name))
    height = (points - joint.anchor_m) @ outwards
    ridge = points[height > height.max() - 0.025]
    first = _unit(np.cross(outwards, _DOWN[:, 1]))
    second = np.cross(outwards, first)
    closings = [np.cos(t) * first + np.sin(t) * second for t in np.deg2rad(np.arange(0.0, 180.0, 4.0))]
    closing = min(closings, key=lambda axis: float(np.ptp(ridge @ axis)))
    return Pose(joint.anchor_m + (height.max() - 0.015) * outwards, facing(-outwards, closing))


def plan_push(scene: Scene, goal: Goal, style: Style) -> Pose:  # noqa: ARG001
    """The closed fingers just behind a drawer's handle, or behind a door some way from its hinge."""
    name = goal.arguments[0]
    joint, parts = scene.joint(name), scene.moving_parts(name)
    ahead = aim(joint, scene.wanted(goal)) - joint.position
    which = _pushed_part(joint, parts, ahead)
    levers_m = [joint.lever_m(point) for point in parts[which]]
    candidates = []
    for point in _rear(joint, parts[which], ahead):
        along = np.sign(ahead) * _unit(joint.heading(point))
        far = abs(joint.lever_m(point) - 0.75 * max(levers_m)) if joint.is_hinge else 0.0
        for approach, tilt_rad in _approaches(along):
            side = _unit(np.cross([0.0, 0.0, 1.0], along))
            for closing in (side, np.cross(approach, side)):
                rotation = facing(approach, closing)
                inside = rotation.T @ along
                thick = np.abs(inside) @ (_CLOSED_FINGERS_M * [1.0, 1.0, float(inside[2] > 0.0)])
                roll = 1.0 - abs(rotation[:, 1] @ _DOWN[:, 1])
                cost = _TILT_COST_M * tilt_rad**2 + _ROLL_COST_M * roll + _LEVER_COST * far
                candidates.append((Pose(point - (thick + _GAP_M) * along, rotation), float(cost)))
    return _cheapest(scene, name, ahead, candidates, besides=which, is_held=False)


def facing(approach: FloatArray, closing: FloatArray, near: FloatArray = _DOWN) -> FloatArray:
    """(3, 3) the hand's orientation with the fingers pointing along ``approach``, closing along ``closing``.

    Both (3,) unit vectors, at right angles. Of the two that differ by half a turn, the one nearer to an orientation
    (3, 3), the hand's at home if not told, or to the middle of several that are added up.
    """
    options = [np.stack([np.cross(y, approach), y, approach], axis=1) for y in (closing, -closing)]
    return max(options, key=lambda rotation: float(np.trace(near.T @ rotation)))


def _approaches(forward: FloatArray) -> Iterator[tuple[FloatArray, float]]:
    """Directions for the fingers from straight down to level and forward, each with its tilt [rad]."""
    level = _unit(forward * [1.0, 1.0, 0.0])
    for tilt_rad in _TILTS_RAD:
        yield np.sin(tilt_rad) * level - np.cos(tilt_rad) * np.array([0.0, 0.0, 1.0]), float(tilt_rad)


def _cheapest(
    scene: Scene, name: str, ahead: float, candidates: list[tuple[Pose, float]], *, besides: int, is_held: bool
) -> Pose:
    """The candidate whose price and contacts, on the way and at its end, are least; the touched shape is no contact."""
    joint = scene.joint(name)
    own = np.concatenate(
        [part for i, part in enumerate(scene.moving_parts(name)) if i != besides] or [np.zeros((0, 3))]
    )
    still = scene.surroundings(name)
    middle = candidates[0][0].position_m
    still = still[np.linalg.norm(still - middle, axis=1) < 0.5]
    table_m = float(still[:, 2].min())  # the lowest thing stands on it

    def cost_m(candidate: tuple[Pose, float]) -> float:
        pose, price = candidate
        contacts = contact_cost_at_m(own, pose, is_open=is_held)
        for by in (0.0, 0.5 * ahead, ahead):
            moved = joint.carry(pose, by)
            if not is_held:  # the hand keeps its orientation, and the air between it and the part is gone then
                closer = np.sign(ahead) * _GAP_M * _unit(joint.heading(moved.position_m))
                moved = Pose(moved.position_m + closer, pose.rotation)
                contacts += wrist_cost_m(still, moved, scene.shoulder_m)  # the arm comes after the hand
                contacts += TABLE_COST * into_table_m(moved.position_m, moved.rotation, table_m)
            contacts += contact_cost_at_m(still, moved, is_open=is_held)
        return price + contacts

    return min(candidates, key=cost_m)[0]


def contact_cost_at_m(points: FloatArray, pose: Pose, *, is_open: bool) -> float:
    """Price of (V, 3) points inside the hand, or in a margin around it, at a pose of whatever orientation."""
    along, across, ahead = ((points - pose.position_m) @ pose.rotation).T
    return volume_cost_m(across, along, -ahead, 0.060 if is_open else float(_CLOSED_FINGERS_M[1]))


def wrist_cost_m(points: FloatArray, pose: Pose, shoulder_m: FloatArray) -> float:
    """Price of (V, 3) points inside the wrist behind a hand at a pose, or in a margin around it."""
    start, end = wrist_m(pose.position_m, pose.rotation[:, 2], shoulder_m)
    along = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0.0, 1.0)
    away_m = np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)
    inside, close = (float(np.log1p((away_m < radius_m).sum())) for radius_m in _WRIST_RADII_M)
    return TOUCH_COST_M * inside + CLOSE_COST_M * close


def _pushed_part(joint: Joint, parts: list[FloatArray], ahead: float) -> int:
    """Of a door the panel; of a drawer what comes out furthest."""
    if joint.is_hinge:
        return int(np.argmax([len(part) for part in parts]))
    return int(np.argmin([np.sign(ahead) * (_middle(part) @ joint.axis) for part in parts]))


def _rear(joint: Joint, part: FloatArray, ahead: float) -> FloatArray:
    """(N, 3) points of a shape's rear face, as seen in the direction in which it should go."""
    heading = np.sign(ahead) * _unit(joint.heading(_middle(part)))
    if joint.is_hinge:  # a panel beside the hinge is not quite at right angles to its way
        thin = np.linalg.svd(part - part.mean(axis=0), full_matrices=False)[2][-1]
        heading = thin * np.sign(thin @ heading)
    along = part @ heading
    rear = part[along < along.min() + 0.003]
    if not joint.is_hinge:
        return _middle(rear)[None]
    height = rear @ joint.axis
    rear = rear[(height > height.min() + _FROM_EDGE_M) & (height < height.max() - _FROM_EDGE_M)]
    levers = np.array([joint.lever_m(point) for point in rear])
    rear = rear[(levers > 0.5 * levers.max()) & (levers < 0.9 * levers.max())]
    return np.asarray(rear[:: max(1, len(rear) // 24)])


def _middle(points: FloatArray) -> FloatArray:
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2.0)


def _long_axis(points: FloatArray) -> FloatArray:
    """(3,) unit vector along which the points extend furthest, its largest component positive."""
    axis = np.linalg.svd(points - _middle(points), full_matrices=False)[2][0]
    return np.asarray(axis * np.sign(axis[np.argmax(np.abs(axis))]))


def _unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))
