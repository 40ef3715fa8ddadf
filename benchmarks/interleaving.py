"""What interleaving does to a speed-up: the same methods and observations, in turns of one step and of fifty.

    python benchmarks/interleaving.py --observations obs.npz [--suite libero_object] [--steps 300] [--rounds 3]

Every method has weights of its own, as in an evaluation. In turns of one step each finds the others' weights in the
caches; a robot's process finds its own. Fifty steps are what `heisd bench` uses: long enough for that, and short enough
that what else slows the machine meets all methods alike.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from heisd.bench.latency import interleave
from heisd.bench.libero_world import EngineAgent
from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.stats import ratio_of_sums
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.policies.bundle import load_policy
from heisd.presets import builder
from heisd.presets.assets import Assets, hashes

METHODS = ("ar", "exact", "hybrid")
TURNS = (1, 50)
WARM_UP = 10  # steps


def measure(options: argparse.Namespace, weights: Path, turn_steps: int) -> dict[str, Any]:
    """Mean times and ratios to plain decoding of one round."""
    agents = {
        name: EngineAgent(builder(name), Assets(load_policy(weights), weights, options.suite)) for name in METHODS
    }
    seen = load_observations(options.observations)
    series = interleave(agents, seen, options.steps, WARM_UP, turn_steps=turn_steps)
    plain, found = series[METHODS[0]].latency_ms, {}
    for name, mine in series.items():
        ratio = None if name == METHODS[0] else ratio_of_sums(plain, mine.latency_ms)
        speed = {} if ratio is None else {"speedup": ratio.value, "ci95": ratio.ci95}
        found[name] = {"ms_per_action": mine.mean_ms(), **speed}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = resolve_weights("default", options.suite)
    rounds = [
        {"turn_steps": turn_steps, "methods": measure(options, weights, turn_steps)}
        for _ in range(options.rounds)
        for turn_steps in TURNS
    ]
    result = {
        "suite": options.suite,
        "steps": options.steps,
        "threads": options.threads,
        "rounds": rounds,
        "policy": describe_weights(weights),
        "assets": hashes(weights, options.suite),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
