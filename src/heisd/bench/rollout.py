"""One closed-loop episode: a start, a policy, an outcome. Knows no simulator and no network by name."""

import hashlib
import logging
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heisd import interrupts
from heisd.bench.motion import Onlooker, add_to, add_waiting
from heisd.bench.papers_clock import papers_ms
from heisd.bench.realtime import WorldStep, pacer
from heisd.bench.results import EpisodePacing, EpisodeRecord, EpisodeTimeline, EpisodeTiming
from heisd.bench.speculation import SpeculationCounts
from heisd.bench.videos import Film
from heisd.bench.withdrawal import WithdrawalCounts
from heisd.config import EvalConfig
from heisd.errors import HeisdError, MissingExtra
from heisd.kinematics import PhaseSignal
from heisd.sim.splits import EpisodeStart
from heisd.types import Action, FloatArray, Observation, StepRecord

log = logging.getLogger(__name__)

MM_PER_UNIT, DEG_PER_UNIT = 50.0, float(np.degrees(0.5))  # OSC_POSE: what an action of 1.0 asks for
WARMUP_CALLS = 2  # per episode with --timing, before its clock starts; reported apart
BINS_PER_UNIT = 255 / 2  # one bin is 2/255 of the normalised range


class Env(Protocol):
    """The part of the simulator a rollout needs (Gymnasium's five values)."""

    @property
    def instruction(self) -> str: ...

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, Any]]: ...

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...


class Agent(Protocol):
    """A policy under test: one action and its telemetry per observation."""

    def reset(self) -> None: ...

    def act(self, observation: Observation) -> tuple[Action, StepRecord]: ...


class World(Protocol):
    """What one process needs to play episodes; built once per process from the configuration."""

    def env(self, task_index: int) -> Env: ...

    def agent(self, method: str, *, shadow: bool = False) -> Agent: ...

    def close(self) -> None: ...


class WorldFactory(Protocol):
    """A picklable module-level function that builds the world of one process."""

    def __call__(self, config: EvalConfig, *, n_threads: int | None) -> World: ...


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """One episode to play; small and picklable, so that any process can take it."""

    config: EvalConfig
    method: str
    start: EpisodeStart
    attempt: int
    run_dir: Path
    film: bool  # also keep a success on video; failures are kept whenever videos are on


@dataclass(slots=True)
class _Tally:
    """Sums and series collected along one episode."""

    n_steps: int = 0  # answers of the policy
    rewards: list[float] = field(default_factory=list)  # of every step of the world
    lm_forwards: int = 0
    origins: Counter[str] = field(default_factory=Counter)
    speculation: SpeculationCounts = field(default_factory=SpeculationCounts)
    latency_ms: list[float] = field(default_factory=list)
    shadow_ms: list[float] = field(default_factory=list)
    papers_ms: float = 0.0
    shadow_papers_ms: float = 0.0
    warmup_ms: list[float] = field(default_factory=list)
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: float = 0.0
    deviations: list[FloatArray] = field(default_factory=list)
    timeline: EpisodeTimeline = field(default_factory=EpisodeTimeline)
    withdrawal: WithdrawalCounts | None = None  # only where something changes
    pacing: EpisodePacing | None = None

    def add_step(self, timed: "_Timed") -> None:
        self.n_steps += 1
        self.lm_forwards += timed.record.lm_forwards
        self.origins.update(timed.record.origins)
        self.speculation.add(timed.record)
        if self.withdrawal is not None:
            self.withdrawal.add(len(self.rewards), timed.record)  # a reward for every control step before this one
        self.latency_ms.append(round(timed.wall_ms, 4))
        self.cpu_s += timed.cpu_s
        self.papers_ms += papers_ms(timed.record)
        for stage, ms in timed.record.stage_ms.items():
            # A stage first seen at a later step took no time before.
            self.stage_ms.setdefault(stage, [0.0] * (self.n_steps - 1)).append(round(ms, 4))
        for series in self.stage_ms.values():
            series.extend([0.0] * (self.n_steps - len(series)))

    def add_world_step(self, step: WorldStep, signal: PhaseSignal, timed: "_Timed | None", *, is_timed: bool) -> None:
        """A step of the world as an onlooker saw it begin, outside the clock; ``timed`` where the policy was asked."""
        self.rewards.append(float(step.reward))
        if timed is None:
            add_waiting(self.timeline, signal, step.commanded)
            return
        latency_ms = self.latency_ms[-1] if is_timed else None
        shadow_ms = self.shadow_ms[-1] if self.shadow_ms else None
        self.speculation.add_motion(signal.phase.value, timed.record, latency_ms, shadow_ms)
        add_to(self.timeline, signal, timed.record, step.commanded)

    def timing(self) -> EpisodeTiming:
        return EpisodeTiming(
            self.latency_ms,
            self.stage_ms,
            round(self.cpu_s, 4),
            self.shadow_ms,
            self.warmup_ms,
            round(self.papers_ms, 4),
            round(self.shadow_papers_ms, 4) if self.shadow_ms else None,
        )


