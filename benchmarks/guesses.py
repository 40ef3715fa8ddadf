"""How often a whole guess that nobody has checked is as good as the target's answer: store, drafter, last action.

And the drafter's without a look: from pictures that were encoded some control steps ago, with all else of now (what the
preset ``coast`` executes), and with all else as old.

    python benchmarks/guesses.py --observations obs.npz [--suite libero_object] [--steps 2000]

Plain decoding answers every recorded observation (`own_tokens.py --record` writes them, of validation episodes); each
proposer says beside it what it would have done. Good is what calibration calls good (docs/calibration.md): every motion
token at most 15 bins from the target's own, and the same gripper command. The first step of an episode is left out:
there is no last action.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.check_exact import is_first_of_episode
from heisd.bench.observations import load_observations
from heisd.bench.provenance import machine, versions
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.codec import GRIPPER
from heisd.engine import Engine
from heisd.policies.bundle import load_policy
from heisd.presets.assets import Assets, hashes
from heisd.propose.base import History
from heisd.types import Draft

TOLERANCE_BINS = 15
AGES_STEPS = (0, 1, 2, 3, 4, 5, 6)  # of the look behind a guess
SOURCES = {"retrieval": "store", "parallel": "parallel", "persistence": None}  # proposer -> what it needs


def is_good(codec: Any, guess: tuple[int, ...], truth: tuple[int, ...]) -> bool:
    """Calibration's definition."""
    if len(guess) != len(truth):
        return False
    if max(abs(a - b) for a, b in zip(guess[:GRIPPER], truth[:GRIPPER], strict=True)) > TOLERANCE_BINS:
        return False
    ours, theirs = (codec.decode(np.asarray(tokens))[GRIPPER] for tokens in (guess, truth))
    return bool(ours == theirs)


def shares(assets: Assets, plain: Engine, observations: list[Any]) -> dict[str, Any]:
    """Share of steps on which a source's best guess, and the best of all its guesses, is good."""
    codec = assets.target.codec
    proposers = {name: assets.proposer(name, **({"whole": True} if name == "parallel" else {})) for name in SOURCES}
    counts = {name: {"first": 0, "any": 0} for name in SOURCES}
    history, previous, n = History.empty(codec.length), None, 0
    for seen in observations:
        is_first = is_first_of_episode(previous, seen)
        previous = seen
        if is_first:
            history = History.empty(codec.length)
            for proposer in proposers.values():
                proposer.reset()
        action = plain.act(seen)
        truth, history = tuple(action.tokens.tolist()), history.observed(seen.proprio)
        context = assets.target.encode(seen)
        for name, proposer in proposers.items():
            draft = proposer.propose(context, history)
            if not is_first and isinstance(draft, Draft):
                good = [is_good(codec, chain, truth) for chain in draft.chains]
                counts[name]["first"] += good[0]
                counts[name]["any"] += any(good)
        n += not is_first
        history = history.acted(action)
    return {"n_steps": n, "sources": {k: {w: c / n for w, c in v.items()} for k, v in counts.items()}}


def shares_by_age(assets: Assets, plain: Engine, observations: list[Any]) -> dict[str, Any]:
    """Share of good guesses of the drafter by the age of the look, on the steps that have looks of every age."""
    codec, target = assets.target.codec, assets.target
    proposer = assets.proposer("parallel", whole=True)
    counts = {kind: dict.fromkeys(AGES_STEPS, 0) for kind in ("pictures", "everything")}
    history, previous, contexts, n = History.empty(codec.length), None, [], 0
    for seen in observations:
        if is_first_of_episode(previous, seen):
            history, contexts = History.empty(codec.length), []
        previous = seen
        action = plain.act(seen)
        truth, history = tuple(action.tokens.tolist()), history.observed(seen.proprio)
        contexts.append(target.encode(seen))
        if len(contexts) > max(AGES_STEPS):
            n += 1
            for age in AGES_STEPS:
                then = contexts[-1 - age]
                for kind, context in (("pictures", target.refreshed(then, seen)), ("everything", then)):
                    proposer.reset()
                    draft = proposer.propose(context, history)
                    counts[kind][age] += draft is not None and is_good(codec, draft.chains[0], truth)
        history = history.acted(action)
    return {"n_steps": n, "older": {kind: {a: c / n for a, c in of.items()} for kind, of in counts.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    weights = resolve_weights(options.policy, options.suite)
    assets = Assets(load_policy(weights), weights, options.suite)
    plain, recorded = Engine(load_policy(weights)), load_observations(options.observations)[: options.steps]
    result = shares(assets, plain, recorded)
    result |= {
        "without_a_look": shares_by_age(assets, plain, recorded),
        "tolerance_bins": TOLERANCE_BINS,
        "suite": options.suite,
        "policy": describe_weights(weights),
        "assets": hashes(weights, options.suite),
        "versions": versions(),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
