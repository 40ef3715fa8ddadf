"""``heisd bench``: time per action and stage on recorded observations, methods interleaved in one process."""

import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.methods import parse_methods
from heisd.bench.observations import is_first_of_episode, load_observations, save_observations
from heisd.bench.overhead import PLAIN_METHODS, overhead_block
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.replay import Agent
from heisd.bench.rollout import World, observation_hash, peak_rss_mb
from heisd.bench.speculation import SpeculationCounts
from heisd.bench.stats import distribution, ratio_of_sums
from heisd.bench.weights import describe_weights, resolve_weights, weights_for
from heisd.config import EvalConfig
from heisd.presets.assets import hashes
from heisd.presets.assets import require as require_assets
from heisd.sim.splits import Split, episode_starts
from heisd.types import Observation, StepRecord

log = logging.getLogger(__name__)

N_EPISODES = 10  # started from, in turn
TURN_STEPS = 50  # of one method before the next one's; about half a second, shorter than a machine's moods
N_RECORDED = 60  # control steps recorded when no file is given: approach and first grasp of one episode


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What to time."""

    methods: tuple[str, ...]  # the first one is the baseline
    suite: str = "libero_object"
    steps: int = 200  # timed steps per method
    warmup: int = 10  # steps before, reported apart
    weights: str = "default"
    dtype: str = "float32"
    threads: int = 0  # 0: torch's own choice
    euler_steps: int | None = None  # of a flow-matching policy, in place of its own
    executed: int | None = None  # actions of a chunk before the next round, in place of the policy's own
    delay_steps: int | None = None  # that a round takes, of methods that do not wait for it


@dataclass(slots=True)
class Series:
    """Times of one method, and what it did in them."""

    latency_ms: list[float] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)  # of the same steps
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    warmup_ms: list[float] = field(default_factory=list)
    round_ms: list[float] = field(default_factory=list)  # of a chunk policy: the steps on which it was asked
    cpu_s: float = 0.0

    def add(self, latency_ms: float, record: StepRecord, cpu_s: float) -> None:
        """One timed step."""
        self.latency_ms.append(latency_ms)
        self.records.append(record)
        self.cpu_s += cpu_s
        if record.round is not None:
            self.round_ms.append(latency_ms)
        for name, ms in record.stage_ms.items():
            self.stage_ms.setdefault(name, []).append(ms)

    def total_ms(self, *stages: str) -> float:
        """Sum over all steps of some stages."""
        return sum(sum(self.stage_ms.get(stage, [])) for stage in stages)

    def mean_ms(self) -> float | None:
        """Of a timed step; None without one."""
        return float(np.mean(self.latency_ms)) if self.latency_ms else None

    def speculation(self) -> dict[str, Any]:
        """The ``speculation`` block of these steps, as an evaluation has it."""
        counts, tokens = SpeculationCounts(), Counter[str]()
        for record, latency_ms in zip(self.records, self.latency_ms, strict=True):
            counts.add(record)
            counts.rounds.add(record, latency_ms)
            tokens.update(record.origins)
        return counts.block(tokens, sum(record.lm_forwards for record in self.records))


def measure(config: BenchConfig, observations: Path | None) -> dict[str, Any]:
    """Load the policy, get observations, time every method on them; the result object of ``heisd bench``."""
    from heisd.bench.libero_world import LiberoWorld, calibrated_suite, require_dtype, sampling_in_use

    parse_methods(config.methods)
    require_dtype(config.dtype)
    directory, world_config = weights_for(config.weights, config.suite, config.methods), _world_config(config)
    policy, sampling = describe_weights(directory), sampling_in_use(world_config, directory)
    suite = calibrated_suite(directory, config.suite)
    require_assets(directory, suite, config.methods)
    recorded = load_observations(observations) if observations else None
    world = LiberoWorld(world_config, n_threads=config.threads or None)
    if recorded is None:
        observations, recorded = _recorded_once(world, config, policy["sha256"])
        world.close()
    agents = {method: world.agent(method) for method in config.methods}
    series = interleave(agents, recorded, config.steps, config.warmup)
    return {
        **summarise(series, config),
        "suite": config.suite,
        "observations": {
            "file": observations.name if observations else None,
            "n": len(recorded),
            "sha256": _joint_hash(recorded),
        },
        "policy": policy,
        **sampling,
        "assets": hashes(directory, suite),
        "threads": torch_threads(),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }


def record(world: World, config: BenchConfig, n_steps: int) -> list[Observation]:
    """Observations of task 0's validation episodes, one after the other, driven by the first method."""
    starts = itertools.cycle(episode_starts(config.suite, 1, Split.VALIDATION, N_EPISODES))
    env, agent = world.env(0), world.agent(config.methods[0])
    observation, _ = env.reset(next(starts))
    agent.reset()
    recorded: list[Observation] = []
    while len(recorded) < n_steps:
        recorded.append(observation)
        action, _ = agent.act(observation)
        observation, _, success, truncated, _ = env.step(action.values)
        if success or truncated:
            observation, _ = env.reset(next(starts))
            agent.reset()
    return recorded


