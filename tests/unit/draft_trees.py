"""Targets and drafts made of small tokens, and the slow obvious answers that verify and accept are held to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from heisd.codec import ActionCodec
from heisd.types import Draft, Scores, TokenTree
from heisd.verify import DraftTree, merge

T = 7
VOCAB = 1000
FIRST = VOCAB - 256
CODEC = ActionCodec.from_stats(VOCAB, [-1.0] * 6 + [0.0], [1.0] * 7)


@dataclass(frozen=True)
class Target:
    """A language model that answers to a whole prefix: any wrong prefix gives another answer."""

    seed: int
    spread: int = 3  # number of different tokens it ever says

    def __call__(self, prefix: Sequence[int]) -> int:
        value = self.seed + 17
        for token in prefix:
            value = (value * 31 + token * 7 + 3) % 10_007
        return FIRST + 100 + value % self.spread

    def greedy(self, prefix: Sequence[int], n: int) -> tuple[int, ...]:
        tokens = list(prefix)
        while len(tokens) < n:
            tokens.append(self(tokens))
        return tuple(tokens)

    def scores(self, tree: TokenTree, settled: Sequence[int] = ()) -> Scores:
        """The scores of a forward behind ``settled``, node by node, each from its own ancestors."""
        behind = []
        for node in range(len(tree.tokens)):
            chain, at = [], node
            while at >= 0:
                chain.append(int(tree.tokens[at]))
                at = int(tree.parents[at])
            behind.append(self([*settled, *reversed(chain)]))
        return Scores(self(settled), np.asarray(behind, dtype=np.int64), 1.0)


def chains(spread: int = 3, max_length: int = T, min_length: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    token = st.integers(FIRST + 100, FIRST + 99 + spread)
    return st.lists(token, min_size=min_length, max_size=max_length).map(tuple)


@st.composite
def drafts(draw: st.DrawFn, spread: int = 3, max_length: int = T, max_drafts: int = 3) -> list[Draft]:
    """Up to three proposers' drafts with shared prefixes, duplicates, scores and sometimes log-probabilities."""
    made = []
    for i in range(draw(st.integers(0, max_drafts))):
        tokens = tuple(draw(st.lists(chains(spread, max_length), min_size=1, max_size=4)))
        score = st.floats(-3, 0, allow_nan=False)
        scores = tuple(sorted((draw(score) for _ in tokens), reverse=True))
        log_probs = tuple(tuple(draw(score) for _ in chain) for chain in tokens) if draw(st.booleans()) else None
        made.append(Draft(tokens, f"p{i}", scores, log_probs))
    return made


def one(*tokens: Sequence[int], source: str = "test") -> Draft:
    """Chains of bins away from the middle of the vocabulary, as one draft."""
    return Draft(tuple(map(tuple, tokens)), source, (0.0,) * len(tokens))


def tree_of(made: Sequence[Draft], *, position: int = 0, max_nodes: int = 1000, known: int | None = None) -> DraftTree:
    return merge(made, position=position, length=T, max_nodes=max_nodes, known=known)
