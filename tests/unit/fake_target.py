"""A target policy without a network. Its tokens are hashes of everything a row may see, and where.

A row's state is a hash of its token, its position and the states of the rows it sees, as keys and values are; so a
wrong mask, a wrong position or a wrong row in the cache changes all that comes later.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from heisd.codec import ActionCodec
from heisd.testing import synthetic_observations
from heisd.types import FloatArray, Observation, Scores, TokenTree

VOCAB = 1000
CODEC = ActionCodec.from_stats(VOCAB, [-0.9, -0.8, -0.9, -0.1, -0.2, -0.2, 0.0], [0.9, 0.9, 0.8, 0.1, 0.2, 0.2, 1.0])
N_PREFIX = 3  # rows before the action


def hashed(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


@dataclass
class FakeContext:
    instruction: str
    vision_key: FloatArray
    seed: int


@dataclass
class FakeCache:
    """States of the committed rows, and those of the tree scored last."""

    states: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    next_token: int = -1
    margin: float = 0.0

    def keep(self, path: Sequence[int]) -> None:
        self.states += [self.pending[node] for node in path]
        self.pending = []
        self.read()

    def read(self) -> None:
        self.next_token, self.margin = opinion(self.states[-1])


def opinion(state: int) -> tuple[int, float]:
    return CODEC.first_token + state % 256, (state >> 8) % 1000 / 100.0


class FakePolicy:
    """Keeps its contract. Everything a test may want to break is a method of its own."""

    codec: ActionCodec = CODEC
    cache_type = FakeCache

    def encode(self, observation: Observation) -> FakeContext:
        return FakeContext(observation.instruction, self.key(observation), self.seed(observation))

    def key(self, observation: Observation) -> FloatArray:
        return np.asarray([observation.images["wrist"].mean(), observation.proprio.eef_pos_m[0]], dtype=np.float32)

    def seed(self, observation: Observation) -> int:
        return zlib.crc32(observation.images["agentview"].tobytes())

    def prefill(self, context: FakeContext, tree: TokenTree | None = None) -> tuple[FakeCache, Scores]:
        cache = self.new_cache()
        for i in range(N_PREFIX):
            cache.states.append(hashed(context.seed, len(cache.states) if i else 0, sorted(cache.states)))
        cache.read()
        return cache, self.score(cache, tree, is_prefill=True)

    def extend(self, cache: FakeCache, tree: TokenTree) -> Scores:
        return self.score(cache, tree, is_prefill=False)

    def new_cache(self) -> FakeCache:
        return self.cache_type()

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:  # noqa: ARG002
        cache.pending = []
        if tree is not None:
            for node, token in enumerate(tree.tokens.tolist()):
                seen = sorted([*cache.states, *(cache.pending[i] for i in self.visible(tree, node))])
                cache.pending.append(hashed(token, len(cache.states) + self.depth(tree, node), seen))
        behind = [opinion(state)[0] for state in cache.pending]
        return Scores(cache.next_token, np.asarray(behind, dtype=np.int64), cache.margin)

    def visible(self, tree: TokenTree, node: int) -> list[int]:
        """Earlier nodes that this one attends to."""
        return np.flatnonzero(tree.ancestor_mask()[node, :node]).tolist()

    def depth(self, tree: TokenTree, node: int) -> int:
        return int(tree.depth[node])


def observations(n: int = 2, seed: int = 0) -> list[Observation]:
    """Of two instructions in turn."""
    made = synthetic_observations(n, size_px=8, seed=seed)
    return [seen if i % 2 == 0 else replace(seen, instruction="open the drawer") for i, seen in enumerate(made)]


def greedy(policy: FakePolicy, seen: Observation) -> list[int]:
    """Plain decoding, token by token, without the engine."""
    cache, _ = policy.prefill(policy.encode(seen))
    tokens = [cache.next_token]
    while len(tokens) < policy.codec.length:
        policy.extend(cache, TokenTree.chain(np.asarray(tokens[-1:])))
        cache.keep((0,))
        tokens.append(cache.next_token)
    return tokens
