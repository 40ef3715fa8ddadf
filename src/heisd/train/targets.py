"""Training targets derived from demonstrations. numpy only."""

import numpy as np

from heisd.types import BoolArray, FloatArray, IntArray

GRASPING = 1  # the experts' phase of closing the fingers (heisd.sim.experts.primitives.Phase.GRASP)
STARTING_STEPS = 4  # of a grasp, in which open fingers have not begun to move yet
STILL_M_S = 0.012  # below it the fingers have met something (the experts' own measure)


def next_event_offset_m(eef_pos_m: FloatArray, is_closing: BoolArray, episode: IntArray) -> FloatArray:
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


def holdout_mask(episode: IntArray, every: int) -> BoolArray:
    """(N,) True for frames of every ``every``-th episode: the offline part of validation (still train starts)."""
    return np.asarray(episode % every == every - 1, dtype=np.bool_)


def chunk_indices(episode: IntArray, horizon: int) -> IntArray:
    """(N, horizon) frames whose actions follow each frame, itself first; beyond its episode the last frame again.

    Args: ``episode`` (N,) episode of each frame, contiguous.
    """
    n = len(episode)
    is_last = np.append(episode[1:] != episode[:-1], True)
    last = np.flatnonzero(is_last)
    end = last[np.searchsorted(last, np.arange(n))]
    return np.asarray(np.minimum(np.arange(n)[:, None] + np.arange(horizon), end[:, None]))


def waiting_mask(finger_speed_m_s: FloatArray, phase: IntArray, is_closing: BoolArray, episode: IntArray) -> BoolArray:
    """(N,) frames in which an expert only makes sure of its grasp: fingers closed around something and still.

    Experts wait two control steps there before they lift. A policy without memory cannot count to two: in the same
    state half of the labels say stay and half say lift, and one that decodes "stay" has stopped for good.

    Args:
        finger_speed_m_s: (N,) speed of the opening between the fingers, either sign.
        phase: (N,) expert phase, 1 while grasping.
        is_closing: (N,) whether the command closes the fingers.
        episode: (N,) episode of each frame, contiguous.
    """
    grasping = (phase == GRASPING) & is_closing
    starts = grasping & ~np.concatenate([[False], grasping[:-1] & (episode[1:] == episode[:-1])])
    index = np.arange(len(phase))
    began = np.maximum.accumulate(np.where(starts, index, 0))
    return np.asarray(grasping & (index - began >= STARTING_STEPS) & (np.abs(finger_speed_m_s) < STILL_M_S))
