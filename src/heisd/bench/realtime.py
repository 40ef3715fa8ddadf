"""The latency-charged loop: the world does not wait while the policy thinks.

Time is counted in whole control periods of the simulation, never by a clock. A policy that is asked at the beginning
of period t and whose answer is charged ``L`` milliseconds commands the robot from period ``t + ceil(L / period)`` on
(latency charged in control steps, rounded up). It is asked again as soon as its answer is in force, with what is
seen then; until the next answer the robot does what :class:`~heisd.config.Meanwhile` says. An answer that takes no
time is in force at once: with a profile of zeros this is the ordinary loop, step for step.

Nothing here knows what an action is made of. A policy with actions in hand answers for nothing, and the robot begins
one of them in every period. A round that keeps the first of them (real-time chunking) is computed while they are
executed: its own answer is there at once, and the first action that it made must not be needed sooner than it is there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from heisd.bench.latency_profile import Family, Meter, load_profile, profile_hash
from heisd.bench.results import EpisodePacing, EpisodeRecord
from heisd.bench.stats import distribution
from heisd.config import SIMULATION_HZ, EvalConfig, Meanwhile, RealtimeConfig
from heisd.presets import PRESETS
from heisd.route.costs import Costs
from heisd.types import FloatArray, Observation, StepRecord

_STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])  # in force before the first action: settling ends with it
_ROUNDING_MS = 1e-6  # a charge of exactly one period, summed up from stages, is one period


@dataclass(frozen=True, slots=True)
class WorldStep:
    """One step of the simulation."""

    commanded: FloatArray  # (7,) the action in force
    observation: Observation  # behind the step
    reward: float
    success: bool
    truncated: bool

    @property
    def is_over(self) -> bool:
        """Whether the episode ends with it."""
        return self.success or self.truncated


class Env(Protocol):
    """The part of the simulator that is driven here (Gymnasium's five values)."""

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step with a new command."""
        ...

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step without: the controller goes on to the goal it was given last."""
        ...


class Pacer(Protocol):
    """Takes a policy's answers into the world."""

    @property
    def pacing(self) -> EpisodePacing | None:
        """How it went; None where the world waits."""
        ...

    def answer(self, values: FloatArray, record: StepRecord) -> Iterator[WorldStep]:
        """Steps of the world until the policy is asked again, at least one."""
        ...


class Patient:
    """The ordinary loop: the world waits for every answer."""

    def __init__(self, env: Env) -> None:
        self._env = env

    @property
    def pacing(self) -> None:
        """Nothing to tell."""

    def answer(self, values: FloatArray, record: StepRecord) -> Iterator[WorldStep]:  # noqa: ARG002 (the protocol's)
        """One step with the action."""
        yield _world_step(values, self._env.step(values))


@dataclass(frozen=True, slots=True)
class _Command:
    values: FloatArray  # (7,)
    asked_at: int  # control period at whose beginning the policy saw what this answers


class RealTime:
    """One episode in which the world goes on."""

    def __init__(self, env: Env, meter: Meter, settings: RealtimeConfig) -> None:
        self._pacing = EpisodePacing()
        self._env, self._meter, self._meanwhile = env, meter, settings.meanwhile
        self._period_ms = 1000.0 / settings.control_hz
        self._steps_per_period = SIMULATION_HZ // settings.control_hz
        self._ready: _Command | None = None  # an answer whose time has come
        self._in_force: _Command | None = None
        self._busy_until = 0  # period in which the round that is computed behind actions in hand will be there
        self._n_covered = 0  # actions in hand that do not wait for it

    @property
    def pacing(self) -> EpisodePacing:
        """How it went so far."""
        return self._pacing

    def answer(self, values: FloatArray, record: StepRecord) -> Iterator[WorldStep]:
        """The periods from the one in which the policy was asked up to the one at which this answer is there."""
        charged_ms = self._meter.charge_ms(record)
        self._pacing.charged_ms.append(round(charged_ms, 4))
        n_frozen = 0 if record.round is None else record.round.n_frozen
        n_periods = self._periods_until_ready(delay_steps(charged_ms, self._period_ms), n_frozen)
        mine = _Command(values, self._pacing.n_control_steps)
        commands: list[_Command | None] = [mine]
        if n_periods > 0 or self._ready is not None:
            commands = [self._ready, *[None] * (n_periods - 1)]
            self._ready = mine
        for command in commands:
            for step in self._period(command):
                yield step
                if step.is_over:
                    return

    def _periods_until_ready(self, n_charged: int, n_frozen: int) -> int:
        """Periods before the answer can be in force; one whose first actions are frozen is computed behind them.

        The first action that is not waits until the round is there (RTC: none does if the delay was foreseen).
        """
        waits = 0 if self._n_covered else max(self._busy_until - self._pacing.n_control_steps, 0)
        self._n_covered = max(self._n_covered - 1, 0)
        if not n_frozen:
            return waits + n_charged
        self._pacing.n_in_time += 1 < n_charged <= n_frozen
        self._busy_until = self._pacing.n_control_steps + waits + n_charged
        self._n_covered = n_frozen - 1
        return waits

    def _period(self, command: _Command | None) -> Iterator[WorldStep]:
        """One control period, with a new command or none."""
        self._count(command)
        yield self._wait() if command is None else _world_step(command.values, self._env.step(command.values))
        for _ in range(self._steps_per_period - 1):  # the controller keeps its goal between commands, however slow
            yield _world_step(self._values(), self._env.wait())

    def _count(self, command: _Command | None) -> None:
        pacing, self._in_force = self._pacing, command or self._in_force
        pacing.n_control_steps += 1
        pacing.n_new_actions += command is not None
        if self._in_force is not None:
            pacing.n_commanded_steps += 1
            pacing.sum_age_steps += pacing.n_control_steps - 1 - self._in_force.asked_at

    def _wait(self) -> WorldStep:
        values = self._values()
        if self._in_force is None or self._meanwhile is Meanwhile.HOLD:
            return _world_step(values, self._env.wait())
        if self._meanwhile is Meanwhile.STOP:
            values = np.append(np.zeros(6), values[6])
        return _world_step(values, self._env.step(values))

    def _values(self) -> FloatArray:
        return _STILL if self._in_force is None else self._in_force.values


def _world_step(values: FloatArray, outcome: tuple[Observation, float, bool, bool, dict[str, Any]]) -> WorldStep:
    observation, reward, success, truncated, _ = outcome
    return WorldStep(values, observation, reward, bool(success), bool(truncated))


def delay_steps(charged_ms: float, period_ms: float) -> int:
    """Whole control periods that pass until an answer is there."""
    return math.ceil((charged_ms - _ROUNDING_MS) / period_ms)


def pacer(env: Env, config: EvalConfig) -> Pacer:
    """How an episode of this evaluation goes on."""
    if config.realtime is None:
        return Patient(env)
    return RealTime(env, load_profile(config.realtime.latency_profile).meter(), config.realtime)


def provenance(config: EvalConfig) -> dict[str, Any]:
    """The profile by which a run is charged, whole, for its result and to be compared when it is resumed.

    Raises UnknownName or BadArtifact for no profile, BadInput for one that cannot charge one of the methods.
    """
    if config.realtime is None:
        return {}
    profile = load_profile(config.realtime.latency_profile)
    profile.require_priced(config.methods)
    return {"latency_profile": {**profile.model_dump(mode="json"), "sha256": profile_hash(profile)}}


def charged_costs(config: EvalConfig) -> Costs | None:
    """The table that a run is charged by, for methods that weigh what a guess costs; None where there is none."""
    if config.realtime is None:
        return None
    profile = load_profile(config.realtime.latency_profile)
    return None if profile.is_instant or profile.family is not Family.TOKENS else profile.costs()


def foreseen_delay(config: EvalConfig, method: str) -> int:
    """Control steps that a method's rounds may take while the robot goes on; 0 for one that is waited for.

    What was asked for, or the longest round by the profile: drafts that are refused and then all of a full round.
    """
    if method not in PRESETS or not PRESETS[method].is_delayed:
        return 0
    if config.delay_steps is not None or config.realtime is None:
        return config.delay_steps or 0
    longest_ms = load_profile(config.realtime.latency_profile).longest_round_ms(method)
    return delay_steps(longest_ms, 1000.0 / config.realtime.control_hz)


def pacing_block(records: Sequence[EpisodeRecord], settings: RealtimeConfig | None) -> dict[str, Any] | None:
    """The ``realtime`` block of a method's result; None for runs in which the world waited.

    ``stale_action_ratio``: share of control steps in which the robot went on with an older command because no answer
    came. ``mean_action_age_steps``: control steps from what a command answers to, over the steps in which one is in
    force; 0 in the ordinary loop. ``deadline_misses``: answers charged more than a control period, or
    more than the actions in hand behind which they were computed.
    """
    if settings is None:
        return None
    episodes = [record.realtime for record in records if record.realtime is not None]
    charged_ms = [ms for episode in episodes for ms in episode.charged_ms]
    n_steps = sum(episode.n_control_steps for episode in episodes)
    n_new, n_commanded = (sum(getattr(e, name) for e in episodes) for name in ("n_new_actions", "n_commanded_steps"))
    n_missed = sum(ms - _ROUNDING_MS > 1000.0 / settings.control_hz for ms in charged_ms)
    n_missed -= sum(episode.n_in_time for episode in episodes)
    return {
        "n_control_steps": n_steps,
        "n_new_actions": n_new,
        "stale_action_ratio": 1 - n_new / n_steps if n_steps else None,
        "mean_action_age_steps": sum(e.sum_age_steps for e in episodes) / n_commanded if n_commanded else None,
        "effective_control_hz": settings.control_hz * n_new / n_steps if n_steps else None,
        "deadline_misses": {"n": n_missed, "share": n_missed / len(charged_ms) if charged_ms else None},
        "charged_ms": distribution(charged_ms),
    }
