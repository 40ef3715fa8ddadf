"""Exact cosine search: the third level of the look-up, and the one that decides."""

import numpy as np

from heisd.errors import BadInput
from heisd.index.record import unit
from heisd.types import FloatArray, IntArray

_UNIT_ROUNDOFF = 2.0**-24  # of float32


def searchable(keys: FloatArray) -> FloatArray:
    """(N, d) stored float16 keys -> contiguous float32 of unit length (float16 rounding changes the length)."""
    return np.ascontiguousarray(unit(np.asarray(keys, dtype=np.float32)), dtype=np.float32)


def cosine(stored: FloatArray, query: FloatArray) -> FloatArray:
    """(N, d) stored keys and (d,) query -> (N,) cosines in float64; 0 for zero vectors.

    Every row is summed on its own, so equal rows get bit-equal values whatever their neighbours are: ties are ties.
    """
    rows = unit(np.asarray(stored, dtype=np.float64))
    return np.asarray((rows * unit(np.asarray(query, dtype=np.float64))).sum(axis=-1))


def shortlist(unit_keys: FloatArray, query: FloatArray, k: int) -> IntArray:
    """Indices, ascending, of every row that may be among the ``k`` nearest, however float32 rounds.

    Args: ``unit_keys`` (N, d) float32 of :func:`searchable`; ``query`` (d,).
    A dot product of two unit vectors in float32 is off by at most d roundoffs (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); rows within twice that of the k-th best can't be told apart here.
    Raises BadInput for k < 1 or a query of another width or with numbers that are not finite.
    """
    n, d = unit_keys.shape
    unit_query = searchable_query(query, d, k)
    if n <= k:
        return np.arange(n)
    scores = unit_keys @ unit_query
    kth = np.partition(scores, n - k)[n - k]
    return np.flatnonzero(scores >= kth - margin(d))


def searchable_query(query: FloatArray, d: int, k: int) -> FloatArray:
    """(d,) float32 of unit length. Raises BadInput as :func:`shortlist` does."""
    if k < 1:
        raise BadInput(f"k must be at least 1; got {k}")
    if np.shape(query) != (d,) or not np.isfinite(query).all():
        raise BadInput(f"a key has {d} finite numbers; got shape {np.shape(query)}")
    return unit(np.asarray(query, dtype=np.float64)).astype(np.float32)


def margin(d: int) -> float:
    """Two cosines of ``d`` dimensions that differ by no more than this in float32 may stand in either order."""
    return 2 * (d + 4) * _UNIT_ROUNDOFF
