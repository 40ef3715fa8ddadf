"""Acceptance of drafted chunks: how many leading actions may be executed. Pure functions of arrays.

Endpoint estimates (FLASH, arXiv 2605.13778): a draft is noised to a level t, the action expert predicts the velocity
there, and x - t * v is where it thinks the clean chunk is. By the definitions

    endpoint - draft = t * ((noise - draft) - v)

so a tolerance on the distance at level t bounds the velocity's residual by tolerance / t. FLASH's one tolerance for all
levels is therefore strictest at the largest t; tolerances in proportion to t are equally strict at all of them
(:meth:`EndpointTest.in_velocity`), and several noises at one level test nothing but the noise.

The gripper is never judged by distance: what it is about to do is looked at apart.
Shapes: C drafts, K levels, H horizon, T numbers of an action, n actions that may be executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from heisd.accept import HEISD_PAPER
from heisd.codec import GRIPPER, N_BINS
from heisd.errors import BadInput
from heisd.types import ChunkVerdict, FloatArray, StopReason

MAX_LEVELS = 8
GOOD_BINS = HEISD_PAPER.max_token_bins  # as for tokens: no motion number further from the policy's own


class ChunkRule(Protocol):
    """What the engine calls, and what it has to prepare for it."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise levels at which endpoints are wanted."""
        ...

    @property
    def shares_noise(self) -> bool:
        """Whether all levels are reached with the same noise."""
        ...

    def judge(
        self, drafts: FloatArray, sources: Sequence[str], endpoints: FloatArray, n_executable: int, last_gripper: float
    ) -> ChunkVerdict:
        """The best of (C, H, T) ``drafts`` by their (C, K, H, T) ``endpoints``.

        ``sources`` name each draft's proposer, ``n_executable`` of its actions may be executed, ``last_gripper`` is
        the normalised gripper of the action executed last.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndpointTest:
    """A draft's actions are accepted as long as every level's endpoint is within its tolerance; the gripper apart.

    Args:
        levels: noise levels t in (0, 1].
        tolerances: one per level, root mean square over the six motion numbers, in normalised units.
        shares_noise: one noise for all levels, as published; or one each.
        verify_stop: nothing is accepted if any endpoint's gripper is about to move (FLASH, gripper verify-stop).
        post_cut: what is accepted ends before the draft's own gripper moves (FLASH, post-cut).

    Raises BadInput for levels outside (0, 1], for more than MAX_LEVELS of them, and for tolerances below 0.
    """

    levels: tuple[float, ...]
    tolerances: tuple[float, ...]
    shares_noise: bool = True
    verify_stop: bool = True
    post_cut: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= MAX_LEVELS or not all(0.0 < t <= 1.0 for t in self.levels):
            raise BadInput(f"noise levels are 1 to {MAX_LEVELS} numbers above 0, at most 1; got {self.levels}")
        if len(self.tolerances) != len(self.levels) or not all(0.0 <= d < np.inf for d in self.tolerances):
            raise BadInput(f"one tolerance of 0 or more for each of {self.levels}; got {self.tolerances}")

    @classmethod
    def uniform(cls, levels: Sequence[float], tolerance: float, **options: bool) -> Self:
        """The same tolerance at every level, as published."""
        return cls(tuple(levels), (tolerance,) * len(levels), **options)

    @classmethod
    def in_velocity(cls, levels: Sequence[float], residual: float, **options: bool) -> Self:
        """Tolerances in proportion to the levels: the velocity's residual is bounded by ``residual`` at all of them."""
        return cls(tuple(levels), tuple(residual * t for t in levels), **options)

    @classmethod
    def one_level(cls, level: float, n_noises: int, tolerance: float, **options: bool) -> Self:
        """The same level several times, each with a noise of its own."""
        return cls((level,) * n_noises, (tolerance,) * n_noises, shares_noise=False, **options)

    def judge(
        self, drafts: FloatArray, sources: Sequence[str], endpoints: FloatArray, n_executable: int, last_gripper: float
    ) -> ChunkVerdict:
        """Keep most actions; of equal numbers the nearest to its endpoints; then the one that comes first."""
        distances = motion_distances(endpoints, drafts)[..., :n_executable]
        lengths = accepted_lengths(distances, self.tolerances)
        verdicts = []
        for c, n in enumerate(lengths.tolist()):
            reason = StopReason.COMPLETE if n == n_executable else StopReason.OVER_TOLERANCE
            grippers = (drafts[c, :n_executable, GRIPPER], endpoints[c, :, :n_executable, GRIPPER])
            n, reason = self._guarded(n, reason, *grippers, last_gripper)
            verdicts.append((n, float(-distances[c].mean()), -c, reason))
        n, _, place, reason = max(verdicts, key=lambda found: found[:3])
        return ChunkVerdict(drafts[-place], n, reason, sources[-place])

    def _guarded(
        self, n: int, reason: StopReason, draft: FloatArray, endpoints: FloatArray, last_gripper: float
    ) -> tuple[int, StopReason]:
        """What is left of ``n`` accepted actions when the gripper, (m,) drafted and (K, m) estimated, is looked at."""
        if self.verify_stop and any(first_crossing(row, last_gripper) is not None for row in endpoints):
            return 0, StopReason.GRIPPER
        crossing = first_crossing(draft[:n], last_gripper) if self.post_cut else None
        return (n, reason) if crossing is None else (crossing, StopReason.GRIPPER)


