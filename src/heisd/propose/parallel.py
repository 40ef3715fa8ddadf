"""The parallel drafter's guesses as a trie that holds what pays and nothing else.

Every node of a trie is one more row in the target's forward, so a path is followed only while its probability, the
product of its tokens', is worth a row. The last token of an action is not an input of the forward: it is guessed along
for nothing wherever a path gets that far.
"""

import math
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from torch import Tensor

from heisd.codec import N_BINS, ActionCodec
from heisd.errors import BadInput
from heisd.policies.drafter import MISSING, N_EMBEDDED, N_PAST, motion_features
from heisd.policies.drafter_runtime import ParallelRuntime
from heisd.policies.proprio import FLAT_SIZE, flatten
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.types import Draft, FloatArray, IntArray, Verdict

MIN_PROBABILITY = 0.09  # of being kept; below it a row costs more than it saves (docs/drafters.md)
BRANCHES = 8  # guesses at one token that are considered

_Guesses = tuple[list[list[int]], list[list[float]]]  # ids of the likeliest tokens, best first, and their log-probs
Path = tuple[int, ...]  # ranks of the guesses along a path: (0, 0) is the best at two tokens


class ParallelDraft:
    """Proposes from the prompt embeddings, before the prefill; behind settled tokens what it said of the others.

    Args:
        codec: of the policy.
        drafter: from ``load_drafter``, for the same policy.
        min_probability: of a path; shorter tries cost less, longer ones may keep more.
        max_nodes: rows of the first try, when most is unknown.
        max_later_nodes: rows of a later one.
        whole: always include the best guess at the whole action (for rules that accept more than equality).
        score: rank among other proposers' chains when a tree has no room for all.

    Raises BadInput when the drafter guesses another number of tokens than the codec's actions have.
    """

    def __init__(
        self,
        codec: ActionCodec,
        *,
        drafter: ParallelRuntime,
        min_probability: float = MIN_PROBABILITY,
        max_nodes: int = 24,
        max_later_nodes: int = 16,
        whole: bool = False,
        score: float = 0.0,
    ) -> None:
        if drafter.config.n_tokens != codec.length:
            raise BadInput(f"the drafter guesses {drafter.config.n_tokens} tokens; an action has {codec.length}")
        if not 0.0 < min_probability <= 1.0 or min(max_nodes, max_later_nodes) < 0:
            raise BadInput(f"min_probability is in (0, 1], nodes are 0 or more; got {min_probability}, {max_nodes}")
        self._codec, self._drafter = codec, drafter
        self._min_log_probability = math.log(min_probability)
        self._max_nodes, self._max_later_nodes = max_nodes, max_later_nodes
        self._whole, self._score = whole, score
        self.reset()

    def reset(self) -> None:
        """Forget the guesses at the last action."""
        self._seen: tuple[Context, History] | None = None
        self._guesses: _Guesses = [], []

    def observe(self, verdict: Verdict) -> None:
        """Nothing to learn: what was kept comes back as ``history.settled``."""

    def propose(self, context: Context, history: History) -> Draft | None:
        """A trie of guesses behind the settled tokens; None where the context has no prompt embeddings to read."""
        prefix, n_settled = getattr(context, "prefix", None), len(history.settled)
        if not isinstance(prefix, Tensor) or n_settled >= self._codec.length:
            return None
        if self._seen is None or not _is_same_step(self._seen, (context, history)):  # asked once a control step
            self._guesses, self._seen = self._ask(prefix, history), (context, history)
        ids, values = self._guesses
        return self._draft(ids[n_settled:], values[n_settled:], self._max_later_nodes if n_settled else self._max_nodes)

    def _ask(self, prefix: Tensor, history: History) -> _Guesses:
        past, (now, before) = past_bins(history, self._codec), _proprioception(history)
        log_probs = self._drafter.guess(prefix, past[:N_EMBEDDED], motion_features(past, now, before))
        best, bins = log_probs.topk(BRANCHES, dim=-1)
        return (self._codec.vocab_size - 1 - bins).tolist(), best.clamp_max(0.0).tolist()

    def _draft(self, ids: list[list[int]], values: list[list[float]], max_nodes: int) -> Draft | None:
        paths = best_first(values, max_nodes, self._min_log_probability)
        if self._whole or (not paths and len(values) == 1):
            whole = (0,) * len(values)
            paths = [whole, *(path for path in paths if path != whole[: len(path)])]
        if not paths:
            return None
        chains = tuple(tuple(ids[depth][rank] for depth, rank in enumerate(path)) for path in paths)
        weights = tuple(tuple(values[depth][rank] for depth, rank in enumerate(path)) for path in paths)
        return Draft(chains, "parallel", (self._score,) * len(chains), weights)


def best_first(log_probs: Sequence[Sequence[float]], max_nodes: int, min_log_probability: float) -> list[Path]:
    """The likeliest paths of a trie, likeliest node first: its leaves, the path of best guesses before the others.

    Args:
        log_probs: for each missing token the log-probabilities of its guesses, not increasing.
        max_nodes: nodes of the trie; those of the last token are free, and not counted.
        min_log_probability: of a node: the sum along its path.
    """
    n_missing = len(log_probs)
    if n_missing == 1:
        return [(0,)] if log_probs[0][0] >= min_log_probability else []
    nodes: dict[Path, float] = {}
    inner: set[Path] = set()
    waiting: list[tuple[float, Path]] = [(-log_probs[0][0], (0,))]
    while waiting and len(nodes) < max_nodes:
        cost, path = heappop(waiting)
        if -cost < min_log_probability:
            break
        nodes[path] = -cost
        inner.add(path[:-1])
        depth, rank = len(path), path[-1]
        here = log_probs[depth - 1]
        if rank + 1 < len(here):
            heappush(waiting, (cost + here[rank] - here[rank + 1], (*path[:-1], rank + 1)))
        if depth < n_missing - 1:
            heappush(waiting, (cost - log_probs[depth][0], (*path, 0)))
    leaves = [path for path in nodes if path not in inner]
    leaves.sort(key=lambda path: (any(path), -nodes[path], path))
    return [(*path, 0) if len(path) == n_missing - 1 else path for path in leaves]


def _is_same_step(seen: tuple[Context, History], now: tuple[Context, History]) -> bool:
    """The same observation, behind the same actions. What is never changed can be told by its identity."""
    return seen[0] is now[0] and seen[1].tokens is now[1].tokens and seen[1].proprioception is now[1].proprioception


def past_bins(history: History, codec: ActionCodec) -> IntArray:
    """(N_PAST, T) bins of the last executed actions, newest first; MISSING for what isn't there or isn't an action."""
    past = np.full((N_PAST, codec.length), MISSING, dtype=np.int64)
    bins = codec.vocab_size - 1 - history.tokens[: -N_PAST - 1 : -1]
    past[: len(bins)] = bins
    if bins.size and not 0 <= bins.min() <= bins.max() < N_BINS:
        past[: len(bins)][((bins < 0) | (bins >= N_BINS)).any(axis=1)] = MISSING
    return past


def _proprioception(history: History) -> tuple[FloatArray, FloatArray]:
    """Flat proprioception now and one control step before."""
    seen = history.proprioception
    if not seen:
        return np.zeros(FLAT_SIZE, np.float32), np.zeros(FLAT_SIZE, np.float32)
    now = flatten(seen[-1])
    return now, flatten(seen[-2]) if len(seen) > 1 else now