def recorded_observations(config: BenchConfig, n_steps: int) -> Path:
    """A file in the cache directory with ``n_steps`` observations, recorded on first use by plain decoding."""
    from heisd.bench.libero_world import LiberoWorld

    path = _cached(config, describe_weights(resolve_weights(config.weights, config.suite))["sha256"], n_steps)
    if not path.is_file():
        plain = replace(config, methods=("ar",), dtype="float32", delay_steps=None)
        world = LiberoWorld(_world_config(plain), n_threads=config.threads or None)
        _save_recorded(path, world, plain, n_steps)
        world.close()
    return path


def _recorded_once(world: World, config: BenchConfig, policy_hash: str) -> tuple[Path, list[Observation]]:
    """Record on first use, then reuse the file in the cache directory."""
    path = _cached(config, policy_hash, N_RECORDED)
    if not path.is_file():
        _save_recorded(path, world, config, N_RECORDED)
    return path, load_observations(path)


def _cached(config: BenchConfig, policy_hash: str, n_steps: int) -> Path:
    from heisd.sim.cache import cache_dir

    return cache_dir() / "observations" / f"{config.suite}-{policy_hash[:12]}-{n_steps}.npz"


def _save_recorded(path: Path, world: World, config: BenchConfig, n_steps: int) -> None:
    log.warning("recording %d observations of %s into %s", n_steps, config.suite, path)
    save_observations(path, record(world, config, n_steps))


def _world_config(config: BenchConfig) -> EvalConfig:
    return EvalConfig(
        suite=config.suite, methods=config.methods, weights=config.weights, dtype=config.dtype, split=Split.VALIDATION,
        euler_steps=config.euler_steps, executed=config.executed, delay_steps=config.delay_steps,
    )  # fmt: skip


def interleave(
    agents: Mapping[str, Agent],
    observations: Sequence[Observation],
    steps: int,
    warmup: int,
    *,
    seed: int = 0,
    turn_steps: int = TURN_STEPS,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Series]:
    """All methods answer the same observations in turns of ``turn_steps``, in random order in each.

    The first ``warmup`` steps are kept apart. In turns, because a method that is asked beside others at every step
    finds their weights in the caches and not its own, and no robot runs them side by side. Where an episode begins, all
    forget the one before.
    """
    rng, names = np.random.default_rng(seed), list(agents)
    series = {name: Series() for name in names}
    for first in range(0, warmup + steps, turn_steps):
        for name in rng.permutation(names).tolist():
            agent, mine = agents[name], series[name]
            for step in range(first, min(first + turn_steps, warmup + steps)):
                observation = observations[step % len(observations)]
                if is_first_of_episode(observations[(step - 1) % len(observations)] if step else None, observation):
                    agent.reset()
                cpu_s, began_ns = time.process_time(), now_ns()
                _, telemetry = agent.act(observation)
                latency_ms = (now_ns() - began_ns) / 1e6
                if step < warmup:
                    mine.warmup_ms.append(latency_ms)
                else:
                    mine.add(latency_ms, telemetry, time.process_time() - cpu_s)
    return series


def summarise(series: Mapping[str, Series], config: BenchConfig) -> dict[str, Any]:
    """Distributions per method and stage, ratios to the baseline, and the cost ratio that bounds them."""
    baseline = series[config.methods[0]]
    plain_ms = baseline.mean_ms() if config.methods[0] in PLAIN_METHODS else None
    return {
        "methods": {name: _method_block(mine, baseline, plain_ms) for name, mine in series.items()},
        "process_peak_rss_mb": peak_rss_mb(),
        "cost_ratio": cost_ratio(baseline),
        "steps": config.steps,
        "warmup": config.warmup,
        "dtype": config.dtype,
    }


def _method_block(mine: Series, baseline: Series, plain_ms: float | None) -> dict[str, Any]:
    ratio = None if mine is baseline else ratio_of_sums(baseline.latency_ms, mine.latency_ms)
    return {
        "ms_per_action": distribution(mine.latency_ms),
        "stages": {name: distribution(values) for name, values in mine.stage_ms.items()},
        **overhead_block(mine.stage_ms, len(mine.latency_ms), plain_ms),
        **({"ms_per_round": distribution(mine.round_ms)} if mine.round_ms else {}),
        "cpu_s_per_action": mine.cpu_s / len(mine.latency_ms) if mine.latency_ms else None,
        "first_ms": mine.warmup_ms[0] if mine.warmup_ms else None,
        "warmup_ms": distribution(mine.warmup_ms),
        "speedup_vs_baseline": None if ratio is None else {"clock": "full", "ratio": ratio.value, "ci95": ratio.ci95},
        "speculation": mine.speculation(),
    }


def cost_ratio(plain: Series) -> dict[str, float | None]:
    """Time of the six decode steps over vision plus prefill (6D/(V+P)), and the speed-up it allows without skipping.

    A proposal that is always accepted saves all decode steps and nothing else: the ceiling is 1 + 6D/(V+P). None for a
    policy that decodes nothing.
    """
    fixed_ms, decode_ms = plain.total_ms("encode", "prefill"), plain.total_ms("decode")
    if min(fixed_ms, decode_ms) <= 0:
        return {"decode_over_prefill": None, "ceiling": None}
    return {"decode_over_prefill": decode_ms / fixed_ms, "ceiling": 1 + decode_ms / fixed_ms}


def _joint_hash(observations: Sequence[Observation]) -> str:
    return hashlib.sha256("".join(observation_hash(o) for o in observations).encode()).hexdigest()


def torch_threads() -> int:
    """Threads of this process's matrix products."""
    import torch

    return torch.get_num_threads()
