"""Peak memory of every preset: each in a process of its own, which loads it and answers recorded observations.

    python benchmarks/memory.py --suite libero_object --method ar,exact,hybrid

An evaluation plays all its methods in one process, whose peak says nothing of any of them; here no simulator, no other
preset and no second policy is loaded. The observations are the ones `heisd bench` times by default, recorded on first
use. Imports and observations are inside: `nothing` is what a process holds before the policy.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from heisd.bench.latency import N_RECORDED, BenchConfig, recorded_observations, torch_threads
from heisd.bench.methods import parse_methods
from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.rollout import peak_rss_mb
from heisd.config import EvalConfig

NOTHING = "nothing"  # imports and observations alone


def measure(suite: str, method: str, observations: Path) -> float:
    """Peak resident memory of this process [MB] once ``method`` has answered every observation."""
    from heisd.bench.libero_world import LiberoWorld

    recorded, n_threads = load_observations(observations), torch_threads()
    if method != NOTHING:
        agent = LiberoWorld(EvalConfig(suite=suite, methods=(method,)), n_threads=n_threads).agent(method)
        agent.reset()
        for observation in recorded:
            agent.act(observation)
    return peak_rss_mb()


def in_its_own_process(suite: str, method: str, observations: Path) -> float:
    """The same, in a fresh interpreter."""
    command = [sys.executable, __file__, "--suite", suite, "--observations", str(observations), "--alone", method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the result object, or with ``--alone`` one number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--observations", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", default="ar,exact")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(measure(given.suite, given.alone, given.observations))
        return
    methods = (NOTHING, *parse_methods(given.method))
    observations = recorded_observations(BenchConfig(("ar",), given.suite), N_RECORDED)
    peaks = {name: {"peak_rss_mb": in_its_own_process(given.suite, name, observations)} for name in methods}
    print(json.dumps({
        "suite": given.suite, "observations": observations.name, "methods": peaks,
        "machine": machine(), "versions": versions(), "commit": git_commit(checkout_root(Path.cwd())),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
