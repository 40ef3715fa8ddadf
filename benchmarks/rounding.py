"""How far rounding moves a decision when it is taken among many rows: what the exactness guard has to cover.

    python benchmarks/rounding.py --observations obs.npz [--suite libero_object] [--steps 400]

Every recorded observation is decoded plainly, one row at a time, and once more in a single forward that holds the same
tokens and other guesses beside them (8, 24 and 48 rows in turn). Compared are the leads: the logit of the chosen token
minus the runner-up's. The guard decodes again where the lead is below ``guard_eps`` float32 precisions of the logit; so
a lead beyond it whose difference is as large as itself would be a token that changes unseen.
"""

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heisd.bench.observations import load_observations
from heisd.bench.provenance import machine, versions
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.policies.bundle import load_policy
from heisd.policies.target import CLOSE_EPS
from heisd.types import TokenTree

EPS = float(np.finfo(np.float32).eps)
WIDTHS = (8, 24, 48)  # rows of the wide forward
LEADS_EPS = (0, CLOSE_EPS, 128, 512, 2048, 2**15, 2**40)


class Listening:
    """A policy, and the two highest logits of every row that it has computed since :meth:`heard`."""

    def __init__(self, policy: Any) -> None:
        self.policy, self._rows, forward = policy, [], policy.runtime.forward

        def listened(*args: Any) -> torch.Tensor:
            logits = forward(*args)
            values, which = logits.topk(2, dim=-1)
            self._rows += zip(which[:, 0].tolist(), *values.t().tolist(), strict=True)
            return logits

        policy.runtime.forward = listened

    def heard(self) -> list[tuple[int, float, float]]:
        """(token, its logit, the runner-up's) of every row."""
        rows, self._rows = self._rows, []
        return rows

    def plainly(self, context: Any) -> list[tuple[int, float, float]]:
        """Seven greedy tokens, a row at a time."""
        cache, _ = self.policy.prefill(context)
        for _ in range(self.policy.codec.length - 1):
            self.policy.extend(cache, TokenTree.chain(np.asarray([cache.next_token])))
            cache.keep((0,))
        return self.heard()

    def among(self, context: Any, tokens: list[int], n_rows: int) -> list[tuple[int, float, float]]:
        """The same, read in one forward of ``n_rows`` guesses: the tokens, and neighbouring bins as their siblings."""
        chain, highest = tokens[:-1], self.policy.codec.vocab_size - 1
        ids, parents = list(chain), list(range(-1, len(chain) - 1))
        for i in range(n_rows - len(chain)):
            depth, distance = i % len(chain), 1 + i // len(chain)
            ids.append(chain[depth] + (distance if chain[depth] + distance <= highest else -distance))
            parents.append(depth - 1)
        self.policy.prefill(context, TokenTree(np.asarray(ids), np.asarray(parents)))
        return self.heard()[: len(tokens)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    weights = resolve_weights(options.policy, options.suite)
    policy = Listening(load_policy(weights, "float32"))
    pairs: list[tuple[float, float]] = []  # lead in the wide forward, its difference from the plain one
    n_flips, n_unseen = Counter[int](), 0
    for seen in load_observations(options.observations)[: options.steps]:
        context = policy.policy.encode(seen)
        plain = policy.plainly(context)
        for n_rows in WIDTHS:
            wide = policy.among(context, [token for token, _, _ in plain], n_rows)
            for (token, first, second), (other, other_first, other_second) in zip(plain, wide, strict=True):
                unit, lead, other_lead = EPS * abs(other_first), first - second, other_first - other_second
                gap = abs(lead - other_lead) if token == other else lead + other_lead
                pairs.append((other_lead / unit, gap / unit))
                n_flips[n_rows] += token != other
                n_unseen += token != other and other_lead >= CLOSE_EPS * unit
    leads, gaps = np.asarray(pairs).T
    result = {
        "suite": options.suite,
        "n_tokens": len(pairs),
        "unit": "float32 precisions of the token's own logit",
        "guard_eps": CLOSE_EPS,
        "share_within_the_guard": float((leads < CLOSE_EPS).mean()),
        "tokens_that_differ_unguarded": dict(n_flips),
        "tokens_that_differ_beyond_the_guard": n_unseen,
        "by_lead": [
            {
                "lead_eps": [low, high],
                "n": int(which.sum()),
                "largest_difference_eps": float(gaps[which].max(initial=0)),
            }
            for low, high in pairwise(LEADS_EPS)
            for which in [(leads >= low) & (leads < high)]
        ],
        "policy": describe_weights(weights),
        "versions": versions(),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
