"""A control step with stock and with fast rendering, interleaved in one process: `python benchmarks/rendering.py`.

Two 128-pixel cameras; every environment gets the same actions. Prints one JSON object with milliseconds per step
(wall clock) and the ratio of sums with a bootstrap interval over steps.
"""

import json
import time

import numpy as np

from heisd.bench.provenance import machine, versions
from heisd.bench.stats import ratio_of_sums
from heisd.sim.libero import LiberoEnv
from heisd.sim.rendering import FAST, NONE, STOCK, Rendering
from heisd.sim.splits import EpisodeStart

SCENES = (("libero_object", 0), ("libero_spatial", 0))
N_STEPS, N_WARMUP = 60, 5


def step_ms(suite: str, task: int) -> dict[Rendering, list[float]]:
    """Wall milliseconds of every timed step by renderer."""
    envs = {mode: LiberoEnv(suite, task, rendering=mode) for mode in (STOCK, FAST, NONE)}
    for env in envs.values():
        env.reset(EpisodeStart(suite, task, 0, None))
    times: dict[Rendering, list[float]] = {mode: [] for mode in envs}
    rng = np.random.default_rng(0)
    for i in range(N_WARMUP + N_STEPS):
        action = np.array([*rng.uniform(-1, 0.6, 3), 0.0, 0.0, 0.1, 1.0])
        for mode, env in envs.items():
            began = time.perf_counter()
            env.step(action)
            if i >= N_WARMUP:
                times[mode].append((time.perf_counter() - began) * 1e3)
    for env in envs.values():
        env.close()
    return times


def main() -> None:
    """Print the result object."""
    scenes = {}
    for suite, task in SCENES:
        times = step_ms(suite, task)
        ratio = ratio_of_sums(times[STOCK], times[FAST])
        scenes[f"{suite}/{task}"] = {
            "mean_ms": {mode.value: float(np.mean(ms)) for mode, ms in times.items()},
            "stock_over_fast": None if ratio is None else {"ratio": ratio.value, "ci95": ratio.ci95},
        }
    print(json.dumps({"n_steps": N_STEPS, "scenes": scenes, "machine": machine(), "versions": versions()}, indent=2))


if __name__ == "__main__":
    main()
