"""Intervals for success rates, paired differences and ratios of sums. Pure functions; empty input gives None."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

Z95 = 1.959963984540054
_BOOTSTRAP_ROUNDS = 4000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> tuple[float, float]:
        """The interval as a pair."""
        return (self.low, self.high)


def wilson(successes: int, n: int) -> Estimate | None:
    """Success rate with Wilson's score interval (Wilson 1927); None without episodes."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} episodes")
    if n == 0:
        return None
    rate, z2 = successes / n, Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends of the range the formula is exact only up to rounding.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Estimate(rate, low, high)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate | None:
    """Rate of ``second`` minus rate of ``first`` on the same episodes, with Tango's score interval.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908. Unlike the bootstrap it does not collapse
    to a point when the two never differ.
    """
    if len(first) != len(second):
        raise ValueError(f"paired samples of unequal length: {len(first)} and {len(second)}")
    n = len(first)
    if n == 0:
        return None
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    value = (gained - lost) / n
    low = -1.0 if value == -1 else _score_root(gained, lost, n, Z95, -1.0, value)
    high = 1.0 if value == 1 else _score_root(gained, lost, n, -Z95, value, 1.0)
    return Estimate(value, low, high)


def _score_root(gained: int, lost: int, n: int, target: float, low: float, high: float) -> float:
    """Where Tango's score statistic, which falls from +inf at -1 to -inf at +1, equals ``target``."""
    eps = 1e-12
    return float(brentq(lambda d: _score(gained, lost, n, d) - target, low + eps, high - eps, xtol=1e-12))


def _score(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's statistic for H0: true difference = ``difference``."""
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    lost_rate = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * lost_rate + difference * (1 - difference))
    shift = gained - lost - n * difference
    return 0.0 if shift == 0 else float(shift / np.sqrt(max(variance, 1e-300)))


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """Sum of numerators over sum of denominators (one pair per episode), interval by episode bootstrap.

    Percentile bootstrap with 4,000 resamples from a fixed seed, so a result repeats exactly.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"need one numerator per denominator, got shapes {top.shape} and {bottom.shape}")
    if top.size == 0 or bottom.sum() <= 0:
        return None
    rng, ratios = np.random.default_rng(seed), []
    for _ in range(_BOOTSTRAP_ROUNDS):
        chosen = rng.integers(0, top.size, top.size)
        if (weight := bottom[chosen].sum()) > 0:
            ratios.append(top[chosen].sum() / weight)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """``{n, p50, p95, p99, mean}``; every figure but ``n`` is None when there are no values."""
    if len(values) == 0:
        return {"n": 0, "p50": None, "p95": None, "p99": None, "mean": None}
    p50, p95, p99 = (round(float(p), 4) for p in np.percentile(values, [50, 95, 99]))
    return {"n": len(values), "p50": p50, "p95": p95, "p99": p99, "mean": round(float(np.mean(values)), 4)}