def motion_distances(endpoints: FloatArray, drafts: FloatArray) -> FloatArray:
    """(C, K, H) root mean square over position and rotation between (C, K, H, T) endpoints and (C, H, T) drafts."""
    gap = endpoints[..., :GRIPPER] - drafts[:, None, :, :GRIPPER]
    return np.asarray(np.sqrt(np.mean(np.square(gap), axis=-1)))


def accepted_lengths(distances: FloatArray, tolerances: Sequence[float]) -> npt.NDArray[np.int64]:
    """(C,) leading actions within tolerance at every level, from (C, K, n) distances. NaN is never within."""
    is_near = distances <= np.asarray(tolerances)[:, None]
    return np.asarray(np.cumprod(is_near.all(axis=1), axis=-1).sum(axis=-1), dtype=np.int64)


def first_crossing(gripper: FloatArray, before: float) -> int | None:
    """The first of (m,) normalised gripper values on the other side of 0 than the value before it; None: no such.

    0 itself closes, as in ``ActionCodec.denormalise_chunk``; ``before`` precedes the first value.
    """
    closes = np.concatenate([[before], gripper]) >= 0.0
    changes = np.flatnonzero(closes[1:] != closes[:-1])
    return int(changes[0]) if len(changes) else None


def path_bins(chunks: FloatArray, truth: FloatArray) -> FloatArray:
    """(…, n) how far a chunk's actions have led from where the true one's had by then, in bins per action of the chunk.

    Motion numbers are displacements, so differences add up, or cancel: the largest sum in any motion number up to an
    action, divided by n, of (…, n, T) normalised actions. 256 bins make up [-1, 1], and beyond them nothing moves.
    """
    gap = np.clip(chunks[..., :GRIPPER], -1.0, 1.0) - np.clip(truth[..., :GRIPPER], -1.0, 1.0)
    apart = np.abs(np.cumsum(gap, axis=-2)).max(axis=-1) / gap.shape[-2]
    return np.asarray(np.maximum.accumulate(apart, axis=-1) * (N_BINS - 1) / 2)


def good_actions(chunks: FloatArray, truth: FloatArray, max_bins: float = GOOD_BINS) -> npt.NDArray[np.bool_]:
    """(…, n) whether executing a chunk in place of the true one is right, up to each of its actions.

    The path stays within what n skipped token actions could lead astray, each at most ``max_bins`` off, and the gripper
    is equal. ``n`` is the number of actions that would be executed.
    """
    has_same_gripper = (chunks[..., GRIPPER] >= 0.0) == (truth[..., GRIPPER] >= 0.0)
    return np.asarray((path_bins(chunks, truth) <= max_bins) & has_same_gripper)
