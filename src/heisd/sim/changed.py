"""An environment under ``--shift``: the same starts and tasks, with something changed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from heisd.sim.faults import FAULTS, Disturbance
from heisd.sim.lighting import Lamps, Lighting
from heisd.sim.nudge import Nudge
from heisd.sim.rendering import draw
from heisd.sim.shifts import Shift
from heisd.sim.splits import EpisodeStart
from heisd.types import FloatArray, Observation


class ChangedEnv:
    """An environment whose episodes are disturbed; what happens follows from the start and the shifts alone.

    ``env`` has ``instruction``, ``reset(start)`` and ``step(action)``, as :class:`heisd.sim.libero.LiberoEnv`; for
    shifts of the simulated world also ``robosuite_env``.
    """

    def __init__(self, env: Any, shifts: Sequence[Shift]) -> None:
        self._env, self._shifts = env, tuple(shifts)
        self._lamps = Lamps(env.robosuite_env) if any(shift.name == "lighting" for shift in shifts) else None
        self._disturbances: list[Disturbance] = []
        self._step = 0

    @property
    def instruction(self) -> str:
        """The sentence the policy is given."""
        return str(self._env.instruction)

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. ``info["onset_step"]`` is the first control step in which a shift shows."""
        self._step = 0
        self._disturbances = [self._disturbance(shift, start, position) for position, shift in enumerate(self._shifts)]
        self._prepare()
        observation, info = self._env.reset(start)
        onset_step = min(disturbance.onset_step for disturbance in self._disturbances)
        return self._shown(observation), {**info, "onset_step": onset_step}

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step."""
        return self._stepped(lambda: self._env.step(action))

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step without a new command, as when a policy is late."""
        return self._stepped(self._env.wait)

    def _stepped(
        self, advance: Callable[[], tuple[Observation, float, bool, bool, dict[str, Any]]]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._step += 1
        self._prepare()
        observation, reward, terminated, truncated, info = advance()
        return self._shown(observation), reward, terminated, truncated, info

    def undo(self) -> None:
        """Leave the world as it was before the first episode; the environment itself stays open."""
        if self._lamps is not None:
            self._lamps.reset()

    def _disturbance(self, shift: Shift, start: EpisodeStart, position: int) -> Disturbance:
        rng = shift.generator(start, position)
        if shift.name == "nudged":
            return Nudge(shift, rng, self._env.robosuite_env)
        if shift.name == "lighting":
            assert self._lamps is not None
            return Lighting(shift, rng, self._lamps)
        return FAULTS[shift.name](shift, rng)

    def _prepare(self) -> None:
        for disturbance in self._disturbances:
            disturbance.prepare(self._step)

    def _shown(self, observation: Observation) -> Observation:
        draw(observation.images)  # as the world is now, lamps included
        images = observation.images
        for disturbance in self._disturbances:
            images = disturbance.show(images, self._step)
        return replace(observation, images=images)
