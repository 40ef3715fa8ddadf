"""Training targets derived from demonstrations. numpy only."""

import numpy as np
import numpy.typing as npt

from heisd.types import FloatArray, IntArray


def next_event_offset_m(eef_pos_m: FloatArray, is_closing: npt.NDArray[np.bool_], episode: IntArray) -> FloatArray:
    """(N, 3) vector from the hand to where it will be when the gripper command next changes [m].

    The place of the next grasp or release is what vision has to find, so predicting it is a dense,
    label-free auxiliary task. Frames after an episode's last change point at its last frame.

    Args: ``eef_pos_m`` (N, 3), ``is_closing`` (N,) gripper command, ``episode`` (N,) episode number.
    """
    n = len(episode)
    where = np.empty(n, dtype=np.int64)
    following = n - 1
    for i in range(n - 1, -1, -1):
        last_of_episode = i == n - 1 or episode[i] != episode[i + 1]
        if last_of_episode or is_closing[i] != is_closing[i + 1]:
            following = i
        where[i] = following
    return np.asarray(eef_pos_m[where] - eef_pos_m, dtype=np.float32)


def action_quantiles(actions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """q01 and q99 of every action dimension (OpenVLA's normalisation), (7,) each."""
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def holdout_mask(episode: IntArray, every: int) -> npt.NDArray[np.bool_]:
    """(N,) True for frames of every ``every``-th episode: the offline part of validation (still train starts)."""
    return np.asarray(episode % every == every - 1, dtype=np.bool_)
