"""How likely a guess must be to be worth a row: `exact` at several thresholds, interleaved with plain decoding.

    python benchmarks/min_probability.py --observations obs.npz [--suite libero_object] [--steps 250] [--threads 2]

On recorded validation observations (`own_tokens.py --record`). The threshold changes speed only; the shipped one was
chosen by such a table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.stats import ratio_of_sums
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.engine import Engine
from heisd.policies.bundle import load_policy
from heisd.presets.assets import Assets, hashes
from heisd.propose.parallel import MIN_PROBABILITY
from heisd.route.fixed import Fixed
from heisd.telemetry import MemorySink

PLAIN = 0.0  # stands for plain decoding among the thresholds
THRESHOLDS = (0.03, 0.06, 0.09, 0.13)
WARM_UP = 10  # steps
WHO = ("parallel",)


def engine(weights: Path, suite: str, threshold: float) -> tuple[Engine[Any, Any], MemorySink]:
    """Preset `exact` with this threshold, or plain decoding; each on weights of its own."""
    assets, sink = Assets(load_policy(weights), weights, suite), MemorySink()
    if threshold == PLAIN:
        return Engine(assets.target, sink=sink), sink
    proposers = {"parallel": assets.proposer("parallel", min_probability=threshold)}
    return Engine(assets.target, proposers=proposers, router=Fixed(drafters=WHO, later=WHO), sink=sink), sink


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = resolve_weights(options.policy, options.suite)
    engines = {threshold: engine(weights, options.suite, threshold) for threshold in (PLAIN, *THRESHOLDS)}
    rng = np.random.default_rng(0)
    for seen in load_observations(options.observations)[: WARM_UP + options.steps]:
        for threshold in rng.permutation((PLAIN, *THRESHOLDS)).tolist():
            engines[threshold][0].act(seen)
    records = {threshold: sink.records[WARM_UP:] for threshold, (_, sink) in engines.items()}
    took = {threshold: np.array([record.latency_ms for record in rows]) for threshold, rows in records.items()}
    table = []
    for threshold in THRESHOLDS:
        ratio = ratio_of_sums(took[PLAIN], took[threshold])
        assert ratio is not None
        table.append({
            "min_probability": threshold,
            "speedup": ratio.value,
            "ci95": ratio.ci95,
            "lm_forwards_per_action": float(np.mean([record.lm_forwards for record in records[threshold]])),
            "rows_per_action": float(np.mean([record.n_drafted for record in records[threshold]])),
        })  # fmt: skip
    print(json.dumps({
        "suite": options.suite,
        "steps": options.steps,
        "threads": options.threads,
        "shipped": MIN_PROBABILITY,
        "thresholds": table,
        "policy": describe_weights(weights),
        "assets": hashes(weights, options.suite),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
