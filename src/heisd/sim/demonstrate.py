"""One attempt at one demonstration, in a worker process: start, expert, recording.

Everything random in an attempt comes from its own seed (master seed, suite, task, number), so an attempt
can be repeated alone and gives the same frames, whatever ran before it.
"""

import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from heisd.codec import GRIPPER as MOTION  # numbers before the gripper's
from heisd.kinematics import bin_sizes
from heisd.sim.dataset import Episode, Provenance, flatten_proprio
from heisd.sim.experts import Expert, Style, build_expert, start_displacement
from heisd.sim.lerobot_format import encode_jpeg
from heisd.sim.libero import LiberoEnv
from heisd.sim.protocols import parse_protocol
from heisd.sim.rendering import parse_rendering
from heisd.sim.splits import FRESH_SEEDS, SHIPPED_STATES, Condition, EpisodeStart, Split, require_train
from heisd.types import FloatArray, Observation

STEPS_AFTER_SUCCESS = 3  # so that the opening hand is seen
STALL_STEPS = 25  # control steps without motion of hand or fingers that make a demonstration useless
STALL_HAND_M, STALL_FINGERS_M = 5e-4, 1e-4  # motion per step below which the robot stands still
FAILED, RETRIED, STALLED, SOLVED = "failed", "retried", "stalled", "solved by the driver"
DRIVER_STEPS = (10, 110)  # control steps a driving policy gets before the expert takes over
NOISE_HOLD_STEPS = 8  # control steps for which a driver strays in one direction


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to demonstrate, completely: equal attempts give equal frames."""

    suite: str
    task_index: int
    number: int
    seed: int
    fresh_share: float = 0.7  # of the starts; the others are shipped states
    jitter_share: float = 0.85  # of the attempts whose targets are moved
    jitter_m: float = 0.02
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 128
    rendering: str = "fast"
    protocol: str = "openvla"
    condition: Condition = Condition.SHIPPED
    driver: str | None = None  # directory of a policy that drives first, so that its own mistakes are recovered from
    driver_noise_bins: float = 0.0  # standard deviation of what strays from its actions: see :class:`_Driver`
    is_unaided: bool = False  # the driver plays to the end, and its own steps are what is recorded

    def rngs(self, n: int) -> list[np.random.Generator]:
        """``n`` independent generators that belong to this attempt."""
        key = [self.seed, zlib.crc32(self.suite.encode()), self.task_index, self.number]
        return [np.random.default_rng(child) for child in np.random.SeedSequence(key).spawn(n)]


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """A demonstration, or why there is none."""

    episode: Episode | None
    reason: str  # "" when the episode is usable
    n_steps: int


class Recording:
    """Collects what an episode is made of, step by step."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.jpegs: dict[str, list[bytes]] = {camera: [] for camera in cameras}
        self.proprio: list[FloatArray] = []
        self.actions: list[FloatArray] = []
        self.executed: list[FloatArray] = []
        self.phase: list[int] = []

    def add(self, observation: Observation, label: FloatArray, executed: FloatArray, phase: int) -> None:
        """Record one control step: what was seen and what was done about it."""
        for camera, jpegs in self.jpegs.items():
            jpegs.append(encode_jpeg(observation.images[camera]))
        self.proprio.append(flatten_proprio(observation.proprio))
        self.actions.append(np.asarray(label, dtype=np.float32))
        self.executed.append(np.asarray(executed, dtype=np.float32))
        self.phase.append(phase)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def noise(self) -> float:
        """Mean distance of what was executed from what was wanted, gripper apart."""
        return float(np.abs(np.stack(self.executed) - np.stack(self.actions))[:, :MOTION].mean())

    def episode(self, provenance: Provenance) -> Episode:
        """The finished episode."""
        return Episode(self.jpegs, np.stack(self.proprio), np.stack(self.actions), np.stack(self.executed),
                       np.asarray(self.phase, dtype=np.int64), provenance)  # fmt: skip


def draw_start(attempt: Attempt, rng: np.random.Generator) -> EpisodeStart:
    """A train start: a fresh seed or a shipped state. Raises LeakError should it belong to another split."""
    fresh, shipped = FRESH_SEEDS[Split.TRAIN], SHIPPED_STATES[Split.TRAIN]
    if rng.random() < attempt.fresh_share:
        state, seed = None, int(rng.integers(fresh.start, fresh.stop))
    else:
        state, seed = int(rng.integers(shipped.start, shipped.stop)), None
    start = EpisodeStart(attempt.suite, attempt.task_index, state, seed, attempt.condition)
    require_train(start)
    return start


