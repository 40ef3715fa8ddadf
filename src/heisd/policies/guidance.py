"""Chunks that come late: what the robot executes meanwhile is frozen, the rest is pulled towards the chunk in hand.

Real-time chunking (RTC, arXiv 2506.07339, section 4) denoises a new chunk as an in-painting of the old one: whole
weight on the actions that are executed before it can be there, a weight that falls behind them, none where the old
chunk has nothing. In this project's convention (t = 1 noise, t = 0 clean; RTC counts the other way) one step reads

    endpoint = x - t * v                    where the expert thinks the clean chunk is
    pull     = J^T ((wanted - endpoint) * weights)      J = d endpoint / d x
    v        <- v - min(max_weight, ((1 - t)^2 + t^2) / (t (1 - t))) * pull

Pure functions of numbers; who differentiates is the policy's business. Shapes: H horizon, T numbers of an action.
"""

import math
from dataclasses import dataclass

import numpy as np

from heisd.types import FloatArray

MAX_WEIGHT = 5.0  # RTC's beta in its Kinetix experiments, which take five flow steps


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What a chunk is pulled towards while it is denoised."""

    wanted: FloatArray  # (H, T) float32 normalised; anything where the weight is 0
    weights: FloatArray  # (H,) float32 in [0, 1]
    max_weight: float = MAX_WEIGHT


def soft_mask(n_frozen: int, n_known: int, horizon: int) -> FloatArray:
    """(H,) float32: 1 for frozen actions, falling behind them (RTC's exponential schedule), 0 from ``n_known`` on.

    Args:
        n_frozen: actions that will be executed before the new chunk is there (RTC's d).
        n_known: actions that the old chunk has from now on (RTC's H - s).
        horizon: H.
    """
    start, place = min(n_frozen, n_known), np.arange(horizon)
    linear = np.clip((start - 1 - place) / (n_known - start + 1) + 1, 0.0, 1.0)
    weights = linear * np.expm1(linear) / math.expm1(1.0)
    return np.where(place < n_known, weights, 0.0).astype(np.float32)


def guidance_weight(t: float, max_weight: float = MAX_WEIGHT) -> float:
    """How strongly the chunk is pulled at level ``t`` in (0, 1]; without a bound it is infinite at t = 1."""
    if t >= 1.0:
        return max_weight
    return min(max_weight, ((1.0 - t) ** 2 + t**2) / (t * (1.0 - t)))
