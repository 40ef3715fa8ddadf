"""KERV's kinematic variability: how far accepted tokens were from the target's, lately, in units of usual change.

The paper names the quantity and what it decides (KERV, threshold adjustment) but prints no formula. This project's
reading, over the dimensions d of an action:

    Delta_d = bins_d (q99_d - q01_d) / 255,   M_d(t) = decay M_d(t-1) + (1 - decay) Delta_d,   K = sum_d M_d / sigma_d

with sigma_d the standard deviation of the demonstrations' frame-to-frame change. Larger means less tolerant. M is
what the engine remembers of an episode, whoever decides in it; K is a reading of ``PhaseSignal``.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from heisd.errors import BadInput
from heisd.types import FloatArray, IntArray

DECAY = 0.8
HIGH_PERCENTILE = 95.0
_BINS_ACROSS = 255.0  # bins between q01 and q99


def bin_sizes(q01: Sequence[float], q99: Sequence[float]) -> FloatArray:
    """(T,) and (T,) -> (T,) action units per bin; 0 for the gripper, the last one, which no rule relaxes."""
    sizes = (np.asarray(q99, dtype=np.float64) - np.asarray(q01, dtype=np.float64)) / _BINS_ACROSS
    sizes[-1] = 0.0
    return np.asarray(sizes)


def faded(previous: FloatArray, deviation: FloatArray | float, *, decay: float = DECAY) -> FloatArray:
    """M after one more control step; an episode begins with zeros.

    Args:
        previous: (T,) M before it [action units].
        deviation: (T,) between the executed action and the target's own [action units], 0 or more; 0: none.
        decay: share of the past, 0 to below 1.
    """
    return np.asarray(decay * previous + (1.0 - decay) * deviation)


def variability(deviation: FloatArray, sigma: Sequence[float]) -> float:
    """K of a faded deviation, 0 or more; NaN where a number is.

    Args:
        deviation: (T,) from :func:`faded`.
        sigma: (T,) as in ``MotionRanges``; a dimension with 0 never changes and says nothing.
    """
    spread = np.asarray(sigma, dtype=np.float64)
    return float(np.divide(deviation, spread, out=np.zeros(len(spread)), where=spread > 0).sum())


def fit_variability_high(
    episodes: Iterable[Sequence[Sequence[int]] | FloatArray | IntArray],
    sizes: FloatArray,
    sigma: Sequence[float],
    *,
    decay: float = DECAY,
    percentile: float = HIGH_PERCENTILE,
) -> float:
    """K_hi: the percentile of K over episodes played under a fixed tolerance (r = 9).

    Args:
        episodes: (n, T) deviations in bins each, one row a control step; 0 where a token is the target's own.
        sizes: (T,) from :func:`bin_sizes`.
        sigma, decay: as in :func:`variability` and :func:`faded`.
        percentile: 0 to 100.

    Raises:
        BadInput: lengths differ, a deviation is negative or not finite, decay is out of range, there is no step at
            all, or no deviation among them (nothing was relaxed, so nothing can be learned).
    """
    if not 0.0 <= decay < 1.0:
        raise BadInput(f"decay is 0 or more and below 1; got {decay}")
    values: list[float] = []
    for episode in episodes:
        rows = np.asarray(episode, dtype=np.float64)
        if rows.ndim != 2 or not rows.shape[1:] == np.shape(sizes) == np.shape(sigma):
            raise BadInput(
                f"deviations, bin sizes and sigma have one number a dimension; "
                f"got shapes {rows.shape}, {np.shape(sizes)} and {np.shape(sigma)}"
            )
        if not (np.isfinite(rows) & (rows >= 0)).all():
            raise BadInput(f"deviations are counts of bins, 0 or more; got {rows.tolist()}")
        deviation: FloatArray = np.zeros(len(sizes))
        for row in rows:
            deviation = faded(deviation, row * sizes, decay=decay)
            values.append(variability(deviation, sigma))
    high = float(np.percentile(values, percentile)) if values else math.nan
    if not high > 0:
        raise BadInput(
            f"{len(values)} steps give no positive variability at percentile {percentile}: "
            "play episodes with a relaxed rule first (tolerance 9 bins)"
        )
    return high
