"""How long policies take over an episode that has been played: its observations, answered again, nothing in between.

While an episode is played a simulator works between two answers and pushes the policy's weights out of the caches. A
robot's policy process has no simulator in it. So with ``--timing`` an episode's observations are answered once more
when it is over: all of them by the method, then all of them by the baseline, or the other way round. Both then find the
caches as they left them themselves, not as the other left them, and ratios are of the same observations. What the
method took while the simulator worked beside it is kept as ``loop_ms``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from heisd import interrupts
from heisd.bench.papers_clock import papers_ms
from heisd.bench.results import EpisodeTiming
from heisd.types import Action, FloatArray, Observation, StepRecord

WARMUP_CALLS = 2  # before every replay, outside its clock; reported apart


class Agent(Protocol):
    """A policy under test: one action and its telemetry per observation."""

    def reset(self) -> None: ...

    def act(self, observation: Observation) -> tuple[Action, StepRecord]: ...


@dataclass(frozen=True, slots=True)
class Timed:
    """An action with the clock of the call that produced it."""

    action: Action
    record: StepRecord
    wall_ms: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Replay:
    """An agent's answers to an episode's observations."""

    warmup_ms: list[float]
    steps: list[Timed]

    @property
    def latency_ms(self) -> list[float]:
        """(n_steps,) full clock, the caller's."""
        return [round(step.wall_ms, 4) for step in self.steps]

    @property
    def papers_ms(self) -> float:
        """All steps on the papers' clock."""
        return round(sum(papers_ms(step.record) for step in self.steps), 4)

    @property
    def actions(self) -> FloatArray:
        """(n_steps, 7)."""
        return np.asarray([step.action.values for step in self.steps])


def timed(agent: Agent, observation: Observation) -> Timed:
    """One answer under the caller's clock."""
    cpu, wall = time.process_time(), time.perf_counter_ns()
    action, record = agent.act(observation)
    wall_ms = (time.perf_counter_ns() - wall) / 1e6
    return Timed(action, record, wall_ms, time.process_time() - cpu)


def replay(agent: Agent, observations: Sequence[Observation]) -> Replay:
    """Answer an episode's observations in their order, from a fresh start, after a few calls that do not count."""
    agent.reset()
    warmup_ms = [round(timed(agent, observations[0]).wall_ms, 4) for _ in range(WARMUP_CALLS)]
    agent.reset()
    steps = []
    for observation in observations:
        interrupts.check()
        steps.append(timed(agent, observation))
    agent.reset()
    return Replay(warmup_ms, steps)


def replay_beside(
    method: Agent, baseline: Agent | None, observations: Sequence[Observation], *, seed: int
) -> tuple[Replay, Replay | None]:
    """The method's replay and the baseline's (None: the method is the baseline), in an order drawn from ``seed``."""
    if baseline is None:
        return replay(method, observations), None
    if np.random.default_rng(seed).random() < 0.5:
        mine = replay(method, observations)
        return mine, replay(baseline, observations)
    plain = replay(baseline, observations)
    return replay(method, observations), plain


def episode_timing(
    mine: Replay, plain: Replay | None, loop_ms: float, *, played: Sequence[FloatArray]
) -> EpisodeTiming:
    """What an episode's record keeps of them.

    ``loop_ms`` is the sum of the method's times while it was played, ``played`` the actions it answered with then: its
    replay decides as it did, or the times are not those of the episode.
    """
    stages = dict.fromkeys(name for step in mine.steps for name in step.record.stage_ms)
    return EpisodeTiming(
        latency_ms=mine.latency_ms,
        # A stage that a step did not enter took no time.
        stage_ms={name: [round(step.record.stage_ms.get(name, 0.0), 4) for step in mine.steps] for name in stages},
        cpu_s=round(sum(step.cpu_s for step in mine.steps), 4),
        shadow_ms=[] if plain is None else plain.latency_ms,
        warmup_ms=mine.warmup_ms,
        papers_ms=mine.papers_ms,
        shadow_papers_ms=None if plain is None else plain.papers_ms,
        loop_ms=round(loop_ms, 4),
        n_otherwise=sum(not np.array_equal(a, b) for a, b in zip(mine.actions, played, strict=True)),
    )
