"""The fixed-size record of one remembered control step, the same on disk, in the append log and in memory.

Fixed size makes an append one write and a truncation one subtraction. The action is kept as bin numbers of the
policy's own codec, so the gripper is in model space (1 open, 0 closed) and never as the environment's -1/+1: the
released HeiSD code stores the latter, and its verification then compares opening with closing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from heisd.codec import N_BINS, ActionCodec
from heisd.errors import BadInput
from heisd.policies.proprio import FLAT_SIZE
from heisd.types import FloatArray, IntArray

MAX_KEY_DIMS = 128
N_ACTION = 7

RowArray = npt.NDArray[np.void]  # (N,) of row_dtype
Uint8Array = npt.NDArray[np.uint8]


def row_dtype(n_dims: int) -> np.dtype[Any]:
    """Little-endian layout of one row; 376 bytes at 128 dimensions, 120 + 2 * n_dims in general."""
    return np.dtype(
        [
            ("key", "<f2", (n_dims,)),  # unit length up to rounding; all zeros: resembles nothing
            ("proprio", "<f4", (FLAT_SIZE,)),  # m, rad, m/s, rad/s in the order of heisd.policies.proprio
            ("episode", "<u4"),  # row of the shard's table of episodes
            ("frame", "<u4"),  # control step within that episode
            ("n_following", "<u4"),  # how many of the next rows continue this episode, step by step
            ("phase", "u1"),
            ("bins", "u1", (N_ACTION,)),  # 0-255, token = vocab_size - 1 - bin
        ]
    )


def make_rows(
    keys: FloatArray, proprio: FloatArray, episode: IntArray, frame: IntArray, phase: IntArray, bins: IntArray
) -> RowArray:
    """Columns of N rows -> (N,) records; keys are scaled to unit length, ``n_following`` is derived.

    Args: ``keys`` (N, d) projected; ``proprio`` (N, 25); ``episode``, ``frame``, ``phase`` (N,); ``bins`` (N, 7).
    Raises BadInput for wrong shapes, for numbers that are not finite and for bins or phases outside 0-255.
    """
    keys = np.asarray(keys)
    if keys.ndim != 2 or not np.isfinite(keys).all():
        raise BadInput(f"keys must be (rows, dimensions) finite numbers; got shape {keys.shape}")
    n = len(keys)
    columns = {"proprio": proprio, "episode": episode, "frame": frame, "phase": phase, "bins": bins}
    rows = np.zeros(n, dtype=row_dtype(keys.shape[1]))
    for name, values in columns.items():
        expected = rows[name].shape
        if np.shape(values) != expected or not np.isfinite(values).all():
            raise BadInput(f"{name} of {n} rows must be {expected} finite numbers; got shape {np.shape(values)}")
        if name in ("phase", "bins") and n and not 0 <= np.min(values) <= np.max(values) < N_BINS:
            raise BadInput(f"{name} must lie in 0-{N_BINS - 1}; got {np.min(values)} to {np.max(values)}")
        if name in ("episode", "frame") and n and np.min(values) < 0:
            raise BadInput(f"{name} numbers start at 0; got {np.min(values)}")
        rows[name] = values
    rows["key"] = unit(keys)
    rows["n_following"] = count_following(rows["episode"], rows["frame"])
    return rows


def unit(vectors: FloatArray) -> FloatArray:
    """(N, d) -> the same directions with length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))


def count_following(episode: IntArray, frame: IntArray) -> IntArray:
    """(N,) how many rows behind each one continue its episode without a gap.

    A length, not zero-padded actions: those of the released HeiSD code look like real ones at an episode's end.
    """
    episode, frame = np.asarray(episode, dtype=np.int64), np.asarray(frame, dtype=np.int64)
    n = len(episode)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    breaks = np.flatnonzero((np.diff(episode) != 0) | (np.diff(frame) != 1))
    ends = np.append(breaks, n - 1)  # last row of every unbroken run
    return np.asarray(ends[np.searchsorted(ends, np.arange(n))] - np.arange(n))


def bins_of_action_tokens(codec: ActionCodec, tokens: IntArray) -> Uint8Array:
    """(…, 7) vocabulary ids of executed actions -> (…, 7) bins 0-255. BadInput for ids that are no action tokens.

    Unlike ``codec.bins_of_tokens`` it keeps bin 255 apart from 254: both decode alike but are different tokens,
    and exact verification compares tokens.
    """
    ids = np.asarray(tokens)
    if ids.shape[-1:] != (N_ACTION,) or not np.issubdtype(ids.dtype, np.integer):
        raise BadInput(f"an action is {N_ACTION} integer token ids; got {ids.dtype} of shape {ids.shape}")
    bins = codec.vocab_size - 1 - ids.astype(np.int64)
    if bins.size and not 0 <= bins.min() <= bins.max() < N_BINS:
        raise BadInput(
            f"token ids {ids.min()} to {ids.max()} are not all action tokens "
            f"({codec.first_token}-{codec.vocab_size - 1}); a policy that answers in words has nothing to remember"
        )
    return bins.astype(np.uint8)