@dataclass(frozen=True, slots=True)
class _Timed:
    """An action with the clock of the call that produced it."""

    action: Action
    record: StepRecord
    wall_ms: float
    cpu_s: float


def play_or_report(world: World, job: EpisodeJob) -> EpisodeRecord:
    """Play one episode; an unexpected exception becomes an invalid record, never a failed episode.

    Errors of ours (wrong weights, missing library …) would hit every episode alike and are raised.
    """
    try:
        return play(world, job)
    except (HeisdError, MemoryError):
        raise
    except ImportError as error:
        interrupts.check()  # an interrupted import of an extension module reads as ImportError
        raise MissingExtra(f"a part of the simulator cannot be imported ({error}): heisd doctor says why") from error
    except Exception as error:  # a process edge: logged, reported in the record, retried
        interrupts.check()
        log.warning("%s (%s) could not be played: %s", job.start.key, job.method, error, exc_info=True)
        return _invalid(job, f"{type(error).__name__}: {error}")


def play(world: World, job: EpisodeJob) -> EpisodeRecord:
    """Play one episode to success or to the protocol's horizon."""
    began = time.perf_counter()
    env, agents = world.env(job.start.task_index), _agents(world, job)
    observation, info = env.reset(job.start)
    for agent in agents:
        agent.reset()
    start_hash = observation_hash(observation)
    has_film = job.config.videos > 0
    tally, film, onlooker = _Tally(), Film(has_film), Onlooker()
    if "onset_step" in info:
        tally.withdrawal = WithdrawalCounts(info["onset_step"])
    if job.config.timing:
        tally.warmup_ms = _warm_up(agents, observation)
    order = np.random.default_rng(job.start.jitter_seed)
    pace, step = pacer(env, job.config), None
    while step is None or not step.is_over:
        interrupts.check()
        timed = _act(agents, observation, order, tally)
        answered: _Timed | None = timed  # until the first step of the world behind it
        for step in pace.answer(timed.action.values, timed.record):
            picture = next(iter(observation.images.values()), None) if has_film else None
            signal = onlooker.read(observation.proprio, picture)
            tally.add_world_step(step, signal, answered, is_timed=job.config.timing)
            onlooker.acted(step.commanded)
            film.add(observation, step.commanded, len(tally.rewards) - 1)
            observation, answered = step.observation, None
    film.add(observation, None, len(tally.rewards))
    keep = job.film if step.success else True
    video = film.save(job.run_dir, job.method, job.start, step.success) if keep else None
    tally.pacing = pace.pacing
    return _record(job, env.instruction, step.success, tally, start_hash, time.perf_counter() - began, video)


def _agents(world: World, job: EpisodeJob) -> list[Agent]:
    """The method, and with ``--timing`` the baseline as its shadow (unless it is the baseline)."""
    baseline = job.config.methods[0]
    shadowed = job.config.timing and job.method != baseline
    return [world.agent(job.method), *([world.agent(baseline, shadow=True)] if shadowed else [])]


