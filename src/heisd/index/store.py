"""The experience store: a directory that is verified when it is opened, searched exactly, and appended to safely.

manifest.json           identity, provenance, hashes            heisd.index.manifest
projection.safetensors  vision key -> stored key                heisd.index.projection
episodes.json           where every episode came from
shards/task-000.rows    one memory-mapped file per task         heisd.index.record
appended/               rows verified during operation          heisd.index.journal
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.files import read_json
from heisd.index.journal import AppendLog, rows_that_fit
from heisd.index.lookup import Index, Neighbours
from heisd.index.manifest import (
    EPISODES,
    MANIFEST,
    PROJECTION,
    StoreManifest,
    read_manifest,
    require_policy,
    require_train,
    verify_files,
)
from heisd.index.projection import read_projection
from heisd.index.record import bins_of_action_tokens, make_rows, row_dtype
from heisd.index.shard import Part, Shard
from heisd.index.writer import MAX_STORE_MB
from heisd.types import FloatArray, IntArray, TokenOrigin

log = logging.getLogger(__name__)

VERIFIED = frozenset({TokenOrigin.DECODED, TokenOrigin.ACCEPTED})  # the target's own choice, guessed by somebody or not


@dataclass(frozen=True, slots=True)
class Experience:
    """T control steps of one episode, as the engine lived through them."""

    keys: FloatArray  # (T, D) vision keys of the policy
    proprio: FloatArray  # (T, 25) flat proprioception
    frame: IntArray  # (T,) control step, rising; gaps where steps were left out
    phase: IntArray  # (T,)
    tokens: IntArray  # (T, 7) vocabulary ids of the executed actions
    origins: Sequence[Sequence[TokenOrigin]]  # T x 7


class Store:
    """An open store. Use as a context manager when it is opened for appending."""

    def __init__(self, root: Path, manifest: StoreManifest, index: Index, log: AppendLog | None) -> None:
        """Use :meth:`open`."""
        self.root, self.manifest, self.index = root, manifest, index
        self._log = log

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        policy_hash: str,
        codec: ActionCodec,
        encoder_hash: str | None = None,
        max_appended_rows: int = 0,
        max_mb: float = MAX_STORE_MB,
        backend: str = "numpy",
    ) -> Self:
        """Verify every file and map it. ``backend`` is ``numpy`` or ``faiss``; both find the same rows.

        ``max_appended_rows`` bounds what is remembered from operation, per task; with 0 appended rows are neither
        read nor written, so that an evaluation repeats whatever ran before it. ``max_mb`` bounds the store on disk, all
        files and moments included [MB of 10^6 bytes]: fewer rows are remembered where it leaves room for fewer.

        Raises BadArtifact for a store of other weights or action statistics, or with a file that is missing,
        truncated, swapped or damaged (the message names the file), LeakError for one with evaluation episodes,
        UnknownName for another backend, MissingExtra where faiss is not installed, BadInput where ``max_mb`` leaves no
        room for appended rows.
        """
        root, shard_type = Path(path), _shard_type(backend)
        manifest, identity = read_manifest(root)
        require_policy(root, manifest, policy_hash, codec, encoder_hash)
        index = open_index(root, manifest, shard_type)
        if max_appended_rows < 0:
            raise BadInput(f"max_appended_rows is 0 (nothing) or more; got {max_appended_rows}")
        appends = None
        if max_appended_rows:
            max_rows = _rows_with_room(root, manifest, max_appended_rows, max_mb)
            appends = AppendLog(root, identity, len(manifest.tasks), manifest.key.n_dims, max_rows)
            for task, part in appends.parts.items():
                index.shards[task] = index.shards[task].with_tail(part)
        return cls(root, manifest, index, appends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process append; look-ups go on working."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def lookup(self, instruction: str, key: FloatArray, proprio: FloatArray, k: int) -> Neighbours | None:
        """The ``k`` most similar frames; see :meth:`heisd.index.lookup.Index.lookup`."""
        return self.index.lookup(instruction, key, proprio, k)

    def append(self, instruction: str, experience: Experience, start: str) -> None:
        """Remember verified steps of one episode; on disk, and found by look-ups, when this returns.

        ``start`` says where they come from (``EpisodeStart.key``, or any name in free operation).
        Raises UnknownName for an instruction that is no task's own, BadInput for a store not opened for appending,
        for actions with a token that the target did not choose, for a ``start`` that is too long and for arrays that
        don't fit, BadArtifact when the disk is full (nothing has changed).
        """
        if self._log is None:
            raise BadInput("this store is not open for appending; open it with max_appended_rows > 0")
        route = self.index.router.route(instruction)
        if route is None or route.text_similarity < 1.0:
            raise UnknownName("instruction", instruction, self.index.instructions)
        _require_verified(experience)
        rows = make_rows(
            self.index.projection(experience.keys),
            experience.proprio,
            np.zeros(len(experience.frame), dtype=np.int64),
            experience.frame,
            experience.phase,
            bins_of_action_tokens(self.manifest.action_stats.codec(), experience.tokens),
        )
        part = self._log.append(route.shard, rows, start)
        self.index.shards[route.shard] = self.index.shards[route.shard].with_tail(part)

    def remembers(self, start: str) -> bool:
        """Whether an episode of this name is in the store, from demonstrations or appended."""
        parts = (part for shard in self.index.shards for part in (shard.base, shard.tail) if part is not None)
        return any(start in part.episodes for part in parts)

    @property
    def n_appended_rows(self) -> int:
        """Live rows from operation."""
        return sum(len(shard.tail.rows) for shard in self.index.shards if shard.tail is not None)


def _rows_with_room(root: Path, manifest: StoreManifest, asked: int, max_mb: float) -> int:
    """Rows per task that may be appended: those asked for, or as many as leave the whole store within ``max_mb``."""
    own_bytes = sum((root / name).stat().st_size for name in (MANIFEST, *manifest.files))
    n_fit = rows_that_fit(1e6 * max_mb - own_bytes, len(manifest.tasks), manifest.key.n_dims)
    if not n_fit:
        raise BadInput(
            f"{root} takes {own_bytes / 1e6:.1f} MB of at most {max_mb:g}: there is no room for appended rows; open it "
            "with max_appended_rows=0, or build one with a smaller --share"
        )
    if n_fit < asked:
        log.warning("%s: %d rows per task fit into %g MB; %d were asked for", root, n_fit, max_mb, asked)
    return min(asked, n_fit)


def _shard_type(backend: str) -> type[Shard]:
    if backend == "numpy":
        return Shard
    if backend != "faiss":
        raise UnknownName("search backend", backend, ("numpy", "faiss"))
    from heisd.index.faiss_backend import FaissShard

    return FaissShard


def open_index(root: Path, manifest: StoreManifest, shard_type: type[Shard] = Shard) -> Index:
    """Everything but the appended rows, verified. Raises BadArtifact and LeakError as :meth:`Store.open` does."""
    require_train(root, manifest.split)
    verify_files(root, manifest)
    projection = read_projection(root / PROJECTION)
    spec = manifest.key
    if (projection.full_dims, projection.n_dims) != (spec.full_dims, spec.n_dims):
        raise BadArtifact(
            f"{root / PROJECTION} projects {projection.full_dims} to {projection.n_dims} dimensions, "
            f"the manifest says {spec.full_dims} to {spec.n_dims}"
        )
    episodes = read_episodes(root, len(manifest.tasks))
    dtype = row_dtype(spec.n_dims)
    # As plain arrays over the map: every slice of an np.memmap is one more of these, made in Python.
    shards = [
        shard_type(Part(np.asarray(np.memmap(root / task.file, dtype=dtype, mode="r")), starts))
        for task, starts in zip(manifest.tasks, episodes, strict=True)
    ]
    return Index([task.instruction for task in manifest.tasks], shards, projection)


def read_episodes(root: Path, n_tasks: int) -> list[tuple[str, ...]]:
    """Starts of every shard's episodes. Raises LeakError when one is not from the train split."""
    table: dict[str, Any] = read_json(root / EPISODES, hint="; build the store again")
    try:
        shards = [[(str(row["start"]), str(row["split"])) for row in shard] for shard in table["shards"]]
    except (KeyError, TypeError) as error:
        raise BadArtifact(f"{root / EPISODES} is not a table of episodes: {error!r}") from None
    if len(shards) != n_tasks:
        raise BadArtifact(f"{root / EPISODES} lists {len(shards)} shards, the manifest {n_tasks}")
    for split in sorted({split for shard in shards for _, split in shard}):
        require_train(root, split, EPISODES)
    return [tuple(start for start, _ in shard) for shard in shards]


def _require_verified(experience: Experience) -> None:
    n, origins = len(experience.frame), experience.origins
    if n == 0 or len(origins) != n or any(len(step) != np.shape(experience.tokens)[-1] for step in origins):
        raise BadInput(f"{n} steps need one origin per token each, and at least one step; got {len(origins)} steps")
    if (np.diff(np.asarray(experience.frame, dtype=np.int64)) <= 0).any():
        raise BadInput("the frames of an appended episode must rise")
    bad = [int(t) for t, step in zip(experience.frame, origins, strict=True) if not VERIFIED.issuperset(step)]
    if bad:
        raise BadInput(
            f"steps {bad[:5]} hold tokens that are not the policy's own choice; only actions of "
            f"{', '.join(sorted(VERIFIED))} tokens may be remembered: leave those steps out"
        )
