"""Spec-VLA's drafter (EAGLE-2, arXiv 2406.16858): a dynamic tree grown level by level from the target's hidden states.

It speaks only behind a token that the target has chosen: that token is the root of the tree, as published.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.policies.drafter_eagle import EagleRuntime
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.types import Draft, Verdict


class Eagle:
    """Proposes a tree behind the settled tokens; None before the prefill, and where hidden states are not kept.

    Args:
        codec: of the policy.
        drafter: from ``load_drafter``, for the same policy.
        depth: levels grown behind the first (Spec-VLA: 4).
        top_k: nodes expanded on a level, and guesses behind each (Spec-VLA: 8).
        total_nodes: of the tree, counting its root (Spec-VLA: 50).
        score: rank among other proposers' chains when a tree has no room for all.
    """

    def __init__(
        self,
        codec: ActionCodec,
        *,
        drafter: EagleRuntime,
        depth: int = 4,
        top_k: int = 8,
        total_nodes: int = 50,
        score: float = 0.0,
    ) -> None:
        if depth < 0 or not 1 <= top_k <= 16 or total_nodes < 2:
            raise BadInput(
                f"depth is 0 or more, top_k 1 to 16, total_nodes 2 or more; got {depth}, {top_k}, {total_nodes}"
            )
        self._codec, self._drafter, self._score = codec, drafter, score
        self._depth, self._top_k, self._total_nodes = depth, top_k, total_nodes
        self.reset()

    def reset(self) -> None:
        """Forget the last action."""
        self._context: Context | None = None
        self._read: tuple[int, ...] = ()  # settled tokens of that context whose rows were read

    def observe(self, verdict: Verdict) -> None:
        """Nothing to learn: what was kept comes back as ``history.settled``."""

    def propose(self, context: Context, history: History) -> Draft | None:
        """The tree's chains behind the settled tokens, or None."""
        prefix, states = getattr(context, "prefix", None), getattr(context, "states", None)
        settled, n_missing = history.settled, self._codec.length - len(history.settled)
        if prefix is None or states is None or not settled or n_missing < 1:
            return None
        n_rows = len(prefix) - 1 + len(settled)
        if len(states) != n_rows:
            return None
        root = self._drafter.read(prefix, settled, states, min(self._n_read(context, prefix, settled), n_rows - 1))
        self._context, self._read = context, settled
        nodes = self._grow(*root, n_rows, min(self._depth + 1, n_missing))
        kept = sorted(range(len(nodes)), key=lambda i: -nodes[i].weight)[: self._total_nodes - 1]
        return self._draft(nodes, kept)

    def _n_read(self, context: Context, prefix: Tensor, settled: tuple[int, ...]) -> int:
        """Rows that an earlier call for the same action has read."""
        if context is not self._context:
            return 0
        same = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self._read, settled, strict=False))
        )
        return len(prefix) - 1 + same

    def _grow(self, root_state: Tensor, log_probs: Tensor, n_rows: int, n_levels: int) -> list["_Node"]:
        """Every candidate of every level, parents before children."""
        k = self._top_k
        nodes: list[_Node] = []
        frontier: list[int] = []  # nodes that are expanded, the likeliest of their level
        states, seen = root_state, torch.zeros(1, 0, dtype=torch.bool)  # of their parents
        for level in range(n_levels):
            best, which = (t.tolist() for t in log_probs.topk(k, dim=-1))
            begin = len(nodes)
            for row, parent in enumerate(frontier or [-1]):
                above = nodes[parent].weight if parent >= 0 else 0.0
                nodes += (
                    _Node(t, parent, row, min(p, 0.0), above + min(p, 0.0))
                    for t, p in zip(which[row], best[row], strict=True)
                )
            if level + 1 == n_levels:
                break
            frontier = sorted(range(begin, len(nodes)), key=lambda i: -nodes[i].weight)[:k]
            rows = torch.tensor([nodes[i].parent_row for i in frontier])
            tokens = torch.tensor([nodes[i].offset for i in frontier])
            seen = torch.cat([seen[rows], torch.eye(len(frontier), dtype=torch.bool)], 1)
            states, log_probs = self._drafter.grow(tokens, states[rows], n_rows, level, seen)
        return nodes

    def _draft(self, nodes: list["_Node"], kept: list[int]) -> Draft:
        inner = {nodes[i].parent for i in kept}
        leaves = [i for i in kept if i not in inner]
        paths = [self._path(nodes, leaf) for leaf in leaves]
        first = self._drafter.first_token
        chains = tuple(tuple(first + node.offset for node in path) for path in paths)
        log_probs = tuple(tuple(node.log_prob for node in path) for path in paths)
        return Draft(chains, "eagle", (self._score,) * len(chains), log_probs)

    def _path(self, nodes: list["_Node"], leaf: int) -> list["_Node"]:
        path = []
        while leaf >= 0:
            path.append(nodes[leaf])
            leaf = nodes[leaf].parent
        return path[::-1]


@dataclass(frozen=True, slots=True)
class _Node:
    offset: int  # token, counted from the first action token
    parent: int  # -1: the root
    parent_row: int  # of the parent among the rows of its level
    log_prob: float
    weight: float  # log-probability of the whole path
