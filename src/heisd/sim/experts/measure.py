"""Measure the experts, physics only: ``python -m heisd.sim.experts --suite libero_object --states 20``."""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context

import numpy as np

from heisd.sim.experts import Style, build_expert, start_displacement
from heisd.sim.libero import LiberoEnv
from heisd.sim.rendering import NONE
from heisd.sim.splits import FRESH_SEEDS, Condition, EpisodeStart, Split, parse_condition
from heisd.sim.suites import suite_info


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode went."""

    start: str
    is_success: bool
    n_steps: int
    n_retries: int
    n_stalls: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What every episode of a measurement has in common."""

    suite: str
    n_states: int
    is_sampled: bool  # a sampled style with disturbances instead of the nominal one
    is_fresh: bool  # freshly sampled resets instead of shipped states
    jitter_m: float
    seed: int
    condition: Condition = Condition.SHIPPED


def run_episode(env: LiberoEnv, start: EpisodeStart, trial: Trial, rng: np.random.Generator) -> Outcome:
    """One episode of the expert, to success or the protocol's horizon."""
    observation, _ = env.reset(start, extra_jitter_m=trial.jitter_m, rng=rng)
    if trial.is_sampled:
        for action in start_displacement(rng):
            observation, *_ = env.step(action)
    style = Style.sample(rng) if trial.is_sampled else Style.nominal()
    expert = build_expert(env.scene, style, rng)
    for n_steps in count(1):
        observation, _, is_success, is_over, _ = env.step(expert.act(observation.proprio).executed)
        if is_success or is_over:
            return Outcome(start.key, is_success, n_steps, expert.n_retries, expert.n_stalls)
    raise AssertionError("unreachable")


def run_task(trial: Trial, task_index: int) -> list[Outcome]:
    """All episodes of one task, from train starts."""
    env = LiberoEnv(trial.suite, task_index, rendering=NONE)
    try:
        return [
            run_episode(env, start, trial, np.random.default_rng([trial.seed, task_index, i]))
            for i, start in enumerate(_starts(trial, task_index))
        ]
    finally:
        env.close()


def _starts(trial: Trial, task_index: int) -> Iterator[EpisodeStart]:
    first_seed = FRESH_SEEDS[Split.TRAIN].start + trial.seed
    for i in range(trial.n_states):
        if trial.is_fresh:
            yield EpisodeStart(trial.suite, task_index, None, first_seed + i, trial.condition)
        else:
            yield EpisodeStart(trial.suite, task_index, i, None, trial.condition)


def summary(outcomes: list[Outcome]) -> str:
    """One line: successes, length, and which starts went wrong."""
    n_steps = [o.n_steps for o in outcomes if o.is_success]
    bad = [f"{o.start.split('/', 1)[1]}{'' if o.is_success else ' FAILED'}" for o in outcomes if o.n_retries]
    length = f"{np.mean(n_steps):4.0f} [{min(n_steps)}-{max(n_steps)}]" if n_steps else "-"
    clean = sum(o.is_success and not o.n_retries for o in outcomes)
    return (
        f"{sum(o.is_success for o in outcomes)}/{len(outcomes)} success, {clean} without retry, {length} steps"
        f"{'; retried: ' + ', '.join(bad) if bad else ''}"
    )


def main() -> None:
    """Parse the command line, run, print the table to stdout."""
    parser = argparse.ArgumentParser(prog="python -m heisd.sim.experts", description=__doc__)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks", help="comma-separated task indices; all without it")
    parser.add_argument("--states", type=int, default=20, help="episodes per task")
    parser.add_argument("--sampled", action="store_true", help="sampled styles, disturbances, displaced start")
    parser.add_argument("--fresh", action="store_true", help="freshly sampled resets instead of shipped states")
    parser.add_argument("--jitter", type=float, default=0.0, help="half-width of target offsets [m]")
    parser.add_argument("--condition", default="shipped", help="shipped, or a belt's: moving4 …")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print every outcome as one JSON object")
    args = parser.parse_args()
    trial = Trial(args.suite, args.states, args.sampled, args.fresh, args.jitter, args.seed,
                  parse_condition(args.condition))  # fmt: skip
    tasks = range(suite_info(args.suite).n_tasks) if args.tasks is None else [int(t) for t in args.tasks.split(",")]
    outcomes: dict[int, list[Outcome]] = {}
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for task, found in zip(tasks, pool.map(partial(run_task, trial), tasks), strict=True):
            outcomes[task] = found
            if not args.json:
                _print(f"{args.suite} {task}: {summary(found)}")
    everything = [o for found in outcomes.values() for o in found]
    _print(json.dumps([asdict(o) for o in everything]) if args.json else f"{args.suite} all: {summary(everything)}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