def _warm_up(agents: Sequence[Agent], observation: Observation) -> list[float]:
    """Milliseconds of the method's untimed first calls; every agent is called, then forgets it."""
    warmup_ms = [[round(_timed(agent, observation).wall_ms, 4) for _ in range(WARMUP_CALLS)] for agent in agents]
    for agent in agents:
        agent.reset()
    return warmup_ms[0]


def _act(agents: Sequence[Agent], observation: Observation, order: np.random.Generator, tally: _Tally) -> _Timed:
    """Ask the method, and its shadow if there is one, in random order; only the method's action counts."""
    answers = dict.fromkeys(range(len(agents)))
    timed = {i: _timed(agents[i], observation) for i in order.permutation(len(answers)).tolist()}
    tally.add_step(timed[0])
    if len(agents) == 2:
        tally.shadow_ms.append(round(timed[1].wall_ms, 4))
        tally.shadow_papers_ms += papers_ms(timed[1].record)
        tally.deviations.append(np.abs(timed[0].action.values - timed[1].action.values))
    return timed[0]


def _timed(agent: Agent, observation: Observation) -> _Timed:
    cpu, wall = time.process_time(), time.perf_counter_ns()
    action, record = agent.act(observation)
    wall_ms = (time.perf_counter_ns() - wall) / 1e6
    return _Timed(action, record, wall_ms, time.process_time() - cpu)


def _record(
    job: EpisodeJob, instruction: str, success: bool, tally: _Tally, start_hash: str, wall_s: float, video: str | None
) -> EpisodeRecord:
    deviation = np.mean(tally.deviations, axis=0) if tally.deviations else None
    return EpisodeRecord(
        key=job.start.key,
        method=job.method,
        suite=job.start.suite,
        task_index=job.start.task_index,
        instruction=instruction,
        attempt=job.attempt,
        success=bool(success),
        n_steps=len(tally.rewards),
        sum_reward=float(sum(tally.rewards)),
        max_reward=float(max(tally.rewards)),
        wall_s=round(wall_s, 3),
        lm_forwards=tally.lm_forwards,
        origins=dict(tally.origins),
        speculation=tally.speculation.as_dict(),
        start_hash=start_hash,
        peak_rss_mb=peak_rss_mb(),
        video=video,
        deviation_bins=None if deviation is None else float(deviation.mean() * BINS_PER_UNIT),
        deviation_mm=None if deviation is None else float(deviation[:3].mean() * MM_PER_UNIT),
        deviation_deg=None if deviation is None else float(deviation[3:6].mean() * DEG_PER_UNIT),
        timing=tally.timing() if job.config.timing else None,
        timeline=None if video is None else tally.timeline,
        withdrawal=None if tally.withdrawal is None else tally.withdrawal.as_dict(),
        realtime=tally.pacing,
    )


def _invalid(job: EpisodeJob, error: str) -> EpisodeRecord:
    start = job.start
    return EpisodeRecord(
        key=start.key, method=job.method, suite=start.suite, task_index=start.task_index, instruction="",
        attempt=job.attempt, success=False, n_steps=0, sum_reward=0.0, max_reward=0.0, wall_s=0.0, lm_forwards=0,
        origins={}, start_hash="", peak_rss_mb=peak_rss_mb(), error=error,
    )  # fmt: skip


def observation_hash(observation: Observation) -> str:
    """16 hex digits over pictures and proprioception: proof that two methods saw the same start."""
    digest = hashlib.sha256(observation.instruction.encode())
    for name in sorted(observation.images):
        digest.update(np.ascontiguousarray(observation.images[name]).tobytes())
    proprio = observation.proprio
    for values in (proprio.eef_pos_m, proprio.eef_quat_xyzw, proprio.joint_pos_rad, proprio.gripper_qpos_m):
        digest.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far [MB]."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
