"""The expert: runs skills one after the other and turns their commands into actions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heisd.sim.experts.geometry import limit, trap
from heisd.sim.experts.primitives import Command, Hand, Phase, Primitive, Status
from heisd.sim.experts.style import Disturbance, SmoothNoise, Style
from heisd.sim.scene import Goal, Scene
from heisd.types import FloatArray, Proprioception

METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5  # OSC_POSE: what an action component of 1 asks for
_GAIN = 1.5  # above 1 the hand keeps its pace until close; the controller's own damping keeps it stable
_PULL_BACK_M = 0.06  # how far a fully stretched arm is drawn back before it goes on
_STALL_WINDOW, _STALL_M = 25, 0.012  # a hand that should move and comes no further than this in so many steps is stuck
_PATIENCE_STEPS = 150  # and so is a primitive that takes longer than this


@dataclass(frozen=True, slots=True)
class ExpertStep:
    """One control step of a demonstration."""

    action: FloatArray  # (7,) the label: what the expert wants to do from here, in [-1, 1]
    executed: FloatArray  # (7,) the same plus the disturbance of the moment
    phase: Phase


def _from_the_beginning(_scene: Scene, _hand: Hand) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Skill:
    """Primitives that together make one conjunct of the goal true; repeated until it is."""

    goal: Goal
    primitives: tuple[Primitive, ...]
    first: Callable[[Scene, Hand], int] = _from_the_beginning  # which one an expert that takes over begins with
    is_means: bool = False  # only to make the next skill possible, as opening a drawer that is closed again later


class Expert:
    """Closed-loop privileged controller of one episode."""

    def __init__(self, scene: Scene, skills: Sequence[Skill], style: Style, rng: np.random.Generator) -> None:
        self._scene, self._skills, self._style, self._rng = scene, tuple(skills), style, rng
        self._skill = self._primitive = self._n_pause = 0
        self._trail: list[FloatArray] = []  # hand positions since the current primitive began
        self._has_started = False
        self._tremor, self._pace = SmoothNoise(6, 4.0, rng), SmoothNoise(1, 12.0, rng)
        self._disturbance = Disturbance(style, rng)
        self._has_met: set[int] = set()  # skills whose goal held when they had run
        self.n_retries = 0  # how often a skill had to start again
        self.n_stalls = 0  # how often a primitive took far too long

    @property
    def done(self) -> bool:
        """Whether every skill has run and its goal held."""
        return self._skill == len(self._skills)

    def act(self, proprio: Proprioception) -> ExpertStep:
        """The label and the action to execute in the present state; after ``done``, holding still."""
        hand = Hand.of(proprio)
        self._advance(hand)
        if self.done:
            still = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
            return ExpertStep(still, still.copy(), Phase.RETREAT)
        command = self._current.command(self._scene, hand)
        label = self._label(self._freed(command, hand))
        push = self._disturbance.step() * (0.4 if command.is_delicate else 1.0)
        executed = np.append(np.clip(label[:6] + push, -1.0, 1.0), label[6])
        return ExpertStep(label, executed, self._current.phase)

    @property
    def _current(self) -> Primitive:
        return self._skills[self._skill].primitives[self._primitive]

    def _advance(self, hand: Hand) -> None:
        """Go to the next primitive (or back to the skill's first) as often as the state says so."""
        if not self._has_started:
            self._has_started = True
            skill = self._skill_to_begin_with(hand)
            self._go_to(skill, self._skills[skill].first(self._scene, hand), hand)
        for _ in range(8):  # a bound against primitives that finish in the state in which they start
            if self.done:
                return
            status = self._current.status(self._scene, hand)
            if status is Status.RUNNING and self._is_stuck(hand):
                self.n_stalls += 1
                status = Status.LOST
            if status is Status.RUNNING:
                return
            self._leave(status, hand)

    def _is_stuck(self, hand: Hand) -> bool:
        self._trail.append(hand.position_m)
        if len(self._trail) > _PATIENCE_STEPS:
            return True
        is_on_the_spot = self._current.phase is Phase.GRASP or getattr(self._current, "is_on_the_spot", False)
        if is_on_the_spot or len(self._trail) <= _STALL_WINDOW:
            return False
        return bool(np.linalg.norm(hand.position_m - self._trail[-_STALL_WINDOW]) < _STALL_M)

    def _leave(self, status: Status, hand: Hand) -> None:
        skill = self._skills[self._skill]
        if status is Status.DONE and self._primitive + 1 < len(skill.primitives):
            self._go_to(self._skill, self._primitive + 1, hand)
        elif (status is Status.DONE or len(self._skills) > 1) and self._scene.holds(skill.goal):
            self.n_retries += status is Status.LOST  # the hand got stuck, but with others to come that is no matter
            self._has_met.add(self._skill)
            unmet = self._unmet(besides=self._skill)
            self.n_retries += unmet in self._has_met
            self._go_to(unmet, 0, hand)
        else:
            self.n_retries += 1
            self._go_to(self._skill, 0, hand)

    def _skill_to_begin_with(self, hand: Hand) -> int:
        """The one that somebody else is in the middle of, or the first whose goal does not hold."""
        if len(self._skills) == 1:
            return 0
        under_way = [i for i, skill in enumerate(self._skills) if skill.first(self._scene, hand) > 0]
        return under_way[0] if under_way else min(self._unmet(), len(self._skills) - 1)

    def _unmet(self, besides: int | None = None) -> int:
        """The first other skill whose goal does not hold, be it one that later work undid; their number if all do."""
        wanted = (i for i in range(len(self._skills)) if i != besides and self._is_wanted(i))
        return next(wanted, len(self._skills))

    def _is_wanted(self, index: int) -> bool:
        skill = self._skills[index]
        if self._scene.holds(skill.goal):
            return False
        return not (skill.is_means and self._scene.holds(self._skills[index + 1].goal))

    def _go_to(self, skill: int, primitive: int, hand: Hand) -> None:
        self._skill, self._primitive, self._trail = skill, primitive, []
        if not self.done:
            self._current.start(self._scene, hand)

    def _freed(self, command: Command, hand: Hand) -> Command:
        """Where the arm is stretched more than the way asks for: first back towards the base, turning later."""
        shoulder = self._scene.shoulder_m
        stretched = trap(hand.position_m, command.move_m, shoulder)
        if stretched == 0.0:
            return command
        inward = np.append(shoulder[:2] - hand.position_m[:2], 0.0)
        move = command.move_m + _PULL_BACK_M * stretched * inward / np.linalg.norm(inward)
        return replace(command, move_m=move, turn_rad=command.turn_rad * (1.0 - stretched))

    def _label(self, command: Command) -> FloatArray:
        """The command as an action, at this style's pace and with its tremor."""
        style = self._style
        pace = float(np.clip(1.0 + style.speed_variation * self._pace.step()[0], 0.7, 1.3))
        move = limit(_GAIN * command.move_m / METRES_PER_UNIT, min(0.97, style.speed * pace))
        turn = limit(command.turn_rad / RADIANS_PER_UNIT, style.rotation_speed * pace)
        motion = np.concatenate([move, turn]) * self._pause()
        tremor = np.repeat([style.jitter_std, style.rotation_jitter_std], 3) * (0.5 if command.is_delicate else 1.0)
        return np.append(np.clip(motion + tremor * self._tremor.step(), -1.0, 1.0), command.gripper)

    def _pause(self) -> float:
        """0 during a short stop, else 1."""
        if self._n_pause == 0 and self._rng.random() < self._style.pause_probability:
            self._n_pause = int(self._rng.integers(3, 7))
        is_pausing = self._n_pause > 0
        self._n_pause -= is_pausing
        return 0.0 if is_pausing else 1.0
