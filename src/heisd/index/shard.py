"""One task's experience: rows of demonstrations on disk, then rows appended during operation."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from heisd.errors import BadInput
from heisd.index.kinematic_bins import bin_distance, require_flat
from heisd.index.record import RowArray
from heisd.index.search import cosine, searchable, shortlist
from heisd.types import FloatArray, IntArray


@dataclass(frozen=True)
class Part:
    """Rows that came together and the episodes they belong to; never changed once made."""

    rows: RowArray  # (N,) of heisd.index.record.row_dtype; a read-only memory map for the part on disk
    episodes: tuple[str, ...]  # start of each episode, by the rows' episode numbers

    @cached_property
    def unit_keys(self) -> FloatArray:
        """(N, d) float32 of unit length, made at first use: the memory a shard costs while it is searched."""
        return searchable(self.rows["key"])


class Shard:
    """A task's rows as one sequence: ``base`` first, ``tail`` behind. Immutable: an append makes a new shard."""

    def __init__(self, base: Part, tail: Part | None = None) -> None:
        self.base, self.tail = base, tail

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts)

    @property
    def _parts(self) -> tuple[Part, ...]:
        return (self.base,) if self.tail is None else (self.base, self.tail)

    @cached_property
    def unit_keys(self) -> FloatArray:
        """(N, d) float32, contiguous; the demonstrations' own array where nothing was appended."""
        return self.base.unit_keys if self.tail is None else np.concatenate([part.unit_keys for part in self._parts])

    def with_tail(self, tail: Part) -> Self:
        """The same demonstrations with other appended rows."""
        return type(self)(self.base, tail)

    def shortlist(self, key: FloatArray, k: int) -> IntArray:
        """Numbers of every row that may be among the ``k`` nearest; see :func:`heisd.index.search.shortlist`."""
        return shortlist(self.unit_keys, key, k)

    def take(self, rows: IntArray) -> RowArray:
        """(K,) copies of the rows with these numbers."""
        if self.tail is None:
            return np.asarray(self.base.rows[rows])
        n_base = len(self.base.rows)
        is_base = rows < n_base
        taken = np.empty(len(rows), dtype=self.base.rows.dtype)
        taken[is_base] = self.base.rows[rows[is_base]]
        taken[~is_base] = self.tail.rows[rows[~is_base] - n_base]
        return taken

    def chain(self, row: int, horizon: int) -> IntArray:
        """(h, 7) bins of a row's action and of those that followed it in its episode, 1 <= h <= ``horizon``.

        Shorter than asked for at an episode's end: nothing is made up. Raises BadInput for horizon < 1.
        """
        if horizon < 1:
            raise BadInput(f"a chain has at least one action; got horizon {horizon}")
        n_base = len(self.base.rows)
        part, offset = (self.base, row) if self.tail is None or row < n_base else (self.tail, row - n_base)
        length = min(horizon, 1 + int(part.rows["n_following"][offset]))
        return np.array(part.rows["bins"][offset : offset + length])

    def start_of(self, row: int, episode: int) -> str:
        """Start of the episode ``episode`` that row number ``row`` belongs to."""
        part = self.base if self.tail is None or row < len(self.base.rows) else self.tail
        return part.episodes[episode]

    def nearest(self, key: FloatArray, proprio: FloatArray, k: int) -> "Ranking":
        """The ``k`` rows of highest cosine. Equal cosines: nearer kinematic cells first, then older rows.

        Args: ``key`` (d,) projected; ``proprio`` (25,). Equal to brute force in float64 over the stored keys.
        Raises BadInput for wrong shapes and numbers that are not finite.
        """
        require_flat(proprio)
        rows = self.shortlist(key, k)
        records = self.take(rows)
        similarity = cosine(records["key"], key)
        order = np.argsort(-similarity, kind="stable")  # older rows first; the shortlist is in their order
        best = similarity[order]
        if (best[1:] == best[:-1]).any():
            order = np.lexsort((rows, bin_distance(proprio, records["proprio"]), -similarity))
        order = order[:k]
        return Ranking(rows[order], records[order], similarity[order], proprio)


@dataclass(frozen=True)
class Ranking:
    """K rows of a shard, best first."""

    rows: IntArray  # (K,) row numbers
    records: RowArray  # (K,) copies of the rows
    similarity: FloatArray  # (K,) cosine in float64
    proprio: FloatArray  # (25,) now

    @cached_property
    def bin_distance(self) -> IntArray:
        """(K,) kinematic cells between then and now."""
        return bin_distance(self.proprio, self.records["proprio"])
