"""How hard the bundled policy's own greedy tokens are to draft, and whether ``transformers.generate`` gives the same.

    python benchmarks/own_tokens.py --suite libero_object [--episodes 20] [--policy NAME_OR_DIR] [--out FILE]
        [--record OBSERVATIONS.npz]

Plays validation episodes greedily and prints, over all control steps: acceptance of the previous control step's
tokens (persistence) and of the nearest frame of another episode of the task, both as a prefix of the seven tokens and
without the target's own next one; entropy of each dimension's tokens; percentiles of the logit margins. Then decodes
every observation again with ``transformers.generate`` on the same weights and counts differing tokens.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.libero_world import LiberoWorld
from heisd.bench.observations import save_observations
from heisd.bench.provenance import machine, versions
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.config import EvalConfig
from heisd.policies.bundle import load_policy
from heisd.policies.proprio import flatten
from heisd.policies.reference import as_transformers, generate
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.regularity import measure
from heisd.sim.splits import Split, episode_starts
from heisd.sim.suites import suite_info
from heisd.types import Observation

PERCENTILES = (1, 5, 10, 25, 50, 75, 90)


class Steps:
    """What every control step of every episode left behind."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.rows: list[dict[str, Any]] = []
        self.n_solved = 0

    def column(self, name: str) -> np.ndarray:
        """One value per step."""
        return np.array([row[name] for row in self.rows])

    def add_episode(self, world: LiberoWorld, number: int, start: Any, reference: Any) -> None:
        """Play one episode; ``reference`` decodes the same observation again (or is None)."""
        env, agent = world.env(start.task_index), world.agent("ar")
        seen, _ = env.reset(start)
        agent.reset()
        is_over = False
        while not is_over:
            action, record = agent.act(seen)
            self.observations.append(seen)
            row = {"episode": number, "task": start.task_index, "proprio": flatten(seen.proprio)}
            row |= {"tokens": np.asarray(action.tokens), "margins": np.asarray(record.margins)}
            row["action"] = np.asarray(action.values)
            row["n_different"] = 0 if reference is None else int((reference(seen) != row["tokens"]).sum())
            self.rows.append(row)
            seen, _, is_success, is_truncated, _ = env.step(action.values)
            is_over = is_success or is_truncated
        self.n_solved += is_success


def report(steps: Steps, policy: OpenVLAPolicy) -> dict[str, Any]:
    """The figures."""
    figures = measure(*map(steps.column, ("action", "proprio", "episode", "task")), policy.codec)
    margins = steps.column("margins")
    tokens, episode = steps.column("tokens"), steps.column("episode")
    same = (tokens[1:] == tokens[:-1])[episode[1:] == episode[:-1]]
    return {
        "n_steps": len(steps.rows),
        "regularity": figures.as_dict(),
        "repeat_share_by_dimension": same.mean(axis=0).round(4).tolist(),
        "margin_percentiles": {str(p): np.percentile(margins, p, axis=0).round(4).tolist() for p in PERCENTILES},
        "differing_tokens_vs_generate": int(steps.column("n_different").sum()),
        "smallest_margin": float(margins.min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--no-reference", action="store_true", help="skip transformers.generate")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path, help="also save the observations, for the other benchmarks")
    options = parser.parse_args()
    weights = resolve_weights(options.policy, options.suite)
    policy = load_policy(weights, "float32")
    llama = None if options.no_reference else as_transformers(policy.model.language_model)

    def reference(seen: Any) -> np.ndarray:
        return np.asarray(generate(llama, policy.encode(seen).prefix, policy.codec.length))

    world = LiberoWorld(
        EvalConfig(suite=options.suite, methods=("ar",), weights=options.policy, split=Split.VALIDATION), n_threads=None
    )
    steps = Steps()
    starts = episode_starts(options.suite, suite_info(options.suite).n_tasks, Split.VALIDATION, options.episodes)
    for number, start in enumerate(sorted(starts, key=lambda start: start.task_index)):
        steps.add_episode(world, number, start, None if llama is None else reference)
    world.close()
    result = {"suite": options.suite, "episodes": options.episodes, "solved": steps.n_solved}
    result |= report(steps, policy) | {
        "policy": describe_weights(weights),
        "versions": versions(),
        "machine": machine(),
    }
    if llama is None:
        del result["differing_tokens_vs_generate"]
    if options.record:
        save_observations(options.record, steps.observations)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
