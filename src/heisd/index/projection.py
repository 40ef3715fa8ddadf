"""Vision keys -> at most 128 numbers: principal components of the train frames, with the recall that costs.

Keys are centred before the cosine is taken. The mean-pooled features of one policy share a large common part, so raw
cosines all lie close to 1 and float16 would round their differences away; the mean is part of the projection.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from heisd.errors import BadArtifact, BadInput
from heisd.index.record import unit
from heisd.types import FloatArray, IntArray

RECALL_RANKS = (1, 10)


@dataclass(frozen=True, slots=True)
class Projection:
    """``(key - mean) @ components``."""

    mean: FloatArray  # (D,) float32
    components: FloatArray  # (D, d) float32, orthonormal columns by falling variance

    @property
    def full_dims(self) -> int:
        """Width of the policy's key."""
        return int(self.components.shape[0])

    @property
    def n_dims(self) -> int:
        """Width of a stored key."""
        return int(self.components.shape[1])

    def __call__(self, keys: FloatArray) -> FloatArray:
        """(…, D) keys of the policy -> (…, d) float32. BadInput for another width or numbers that are not finite."""
        values = np.asarray(keys, dtype=np.float32)
        if values.shape[-1:] != (self.full_dims,) or not np.isfinite(values).all():
            raise BadInput(f"a vision key of this store is {self.full_dims} finite numbers; got shape {values.shape}")
        return np.asarray((values - self.mean) @ self.components)

    def dumps(self) -> bytes:
        """The content of ``projection.safetensors``."""
        return save({"mean": self.mean, "components": np.ascontiguousarray(self.components)})


def read_projection(path: Path) -> Projection:
    """Parse what :meth:`Projection.dumps` wrote; BadArtifact for anything else."""
    try:
        tensors = load(path.read_bytes())
        mean, components = tensors["mean"], tensors["components"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadArtifact(f"{path} is not the projection of a store: {error!r}") from None
    if components.ndim != 2 or mean.shape != components.shape[:1]:
        raise BadArtifact(f"{path} holds a mean {mean.shape} and components {components.shape} that don't fit")
    return Projection(mean, components)


def fit_projection(keys: FloatArray, n_dims: int) -> Projection:
    """Principal components of (N, D) keys; ``min(n_dims, D)`` of them. BadInput for fewer than two keys or bad ones.

    Deterministic: the sign of each component makes its largest entry positive.
    """
    values = np.asarray(keys, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise BadInput(f"a projection is fitted on at least two keys of finite numbers; got shape {values.shape}")
    if n_dims < 1:
        raise BadInput(f"a stored key has at least 1 dimension; got {n_dims}")
    mean = values.mean(axis=0)
    centred = values - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # by rising variance
    components = vectors[:, ::-1][:, :n_dims]
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(components.shape[1])])
    return Projection(mean.astype(np.float32), components.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of queries whose nearest frame by full-dimensional search is among the first k stored keys found."""

    n_queries: int
    at_1: float  # reference: cosine of centred keys, all dimensions, float32
    at_10: float
    uncentred_at_1: float  # reference: cosine of the keys as they are (HeiSD section 3.2)
    uncentred_at_10: float


def measure_recall(
    keys: FloatArray, stored: FloatArray, mean: FloatArray, shard: IntArray, episode: IntArray, queries: IntArray
) -> Recall | None:
    """Search for train frames among the frames of OTHER episodes of their task (their own would always win).

    Args: ``keys`` (N, D); ``stored`` (N, d) projected, as on disk; ``mean`` (D,); ``shard``, ``episode`` (N,);
    ``queries`` rows to look for. None when no query's task has a second episode.
    """
    centred = unit(np.asarray(keys, dtype=np.float32) - mean)
    raw = unit(np.asarray(keys, dtype=np.float32))
    projected = unit(np.asarray(stored, dtype=np.float32))
    found: dict[str, list[int]] = {"centred": [], "raw": []}
    for query, others in _candidates(shard, episode, queries):
        order = np.argsort(-(projected[others] @ projected[query]), kind="stable")
        for name, full in (("centred", centred), ("raw", raw)):
            best = int((full[others] @ full[query]).argmax())
            found[name].append(int(np.flatnonzero(order == best)[0]))
    if not found["raw"]:
        return None
    shares = [float(np.mean([rank < k for rank in found[name]])) for name in found for k in RECALL_RANKS]
    return Recall(len(found["raw"]), *shares)


def _candidates(shard: IntArray, episode: IntArray, queries: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Every query that has rows of another episode in its shard, with those rows."""
    members = {int(s): np.flatnonzero(shard == s) for s in np.unique(shard[queries])}
    for query in queries:
        rows = members[int(shard[query])]
        others = rows[episode[rows] != episode[query]]
        if len(others):
            yield int(query), others
