"""A store that remembers only part of its episodes, without copying a directory: what its size is worth."""

import hashlib
from collections.abc import Sequence

import numpy as np

from heisd.errors import BadInput
from heisd.index.lookup import Index
from heisd.index.shard import Part, Shard
from heisd.index.store import Store


def share_of(store: Store, share: float) -> Store:
    """The store with ``share`` of every task's episodes, whole ones, at least one; read only.

    Which ones a hash of an episode's start decides, so a smaller share is part of every larger one. The keys'
    projection stays that of the whole store. Rows that were appended in operation are left out. The rows that stay are
    copied into memory.

    Raises BadInput unless ``share`` is above 0 and at most 1.
    """
    if not 0.0 < share <= 1.0:
        raise BadInput(f"a store's share is above 0 and at most 1; got {share}")
    whole = store.index
    shards = [_share_of_shard(shard, share) for shard in whole.shards]
    index = Index(whole.instructions, shards, whole.projection, text_threshold=whole.router.threshold)
    return Store(store.root, store.manifest, index, None)


def chosen_episodes(starts: Sequence[str], share: float) -> tuple[int, ...]:
    """Numbers of the episodes that stay, rising."""
    order = sorted(range(len(starts)), key=lambda i: (hashlib.sha256(starts[i].encode()).digest(), i))
    return tuple(sorted(order[: max(1, round(share * len(starts)))]))


def _share_of_shard(shard: Shard, share: float) -> Shard:
    base = shard.base
    kept = np.isin(base.rows["episode"], chosen_episodes(base.episodes, share))
    return type(shard)(Part(base.rows[kept], base.episodes))  # an episode's rows lie together: chains stay whole
