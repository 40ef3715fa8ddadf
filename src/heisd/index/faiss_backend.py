"""Exact search by faiss behind the same look-up (extra ``faiss``): for shards too large for one matrix product.

``IndexFlatIP`` over unit vectors is cosine search without approximation. What it returns is looked at again in
float64 and by kinematic cells, as everything a shard finds is, so both backends give the same neighbours.
"""

from functools import cached_property

import numpy as np

from heisd.errors import MissingExtra
from heisd.extras import install_command
from heisd.index.search import margin, searchable, searchable_query
from heisd.index.shard import Part, Shard
from heisd.types import FloatArray, IntArray

try:
    import faiss
except ImportError:
    raise MissingExtra(f"searching by faiss needs the package faiss-cpu: {install_command('faiss')}") from None


class FaissShard(Shard):
    """A shard whose float32 keys live in a faiss index, made at the first look-up."""

    def __init__(self, base: Part, tail: Part | None = None) -> None:
        super().__init__(base, tail)
        self._n_dims: int = base.rows.dtype["key"].shape[0]

    @cached_property
    def _flat(self) -> "faiss.IndexFlatIP":
        flat = faiss.IndexFlatIP(self._n_dims)
        for part in self._parts:
            flat.add(searchable(part.rows["key"]))
        return flat

    def shortlist(self, key: FloatArray, k: int) -> IntArray:
        """As :meth:`Shard.shortlist`: the k-th best first, then every row that float32 can't tell from it."""
        query = searchable_query(key, self._n_dims, k)[None]
        n = len(self)
        if n <= k:
            return np.arange(n)
        scores, _ = self._flat.search(query, k)
        # faiss keeps what lies strictly above its radius.
        radius = np.nextafter(np.float32(scores[0, -1] - margin(self._n_dims)), np.float32(-np.inf))
        _, _, rows = self._flat.range_search(query, float(radius))
        return np.asarray(np.sort(rows))
