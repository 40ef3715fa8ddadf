"""Kalman filters that extrapolate the executed actions by one control step (KERV: prediction length 1, context 10).

``ConstantVelocity`` filters every degree of freedom by itself, in action units, with the model

    a[t+1] = a[t] + v[t] + w[t] / 2,   v[t+1] = v[t] + w[t],   z[t] = a[t] + e[t],   w ~ N(0, q),   e ~ N(0, r)

(piecewise constant acceleration, one control step apart; Bar-Shalom, Li and Kirubarajan 2001, section 6.3.2), started
by two-point differencing, so that motion of constant velocity is predicted exactly. ``TokenRandomWalk`` is what KERV's
released code does. The gripper is copied, never extrapolated: it jumps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heisd.codec import GRIPPER, ActionCodec
from heisd.errors import BadInput
from heisd.policies.protocol import Context
from heisd.propose.base import HISTORY_STEPS, History, Stateless, past_actions, past_tokens
from heisd.types import Draft, FloatArray, IntArray

CONTEXT_STEPS = 10  # KERV's action context
MIN_STEPS = 2  # a velocity needs two actions
CODE_PROCESS, CODE_MEASUREMENT, CODE_INITIAL = 1.0, 1e-3, 10.0  # KERV's released code: Q, R and P0, in tokens
_RATIOS = np.logspace(-5, 5, 61)  # process to measurement variance, as searched by fit_noise
_NO_NOISE = 1e-12  # variance given to a degree of freedom that the fit finds noiseless


@dataclass(frozen=True, slots=True)
class KalmanNoise:
    """Noise of each degree of freedom, in squared units of the action."""

    process: tuple[float, ...]  # (T,) q: variance of the acceleration per squared control step, 0 or more
    measurement: tuple[float, ...]  # (T,) r: variance of an action around the smooth motion, above 0

    def __post_init__(self) -> None:
        q, r = np.asarray(self.process), np.asarray(self.measurement)
        if q.shape != r.shape or not (np.isfinite(q) & np.isfinite(r) & (q >= 0) & (r > 0)).all():
            raise BadInput(f"noise is q >= 0 and r > 0 for every degree of freedom; got q {q} and r {r}")

    @classmethod
    def unfitted(cls, length: int) -> "KalmanNoise":
        """q = r: the gains of a filter nobody has fitted. The scale is arbitrary."""
        return cls((1.0,) * length, (1.0,) * length)


@dataclass(frozen=True, slots=True)
class _Gains:
    position: FloatArray  # (n, …) gain of the position, for the third, fourth, … measurement
    velocity: FloatArray  # (n, …)
    variance: FloatArray  # (n, …) of the innovation


class ConstantVelocity(Stateless):
    """Proposes the action that a constant-velocity filter over the last ``context_steps`` actions predicts.

    Args:
        codec: turns the prediction into tokens.
        noise: from :func:`fit_noise`; only the ratio of process to measurement shapes the prediction.
        context_steps: actions the filter reads, 2 to ``HISTORY_STEPS``.
        gate_sigma: propose nothing while the newest action is further than this many standard deviations from
            its own prediction in any degree of freedom (needs fitted noise); None: always propose.
        score: rank among other proposers' chains when a tree has no room for all.
    """

    def __init__(
        self,
        codec: ActionCodec,
        *,
        noise: KalmanNoise | None = None,
        context_steps: int = CONTEXT_STEPS,
        gate_sigma: float | None = None,
        score: float = 0.0,
    ) -> None:
        if not MIN_STEPS <= context_steps <= HISTORY_STEPS:
            raise BadInput(f"context_steps is {MIN_STEPS} to {HISTORY_STEPS}; got {context_steps}")
        if gate_sigma is not None and (noise is None or not gate_sigma > 0):
            raise BadInput(f"a gate is above 0 and needs fitted noise; got gate_sigma={gate_sigma}, noise={noise}")
        noise = KalmanNoise.unfitted(codec.length) if noise is None else noise
        if len(noise.process) != codec.length:
            raise BadInput(f"noise has {len(noise.process)} degrees of freedom; an action has {codec.length}")
        self._codec, self._score = codec, score
        self._context_steps, self._gate_sigma = context_steps, gate_sigma
        self._filtered = np.arange(codec.length) != GRIPPER
        q, r = np.asarray(noise.process)[self._filtered], np.asarray(noise.measurement)[self._filtered]
        self._gains = _gains(q, r, context_steps - MIN_STEPS)

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002 (the protocol's)
        """One chain; None with fewer than two actions, with NaN among them, or behind the gate."""
        actions, last = past_actions(history, self._context_steps), past_tokens(history, self._codec, 1)
        if actions is None or last is None or len(actions) < MIN_STEPS or len(history.settled) >= self._codec.length:
            return None
        predicted, innovations = _filter(actions[:, self._filtered], self._gains)
        if not np.isfinite(predicted).all() or self._is_gated(innovations):
            return None
        action = actions[-1].copy()
        action[self._filtered] = predicted
        tokens = _prefer(self._codec.encode(action), last[-1], self._codec)
        tokens[~self._filtered] = last[-1, ~self._filtered]
        return Draft((tuple(tokens[len(history.settled) :].tolist()),), "kalman", (self._score,))

    def _is_gated(self, innovations: list[FloatArray]) -> bool:
        if self._gate_sigma is None or not innovations:
            return False
        variance = self._gains.variance[len(innovations) - 1]
        return bool((innovations[-1] ** 2 > self._gate_sigma**2 * variance).any())


class TokenRandomWalk(Stateless):
    """KERV's released filter: a scalar random walk on token ids, Q = 1, R = 1e-3, over all remembered actions.

    Its gain is 0.999, so it all but repeats the last action. The released code filters the gripper as well;
    here it is copied, which rounds to the same token.
    """

    def __init__(self, codec: ActionCodec, *, score: float = 0.0) -> None:
        self._codec, self._score = codec, score
        self._gains = _random_walk_gains(HISTORY_STEPS - 1)

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002 (the protocol's)
        """One chain; None without usable past tokens."""
        past = past_tokens(history, self._codec, HISTORY_STEPS)
        if past is None or len(history.settled) >= self._codec.length:
            return None
        estimate = past[0].astype(np.float64)
        for tokens, gain in zip(past[1:], self._gains, strict=False):
            estimate = estimate + gain * (tokens - estimate)
        ids = np.clip(np.rint(estimate), self._codec.first_token, self._codec.vocab_size - 1).astype(np.int64)
        is_gripper = np.arange(len(ids)) == GRIPPER
        ids[is_gripper] = past[-1, is_gripper]
        return Draft((tuple(ids[len(history.settled) :].tolist()),), "kalman_code", (self._score,))


def fit_noise(episodes: Sequence[FloatArray]) -> KalmanNoise:
    """Noise under which the episodes' actions are likeliest, one degree of freedom at a time.

    Maximises the likelihood of the filter's innovations over the ratio q / r (a grid of ten decades, six points a
    decade); the scale follows in closed form (the concentrated likelihood, Harvey 1989).

    Args:
        episodes: (n, T) executed actions each, environment's convention; episodes of fewer than 3 steps say nothing.

    Raises:
        BadInput: no episode is long enough, or an action is not finite.
    """
    usable = [np.asarray(actions, dtype=np.float64) for actions in episodes if len(actions) > MIN_STEPS]
    if not usable or not all(np.isfinite(actions).all() for actions in usable):
        raise BadInput(f"noise is fitted to episodes of at least 3 finite actions; got {len(usable)} long ones")
    n_steps = max(map(len, usable)) - MIN_STEPS
    ratios = _RATIOS[:, None]
    gains = _gains(ratios, np.ones_like(ratios), n_steps)
    squares, log_variance, n = np.zeros((1, 1)), np.zeros_like(ratios), 0
    for actions in usable:
        m = len(actions) - MIN_STEPS
        _, innovations = _filter(actions[:, None, :], gains)  # m of (ratios, T)
        for innovation, variance in zip(innovations, gains.variance, strict=False):
            squares = squares + innovation**2 / variance
        log_variance = log_variance + np.log(gains.variance[:m]).sum(axis=0)
        n += m
    scale = np.maximum(squares / n, _NO_NOISE)  # (ratios, T) r of each ratio
    best = (n * np.log(scale) + log_variance).argmin(axis=0)
    r = np.take_along_axis(scale, best[None], axis=0)[0]
    return KalmanNoise(tuple((r * _RATIOS[best]).tolist()), tuple(r.tolist()))


def _gains(q: FloatArray, r: FloatArray, n_steps: int) -> _Gains:
    """Gains depend on the noise alone, so they are computed once. Starts behind the first two measurements."""
    p_xx, p_xv, p_vv = r, r, 2.0 * r + q / 4.0
    rows: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for _ in range(n_steps):
        p_xx, p_xv, p_vv = p_xx + 2.0 * p_xv + p_vv + q / 4.0, p_xv + p_vv + q / 2.0, p_vv + q
        variance = p_xx + r
        k_x, k_v = p_xx / variance, p_xv / variance
        rows.append((k_x, k_v, variance))
        p_xx, p_xv, p_vv = (1.0 - k_x) * p_xx, (1.0 - k_x) * p_xv, p_vv - k_v * p_xv
    columns = [np.asarray(column) for column in zip(*rows, strict=True)] if rows else [np.empty((0, *q.shape))] * 3
    return _Gains(*columns)


def _filter(actions: FloatArray, gains: _Gains) -> tuple[FloatArray, list[FloatArray]]:
    """(n, …) measurements, n >= 2 -> the next one predicted, and the n - 2 innovations."""
    innovations: list[FloatArray] = []
    with np.errstate(over="ignore", invalid="ignore"):  # absurdly large actions: the caller drops the result
        position, velocity = actions[1], actions[1] - actions[0]
        for measured, k_x, k_v in zip(actions[2:], gains.position, gains.velocity, strict=False):
            innovation = measured - (position + velocity)
            position, velocity = position + velocity + k_x * innovation, velocity + k_v * innovation
            innovations.append(innovation)
        return position + velocity, innovations


def _random_walk_gains(n_steps: int) -> list[float]:
    variance, gains = CODE_INITIAL, []
    for _ in range(n_steps):
        predicted = variance + CODE_PROCESS
        gains.append(predicted / (predicted + CODE_MEASUREMENT))
        variance = (1.0 - gains[-1]) * predicted
    return gains


def _prefer(tokens: IntArray, last: IntArray, codec: ActionCodec) -> IntArray:
    """``tokens``, but the last action's id where both decode to one value: a saturated action has two ids."""
    is_same = codec.bins_of_tokens(tokens) == codec.bins_of_tokens(last)
    return np.where(is_same, last, tokens)
