"""``MotionRanges`` from demonstrations."""

import math
from collections.abc import Iterable

import numpy as np

from heisd.errors import BadInput
from heisd.kinematics.circle import MIN_POINTS, Distance, Solver, displacement_m, spread_m
from heisd.kinematics.fineness import mean_rotation_change, mean_translation
from heisd.kinematics.motion import ACTION_SIZE, Motion
from heisd.kinematics.ranges import MotionRanges, normalised
from heisd.types import FloatArray

TOP_PERCENTILE = 95.0  # HeiSD: the top of D and of R
THRESHOLD_PERCENTILE = 25.0  # HeiSD: theta is this percentile of F


def fit_ranges(
    episodes: Iterable[Motion],
    *,
    suite: str,
    window: int,
    alpha: float = 0.5,
    solver: Solver = Solver.CENTROID,
    distance: Distance = Distance.PATH,
    threshold_percentile: float = THRESHOLD_PERCENTILE,
) -> MotionRanges:
    """Ranges from whole episodes, by the readings that a run computes, its short first windows included.

    D and R from their smallest value to their 95th percentile, theta as the 25th percentile of F (HeiSD section 3.2),
    the speed gate as the same percentile of the speed; mu95 and nu95 as 95th percentiles (DyQ-VLA); sigma as
    the standard deviation of the frame-to-frame change of the actions (KERV, this project's reading).

    Args:
        episodes: one ``Motion`` per demonstration, with every pose and the actions between them.
        suite: what they are demonstrations of.
        window: w, positions in the window of F (HeiSD: 15 in the paper, 5 in the code).
        alpha, solver, distance: as in ``MotionRanges``.
        threshold_percentile: of F and of the speed; more makes fewer steps tolerant.

    Raises:
        BadInput: the window is below 3 positions, or no episode has 3 finite positions and 2 actions.
    """
    if window < MIN_POINTS:
        raise BadInput(f"a window has at least {MIN_POINTS} positions; got {window}")
    rows: list[FloatArray] = [np.empty((0, 5))]
    changes: list[FloatArray] = [np.empty((0, ACTION_SIZE))]
    for episode in episodes:
        rows.append(_episode_rows(episode, window, solver, distance))
        changes.append(np.diff(np.asarray(episode.actions, dtype=np.float64), axis=0))
    all_rows, all_changes = np.concatenate(rows), np.concatenate(changes)
    usable = all_rows[np.isfinite(all_rows[:, :3]).all(axis=1)]
    translation, turn = (column[np.isfinite(column)] for column in all_rows[:, 3:].T)
    all_changes = all_changes[np.isfinite(all_changes).all(axis=1)]
    if not (len(usable) and len(translation) and len(turn) and len(all_changes)):
        raise BadInput("ranges are fitted to episodes of at least 3 finite positions with 2 actions; there is none")
    D, R, speed = usable[:, 0], usable[:, 1], usable[:, 2]
    top_d, top_r, top_speed = (_percentile(values, TOP_PERCENTILE) for values in (D, R, speed))
    low_d, low_r = float(D.min()), float(R.min())
    F = [
        alpha * normalised(r, low_r, top_r) + (1.0 - alpha) * normalised(d, low_d, top_d)
        for d, r in zip(D.tolist(), R.tolist(), strict=True)
    ]
    return MotionRanges(
        suite=suite,
        window=window,
        alpha=alpha,
        solver=solver,
        distance=distance,
        displacement_min_m=low_d,
        displacement_max_m=top_d,
        spread_min_m=low_r,
        spread_max_m=top_r,
        fused_threshold=_percentile(np.asarray(F), threshold_percentile),
        speed_gate_mm=_percentile(speed, threshold_percentile),
        speed_high_mm=top_speed,
        translation_high=_percentile(translation, TOP_PERCENTILE),
        rotation_change_high=_percentile(turn, TOP_PERCENTILE),
        action_change_sigma=tuple(all_changes.std(axis=0).tolist()),
    )


def _episode_rows(episode: Motion, window: int, solver: Solver, distance: Distance) -> FloatArray:
    """(n, 5) D, R, speed [mm], mean translation and mean rotation change as known at each pose; NaN where undefined."""
    positions, actions = np.asarray(episode.eef_pos_m, dtype=np.float64), episode.actions
    first_action = len(positions) - len(actions)  # the pose that the first action has led to
    rows = np.full((len(positions), 5), math.nan)
    for end in range(1, len(positions) + 1):
        recent, done = positions[max(end - window, 0) : end], actions[: max(end - first_action, 0)]
        if len(recent) > 1:
            speed_mm = 1e3 * float(np.linalg.norm(recent[-1] - recent[-2]))
            rows[end - 1, :3] = displacement_m(recent, distance), spread_m(recent, solver), speed_mm
        rows[end - 1, 3:] = mean_translation(done), mean_rotation_change(done)
    return rows


def _percentile(values: FloatArray, percentile: float) -> float:
    return float(np.percentile(values, percentile))
