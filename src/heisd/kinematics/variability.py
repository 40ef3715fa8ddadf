"""KERV's kinematic variability: how far accepted tokens were from the target's, lately, in units of usual change.

The paper names the quantity and what it decides (KERV, threshold adjustment) but prints no formula. This project's
reading, over the dimensions d of an action:

    Delta_d = bins_d (q99_d - q01_d) / 255,     K(t) = decay K(t-1) + (1 - decay) sum_d Delta_d / sigma_d

with sigma_d the standard deviation of the demonstrations' frame-to-frame change. Larger means less tolerant.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from heisd.errors import BadInput
from heisd.types import FloatArray

DECAY = 0.8
HIGH_PERCENTILE = 95.0
_BINS_ACROSS = 255.0  # bins between q01 and q99


def bin_sizes(q01: Sequence[float], q99: Sequence[float]) -> FloatArray:
    """(T,) and (T,) -> (T,) action units per bin; 0 for the gripper, the last one, which no rule relaxes."""
    sizes = (np.asarray(q99, dtype=np.float64) - np.asarray(q01, dtype=np.float64)) / _BINS_ACROSS
    sizes[-1] = 0.0
    return np.asarray(sizes)


def variability_update(
    previous: float,
    deviation_bins: Sequence[int] | FloatArray,
    sizes: FloatArray,
    sigma: Sequence[float],
    *,
    decay: float = DECAY,
) -> float:
    """K after one more control step. Pure: the caller keeps the value and starts an episode with 0.

    Args:
        previous: K before it. NaN stays NaN, which every consumer takes as not tolerant.
        deviation_bins: (T,) bins between each executed token and the target's own; 0 where it is the target's.
        sizes: (T,) from :func:`bin_sizes`.
        sigma: (T,) as in ``MotionRanges``; a dimension with 0 never changes and says nothing.
        decay: share of the past, 0 to below 1.

    Raises:
        BadInput: lengths differ, a deviation is negative or not finite, or decay is out of range.
    """
    bins, spread = np.asarray(deviation_bins, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if not bins.shape == spread.shape == np.shape(sizes) or bins.ndim != 1:
        raise BadInput(
            f"deviations, bin sizes and sigma have one number a dimension; "
            f"got shapes {bins.shape}, {np.shape(sizes)} and {spread.shape}"
        )
    if not (np.isfinite(bins) & (bins >= 0)).all():
        raise BadInput(f"deviations are counts of bins, 0 or more; got {bins.tolist()}")
    if not 0.0 <= decay < 1.0:
        raise BadInput(f"decay is 0 or more and below 1; got {decay}")
    relative = np.divide(bins * sizes, spread, out=np.zeros(len(bins)), where=spread > 0)
    return decay * previous + (1.0 - decay) * float(relative.sum())


def fit_variability_high(
    episodes: Iterable[Sequence[Sequence[int]] | FloatArray],
    sizes: FloatArray,
    sigma: Sequence[float],
    *,
    decay: float = DECAY,
    percentile: float = HIGH_PERCENTILE,
) -> float:
    """K_hi: the percentile of K over episodes played under a fixed tolerance (r = 9).

    Args:
        episodes: (n, T) deviations in bins each, one row a control step.
        sizes, sigma, decay: as in :func:`variability_update`.
        percentile: 0 to 100.

    Raises:
        BadInput: no step at all, or no deviation among them (nothing was relaxed, so nothing can be learned).
    """
    values: list[float] = []
    for episode in episodes:
        k = 0.0
        for row in episode:
            k = variability_update(k, row, sizes, sigma, decay=decay)
            values.append(k)
    high = float(np.percentile(values, percentile)) if values else math.nan
    if not high > 0:
        raise BadInput(
            f"{len(values)} steps give no positive variability at percentile {percentile}: "
            "play episodes with a relaxed rule first (tolerance 9 bins)"
        )
    return high
