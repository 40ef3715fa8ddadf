"""How predictable demonstrations are: the figures that decide whether drafting on them is too easy.

Drafting is measured as everywhere in this project: a proposal of seven tokens is accepted up to its first
wrong one, the target's own next token not counted, so acceptance is between 0 and 7.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from heisd.codec import N_BINS, ActionCodec
from heisd.errors import BadInput
from heisd.types import FloatArray, IntArray

PERSISTENCE_LIMIT = 1.3  # accepted tokens; more and the demonstrations are too regular


@dataclass(frozen=True, slots=True)
class Regularity:
    """Draftability of a set of demonstrations without any policy."""

    n_frames: int
    entropy_bits: tuple[float, ...]  # (7,) of the tokens of each dimension, over all frames
    change_entropy_bits: tuple[float, ...]  # (7,) of the difference to the previous control step's tokens
    persistence_acceptance: float  # mean accepted tokens when the previous control step is proposed
    neighbour_acceptance: float | None  # … the nearest frame of another episode of the task; None: there is none
    saturated_share: tuple[float, ...]  # (7,) share of tokens in the two outermost bins

    @property
    def passes_gate(self) -> bool:
        """Whether repeating the previous action is as hard as the gate asks."""
        return self.persistence_acceptance <= PERSISTENCE_LIMIT

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"persistence_limit": PERSISTENCE_LIMIT, "passes_gate": self.passes_gate}


def measure(
    actions: FloatArray, proprio: FloatArray, episode: IntArray, task: IntArray, codec: ActionCodec | None = None
) -> Regularity:
    """The figures for N frames: actions (N, 7), proprioception (N, 25), episode (N,) and task (N,) numbers.

    The codec defaults to one with the q01 and q99 of ``actions``. Raises BadInput when no episode has two frames.
    """
    codec = codec or default_codec(actions)
    bins = np.minimum(codec.encode_bins(actions), N_BINS - 2)
    later = np.flatnonzero(episode[1:] == episode[:-1]) + 1
    if not len(later):
        raise BadInput("regularity needs episodes of at least two frames")
    neighbours = nearest_in_other_episodes(proprio, episode, task)
    has_neighbour = neighbours >= 0
    by_neighbour = accepted_prefix(bins[neighbours], bins)[has_neighbour]
    return Regularity(
        n_frames=len(actions),
        entropy_bits=token_entropy(bins),
        change_entropy_bits=token_entropy(bins[later] - bins[later - 1]),
        persistence_acceptance=float(accepted_prefix(bins[later - 1], bins[later]).mean()),
        neighbour_acceptance=float(by_neighbour.mean()) if has_neighbour.any() else None,
        saturated_share=tuple(((bins == 0) | (bins == N_BINS - 2)).mean(axis=0).tolist()),
    )


def default_codec(actions: FloatArray, vocab_size: int = N_BINS) -> ActionCodec:
    """OpenVLA's normalisation with the statistics of ``actions`` (N, 7) themselves."""
    low, high = np.quantile(np.asarray(actions, dtype=np.float64), [0.01, 0.99], axis=0)
    return ActionCodec.from_stats(vocab_size, low.tolist(), high.tolist())


def token_entropy(tokens: IntArray) -> tuple[float, ...]:
    """(N, D) integers -> D entropies [bits] of their empirical distributions."""
    entropies = []
    for column in np.asarray(tokens).T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        entropies.append(float(-(share * np.log2(share)).sum()))
    return tuple(entropies)


def accepted_prefix(proposed: IntArray, target: IntArray) -> IntArray:
    """(N, D) proposals and truths -> (N,) number of leading tokens that agree."""
    return np.asarray(np.cumprod(np.asarray(proposed) == np.asarray(target), axis=1).sum(axis=1))


def nearest_in_other_episodes(features: FloatArray, episode: IntArray, task: IntArray) -> IntArray:
    """(N,) index of the nearest frame that is of the same task but another episode; -1 where there is none.

    Distances are Euclidean after scaling every feature to unit variance over all frames.
    """
    spread = features.std(axis=0)
    scaled = (features / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    nearest = np.full(len(features), -1, dtype=np.int64)
    for number in np.unique(task):
        rows = np.flatnonzero(task == number)
        for own in np.unique(episode[rows]):
            inside = episode[rows] == own
            if inside.all():
                continue
            others, mine = rows[~inside], rows[inside]
            distance = (scaled[others] ** 2).sum(axis=1) - 2.0 * scaled[mine] @ scaled[others].T
            nearest[mine] = others[distance.argmin(axis=1)]
    return nearest
