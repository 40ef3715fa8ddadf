"""Motions and ranges for the kinematics tests."""

from typing import Any

import numpy as np

from heisd.kinematics import Motion, MotionRanges, fit_ranges
from heisd.types import Proprioception

OPEN, CLOSED = -1.0, 1.0


def motion_of(
    positions_m: np.ndarray, *, actions: np.ndarray | None = None, widths_m: np.ndarray | None = None, **others: Any
) -> Motion:
    """A motion with the given positions; what is left out is at rest and open."""
    n = len(positions_m)
    if actions is None:
        actions = np.zeros((max(n - 1, 0), 7))
        actions[:, 6] = OPEN
    widths = np.full(n, 0.078) if widths_m is None else np.asarray(widths_m)
    fingers = np.column_stack([widths / 2, -widths / 2])
    return Motion(np.asarray(positions_m, float), np.tile([0.0, 0.0, 0.0, 1.0], (n, 1)), fingers, actions, **others)


def episode(seed: int, n: int = 60) -> Motion:
    """A smooth random motion of a few millimetres a step, with matching actions."""
    rng = np.random.default_rng(seed)
    moves = np.cumsum(rng.normal(0, 0.002, (n - 1, 3)), axis=0)
    moves *= np.minimum(1.0, 0.015 / np.linalg.norm(moves, axis=1, keepdims=True))
    positions = np.vstack([np.zeros(3), np.cumsum(moves, axis=0)]) + [0.0, 0.0, 1.0]
    turns = np.cumsum(rng.normal(0, 0.01, (n - 1, 3)), axis=0)
    gripper = np.where(np.arange(n - 1) > n // 2, CLOSED, OPEN)[:, None]
    return motion_of(positions, actions=np.hstack([moves / 0.015, turns, gripper]))


def proprioception(rng: np.random.Generator, n: int) -> list[Proprioception]:
    """n poses that have nothing to do with each other."""
    sizes = (3, 4, 2, 2, 7, 7)
    return [Proprioception(*(rng.normal(size=size).astype(np.float32) for size in sizes)) for _ in range(n)]


def ranges(**options: Any) -> MotionRanges:
    """Ranges of six such episodes."""
    return fit_ranges([episode(seed) for seed in range(6)], **({"suite": "toy", "window": 15} | options))


def last(motion: Motion, n: int) -> Motion:
    """The newest n poses and the actions between them."""
    n_actions = min(len(motion.actions), max(n - 1, 0))
    return Motion(
        motion.eef_pos_m[-n:],
        motion.eef_quat_xyzw[-n:],
        motion.gripper_qpos_m[-n:],
        motion.actions[len(motion.actions) - n_actions :],
    )