def run_attempt(attempt: Attempt) -> AttemptResult:
    """Demonstrate once. Pool workers call this; the environment is kept until another task is asked for."""
    start_rng, jitter_rng, move_rng, style_rng, expert_rng, noise_rng = attempt.rngs(6)
    env = _environment(attempt)
    start = draw_start(attempt, start_rng)
    jitter_m = attempt.jitter_m if start_rng.random() < attempt.jitter_share else 0.0
    observation, _ = env.reset(start, extra_jitter_m=jitter_m, rng=jitter_rng)
    if attempt.driver is None:
        for action in start_displacement(move_rng):
            observation, *_ = env.step(action)
    else:
        driver = _Driver(_engine(attempt.driver), attempt.driver_noise_bins, noise_rng)
        if attempt.is_unaided:
            recording = _play(env, driver, observation, attempt.cameras)
            origin = Provenance(start, env.instruction, attempt.number, jitter_m, {}, 0, recording.noise)
            return AttemptResult(recording.episode(origin), "", len(recording))
        n_driven = int(move_rng.integers(*DRIVER_STEPS))
        driven = _drive(env, driver, observation, n_driven)
        if driven is None:
            return AttemptResult(None, SOLVED, n_driven)
        observation = driven
    style = Style.sample(style_rng)
    expert = build_expert(env.scene, style, expert_rng)
    recording, succeeded = _perform(env, expert, observation, attempt.cameras)
    proprio = np.stack(recording.proprio)
    reason = FAILED if not succeeded else RETRIED if expert.n_retries else STALLED if is_stalled(proprio) else ""
    if reason:
        return AttemptResult(None, reason, len(proprio))
    provenance = Provenance(
        start, env.instruction, attempt.number, jitter_m, asdict(style), expert.n_retries, recording.noise
    )
    return AttemptResult(recording.episode(provenance), "", len(proprio))


class _Driver:
    """A policy at the wheel, and what strays from its motion: one draw for :data:`NOISE_HOLD_STEPS` steps at a time.

    An accelerated policy's unverified actions stray like that; corrections and lessons are to begin where those lead.
    """

    def __init__(self, engine: Any, noise_bins: float, rng: np.random.Generator) -> None:
        self._engine, self._noise_bins, self._rng = engine, noise_bins, rng
        codec = engine.target.codec
        self._bins = bin_sizes(codec.q01, codec.q99)[:MOTION]
        self._n_steps = 0
        engine.reset()

    def act(self, observation: Observation) -> tuple[FloatArray, FloatArray]:
        """What the policy wants, and what is executed: (7,) each, environment convention."""
        if self._n_steps % NOISE_HOLD_STEPS == 0:
            self._stray = self._rng.normal(0.0, self._noise_bins, MOTION) * self._bins
        self._n_steps += 1
        wanted = self._engine.act(observation).values
        executed = wanted.copy()
        executed[:MOTION] += self._stray
        return wanted, executed


def _drive(env: LiberoEnv, driver: _Driver, observation: Observation, n_steps: int) -> Observation | None:
    """What is seen after a policy has driven for some steps; None when it solved the task on the way."""
    for _ in range(n_steps):
        observation, _, is_solved, _, _ = env.step(driver.act(observation)[1])
        if is_solved:
            return None
    return observation


def _play(env: LiberoEnv, driver: _Driver, observation: Observation, cameras: tuple[str, ...]) -> Recording:
    """A policy's own episode, solved or not: what is learnt from it is what the policy would say there."""
    recording, is_over = Recording(cameras), False
    while not is_over:
        wanted, executed = driver.act(observation)
        recording.add(observation, np.clip(wanted, -1, 1), np.clip(executed, -1, 1), 0)
        observation, _, is_solved, is_late, _ = env.step(executed)
        is_over = is_solved or is_late
    return recording


@lru_cache(maxsize=1)
def _engine(policy: str) -> Any:
    """A plain engine around the driving policy, one per worker."""
    import torch

    from heisd.engine import ChunkEngine, Engine
    from heisd.policies.flow.policy import FlowPolicy
    from heisd.policies.loading import load_any

    torch.set_num_threads(1)  # workers already share the cores
    target = load_any(policy)
    return ChunkEngine(target, sampling=target.config.sampling) if isinstance(target, FlowPolicy) else Engine(target)


def _perform(
    env: LiberoEnv, expert: Expert, observation: Observation, cameras: tuple[str, ...]
) -> tuple[Recording, bool]:
    """Run the expert until a few steps after success, or for as long as a policy gets."""
    recording, left = Recording(cameras), None
    while len(recording) < env.horizon and left != 0:
        step = expert.act(observation.proprio)
        recording.add(observation, step.action, step.executed, int(step.phase))
        observation, _, terminated, _, _ = env.step(step.executed)
        if left is not None:
            left -= 1
        elif terminated:
            left = STEPS_AFTER_SUCCESS
    return recording, left is not None


def is_stalled(proprio: FloatArray) -> bool:
    """Whether (T, 25) proprioception holds STALL_STEPS consecutive steps with hand and fingers at rest."""
    hand_m = np.linalg.norm(np.diff(proprio[:, 0:3], axis=0), axis=1)
    fingers_m = np.abs(np.diff(proprio[:, 7:9], axis=0)).max(axis=1)
    run = longest = 0
    for is_still in (hand_m < STALL_HAND_M) & (fingers_m < STALL_FINGERS_M):
        run = run + 1 if is_still else 0
        longest = max(longest, run)
    return longest >= STALL_STEPS


_kept: dict[tuple[object, ...], LiberoEnv] = {}


def _environment(attempt: Attempt) -> LiberoEnv:
    """This process's environment for the attempt's task; building one costs seconds, keeping ten costs gigabytes."""
    key = (attempt.suite, attempt.task_index, attempt.rendering, attempt.protocol, attempt.cameras, attempt.image_size)
    if key not in _kept:
        for old in _kept.values():
            old.close()
        _kept.clear()
        _kept[key] = LiberoEnv(
            attempt.suite,
            attempt.task_index,
            protocol=parse_protocol(attempt.protocol),
            cameras=attempt.cameras,
            image_size=attempt.image_size,
            rendering=parse_rendering(attempt.rendering),
            draws_late=True,  # of a driver's steps, the pictures of its rounds
        )
    return _kept[key]
