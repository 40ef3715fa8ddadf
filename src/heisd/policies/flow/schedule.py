"""Noise levels. One convention everywhere, that of openpi's and LeRobot's code (pi0, section IV, runs the other way):

    x_t = t * noise + (1 - t) * actions        t = 1 is noise, t = 0 is clean
    v_t = noise - actions                      what the action expert predicts
    x_0 = x_t - t * v_t                        the endpoint that one prediction points to

Integration runs from t = 1 to t = 0 in equal Euler steps. Training draws t from Beta(1.5, 1) * 0.999 + 0.001.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from heisd.types import FloatArray

BETA_A, BETA_B, TIME_SCALE, TIME_OFFSET = 1.5, 1.0, 0.999, 0.001  # openpi's sample_time
MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0  # of the sines that describe t


def euler_times(n_steps: int) -> tuple[float, ...]:
    """Levels at which the velocity is asked for: 1, 1 - 1/N, …, 1/N."""
    return tuple(1.0 - i / n_steps for i in range(n_steps))


def integrate(velocity: Callable[[Tensor, int], Tensor], noise: Tensor, n_steps: int) -> Tensor:
    """Euler from t = 1 to t = 0, from ``noise``; ``velocity(x, i)`` is asked at ``euler_times(n_steps)[i]``."""
    x = noise.clone()
    for i in range(n_steps):
        x.sub_(velocity(x, i), alpha=1.0 / n_steps)
    return x


def noised(actions: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t; ``t`` broadcasts against the other two."""
    return t * noise + (1.0 - t) * actions


def endpoint(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The clean actions that one prediction at level ``t`` points to."""
    return x - t * velocity


def sample_times(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Training's noise levels, float32 in (0, 1]: more of them near the noise, where one step decides most."""
    return np.asarray(rng.beta(BETA_A, BETA_B, shape) * TIME_SCALE + TIME_OFFSET, dtype=np.float32)


def time_features(t: Tensor, width: int) -> Tensor:
    """(…,) levels -> (…, width): sines, then cosines, of periods from 0.004 to 4 on a geometric scale."""
    share = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=t.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** share
    angle = t.double()[..., None] * (2.0 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], -1).float()
