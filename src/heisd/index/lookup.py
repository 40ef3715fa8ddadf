"""The hierarchical look-up: instruction -> task shard -> vision key, kinematic cells for ties. No files here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from heisd.errors import BadInput
from heisd.index.projection import Projection
from heisd.index.routing import TEXT_THRESHOLD, Router
from heisd.index.shard import Ranking, Shard
from heisd.types import FloatArray, IntArray


@dataclass(frozen=True)
class Neighbours:
    """What is remembered of moments like this one: K frames, most similar first (1 <= K <= k; shards can be small).

    A snapshot: later appends do not change it. ``text_similarity`` < 1 says that the instruction was worded
    differently; whoever acts on memory alone should not then.
    """

    instruction: str  # of the shard that answered
    text_similarity: float
    ranking: Ranking
    shard: Shard

    def __len__(self) -> int:
        return len(self.ranking.rows)

    @property
    def similarity(self) -> FloatArray:
        """(K,) cosine of the keys, falling."""
        return self.ranking.similarity

    @property
    def bin_distance(self) -> IntArray:
        """(K,) kinematic cells between then and now."""
        return self.ranking.bin_distance

    @property
    def bins(self) -> IntArray:
        """(K, 7) uint8 actions as the policy's bins; ``codec.tokens_of_bins`` makes tokens of them."""
        return self.ranking.records["bins"]

    @property
    def spread_bins(self) -> IntArray:
        """(7,) largest minus smallest bin among the K actions, per token: how far the neighbours disagree."""
        return np.asarray(self.bins.max(axis=0).astype(np.int64) - self.bins.min(axis=0))

    @property
    def proprio(self) -> FloatArray:
        """(K, 25) float32 flat proprioception [m, rad, m/s, rad/s]."""
        return self.ranking.records["proprio"]

    @property
    def phase(self) -> IntArray:
        """(K,) uint8 motion phase."""
        return self.ranking.records["phase"]

    @property
    def frame(self) -> IntArray:
        """(K,) control step within its episode."""
        return self.ranking.records["frame"]

    @property
    def n_following(self) -> IntArray:
        """(K,) how many actions are known to follow."""
        return self.ranking.records["n_following"]

    @cached_property
    def episodes(self) -> tuple[str, ...]:
        """(K,) start of each frame's episode."""
        numbers = self.ranking.records["episode"]
        return tuple(self.shard.start_of(int(r), int(e)) for r, e in zip(self.ranking.rows, numbers, strict=True))

    def chain(self, i: int, horizon: int) -> IntArray:
        """(h, 7) bins of the i-th neighbour's action and those that followed, h <= ``horizon``; shorter at the end."""
        return self.shard.chain(int(self.ranking.rows[i]), horizon)


class Lookup(Protocol):
    """Anything that remembers: an :class:`Index`, a :class:`heisd.index.store.Store`, or a server of your own."""

    def lookup(self, instruction: str, key: FloatArray, proprio: FloatArray, k: int) -> Neighbours | None:
        """The at most ``k`` most similar frames, at least one; None when nothing is known about this instruction."""
        ...


class Index:
    """Task shards in memory (or memory-mapped) behind a router and a projection."""

    def __init__(
        self,
        instructions: Sequence[str],
        shards: Sequence[Shard],
        projection: Projection,
        *,
        text_threshold: float = TEXT_THRESHOLD,
    ) -> None:
        if len(instructions) != len(shards):
            raise BadInput(f"{len(instructions)} instructions for {len(shards)} shards")
        self.instructions = tuple(instructions)
        self.shards = list(shards)
        self.projection = projection
        self.router = Router(self.instructions, text_threshold)

    def lookup(self, instruction: str, key: FloatArray, proprio: FloatArray, k: int) -> Neighbours | None:
        """The ``k`` most similar frames of the task; None for an instruction like no task's and for an empty shard.

        Args: ``key`` (D,) vision key of the policy; ``proprio`` (25,) flat proprioception.
        Raises BadInput for k < 1, wrong shapes and numbers that are not finite.
        """
        route = self.router.route(instruction)
        if route is None:
            return None
        shard = self.shards[route.shard]
        if not len(shard):
            return None
        ranking = shard.nearest(self.projection(key), proprio, k)
        return Neighbours(self.instructions[route.shard], route.text_similarity, ranking, shard)

    @property
    def n_rows(self) -> int:
        """Rows of all shards."""
        return sum(map(len, self.shards))
