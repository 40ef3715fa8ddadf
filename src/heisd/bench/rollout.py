"""One closed-loop episode: a start, a policy, an outcome. Knows no simulator and no network by name."""

import hashlib
import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heisd import interrupts
from heisd.bench.appending import AppendingAgent
from heisd.bench.motion import Onlooker, add_to, add_waiting
from heisd.bench.realtime import WorldStep, pacer
from heisd.bench.replay import Agent, episode_timing, replay_beside, timed
from heisd.bench.results import EpisodePacing, EpisodeRecord, EpisodeTimeline, EpisodeTiming
from heisd.bench.speculation import SpeculationCounts
from heisd.bench.videos import Film
from heisd.bench.withdrawal import WithdrawalCounts
from heisd.config import EvalConfig
from heisd.errors import HeisdError, MissingExtra
from heisd.kinematics import Phase, PhaseSignal
from heisd.sim.splits import EpisodeStart
from heisd.types import FloatArray, Observation, StepRecord

log = logging.getLogger(__name__)

MM_PER_UNIT, DEG_PER_UNIT = 50.0, float(np.degrees(0.5))  # OSC_POSE: what an action of 1.0 asks for
BINS_PER_UNIT = 255 / 2  # one bin is 2/255 of the normalised range


class Env(Protocol):
    """The part of the simulator a rollout needs (Gymnasium's five values)."""

    @property
    def instruction(self) -> str: ...

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, Any]]: ...

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...


class World(Protocol):
    """What one process needs to play episodes; built once per process from the configuration."""

    def env(self, task_index: int) -> Env: ...

    def agent(self, method: str) -> Agent: ...

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

    rewards: list[float] = field(default_factory=list)  # of every step of the world
    lm_forwards: int = 0
    origins: Counter[str] = field(default_factory=Counter)
    speculation: SpeculationCounts = field(default_factory=SpeculationCounts)
    answers: list[tuple[StepRecord, Phase]] = field(default_factory=list)  # of the policy, and the motion it found
    observations: list[Observation] = field(default_factory=list)  # that it answered; kept with --timing only
    actions: list[FloatArray] = field(default_factory=list)  # … and what it answered
    loop_ms: float = 0.0  # of all answers together
    deviations: FloatArray | None = None  # (n_steps, 7) from the baseline's actions, without their signs
    timeline: EpisodeTimeline = field(default_factory=EpisodeTimeline)
    withdrawal: WithdrawalCounts | None = None  # only where something changes
    pacing: EpisodePacing | None = None
    timing: EpisodeTiming | None = None

    def add_answer(self, record: StepRecord, wall_ms: float) -> None:
        self.loop_ms += wall_ms
        self.lm_forwards += record.lm_forwards
        self.origins.update(record.origins)
        self.speculation.add(record)
        if self.withdrawal is not None:
            self.withdrawal.add(len(self.rewards), record)  # a reward for every control step before this one

    def add_world_step(self, step: WorldStep, signal: PhaseSignal, record: StepRecord | None) -> None:
        """A step of the world as an onlooker saw it begin, outside the clock; ``record`` where the policy was asked."""
        self.rewards.append(float(step.reward))
        if record is None:
            add_waiting(self.timeline, signal, step.commanded)
            return
        self.answers.append((record, signal.phase))
        add_to(self.timeline, signal, record, step.commanded)

    def add_motions(self) -> None:
        """Sort the answers by the kind of motion, with the baseline's replay beside the method's if there are any."""
        n, none = len(self.answers), [None] * len(self.answers)
        mine = none if self.timing is None else self.timing.latency_ms
        plain = none if self.timing is None or len(self.timing.shadow_ms) != n else self.timing.shadow_ms
        for (record, phase), latency_ms, shadow_ms in zip(self.answers, mine, plain, strict=True):
            self.speculation.add_motion(phase.value, record, latency_ms, shadow_ms)


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
    env, agent = world.env(job.start.task_index), world.agent(job.method)
    observation, info = env.reset(job.start)
    agent.reset()
    start_hash = observation_hash(observation)
    has_film = job.config.videos > 0
    tally, film, onlooker = _Tally(), Film(has_film), Onlooker()
    if "onset_step" in info:
        tally.withdrawal = WithdrawalCounts(info["onset_step"])
    pace, step = pacer(env, job.config), None
    while step is None or not step.is_over:
        interrupts.check()
        answer = timed(agent, observation)
        tally.add_answer(answer.record, answer.wall_ms)
        if job.config.timing:
            tally.observations.append(observation)
            tally.actions.append(answer.action.values)
        answered: StepRecord | None = answer.record  # until the first step of the world behind it
        for step in pace.answer(answer.action.values, answer.record):
            picture = next(iter(observation.images.values()), None) if has_film else None
            signal = onlooker.read(observation.proprio, picture)
            tally.add_world_step(step, signal, answered)
            onlooker.acted(step.commanded)
            film.add(observation, step.commanded, len(tally.rewards) - 1)
            observation, answered = step.observation, None
    film.add(observation, None, len(tally.rewards))
    if isinstance(agent, AppendingAgent):
        agent.finish(job.start, env.instruction, is_solved=step.success)
    if job.config.timing:
        _time(world, job, tally)
    tally.add_motions()
    keep = job.film if step.success else True
    video = film.save(job.run_dir, job.method, job.start, step.success) if keep else None
    tally.pacing = pace.pacing
    return _record(job, env.instruction, step.success, tally, start_hash, time.perf_counter() - began, video)


def _time(world: World, job: EpisodeJob, tally: _Tally) -> None:
    """Have the episode's observations answered again, by the method and by the baseline (:mod:`heisd.bench.replay`)."""
    baseline = job.config.methods[0]
    shadow = None if job.method == baseline else world.agent(baseline)
    mine, plain = replay_beside(world.agent(job.method), shadow, tally.observations, seed=job.start.jitter_seed)
    tally.timing = episode_timing(mine, plain, tally.loop_ms, played=tally.actions)
    if tally.timing.n_otherwise:
        log.warning("%s (%s): %d steps were replayed otherwise than played; their times are of other decisions",
                    job.start.key, job.method, tally.timing.n_otherwise)  # fmt: skip
    tally.deviations = None if plain is None else np.abs(mine.actions - plain.actions)


def _record(
    job: EpisodeJob, instruction: str, success: bool, tally: _Tally, start_hash: str, wall_s: float, video: str | None
) -> EpisodeRecord:
    deviation = None if tally.deviations is None else tally.deviations.mean(axis=0)
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
        timing=tally.timing,
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
    """Largest resident memory of this program so far [MB].

    ``ru_maxrss`` alone would be that of the process that started it, where that was larger: Linux keeps it across exec.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        kilobytes = int(status.split("VmHWM:", 1)[1].split(None, 1)[0])
    except (OSError, IndexError, ValueError):  # not Linux
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 1024, 1)
