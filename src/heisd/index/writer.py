"""Writing a new store: shards first, the manifest last, so that a directory without one was never finished."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.files import json_bytes, write_atomic
from heisd.index.manifest import EPISODES, MANIFEST, PROJECTION, ActionStats, KeySpec, StoreManifest, TaskEntry
from heisd.index.projection import Projection, Recall
from heisd.index.record import MAX_KEY_DIMS, RowArray, row_dtype
from heisd.policies.manifest import sha256_of

MAX_STORE_MB = 60.0


@dataclass(frozen=True, slots=True)
class EpisodeOrigin:
    """Where an episode of a store came from."""

    start: str  # EpisodeStart.key
    split: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskRows:
    """One task's rows, sorted by episode and frame."""

    instruction: str
    rows: RowArray  # (N,) of heisd.index.record.row_dtype
    episodes: Sequence[EpisodeOrigin]  # by the rows' episode numbers


@dataclass(frozen=True, slots=True)
class Origin:
    """How a store came to be."""

    policy_hash: str
    encoder_hash: str
    codec: ActionCodec
    split: str
    seed: int
    command: str
    recall: Recall | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)


def write_store(
    out: Path, tasks: Sequence[TaskRows], projection: Projection, origin: Origin, *, max_mb: float = MAX_STORE_MB
) -> StoreManifest:
    """Write every file of a store, synced, and return its manifest.

    Raises BadInput when ``out`` holds a finished store or the rows exceed ``max_mb``; BadArtifact for a full disk.
    """
    require_room(out, sum(len(task.rows) for task in tasks), projection.n_dims, max_mb)
    names = [f"shards/task-{i:03d}.rows" for i in range(len(tasks))]
    table = {"shards": [[asdict(episode) for episode in task.episodes] for task in tasks]}
    contents = {PROJECTION: projection.dumps(), EPISODES: json_bytes(table)}
    contents |= {name: task.rows.tobytes() for name, task in zip(names, tasks, strict=True)}
    (out / "shards").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(out / name, content)
    manifest = StoreManifest(
        policy_hash=origin.policy_hash,
        encoder_hash=origin.encoder_hash,
        action_stats=ActionStats.of(origin.codec),
        split=origin.split,
        key=KeySpec(
            full_dims=projection.full_dims,
            n_dims=projection.n_dims,
            recall=None if origin.recall is None else asdict(origin.recall),
        ),
        tasks=tuple(
            TaskEntry(instruction=task.instruction, file=name, n_rows=len(task.rows))
            for name, task in zip(names, tasks, strict=True)
        ),
        seed=origin.seed,
        command=origin.command,
        data=dict(origin.data),
        versions=dict(origin.versions),
        files={name: sha256_of(out / name) for name in contents},
    )
    write_atomic(out / MANIFEST, manifest.dumps())
    return manifest


def require_room(out: Path, n_rows: int, n_dims: int, max_mb: float) -> None:
    """Raise BadInput for a taken directory, for keys that are too wide and for too many rows, before any work."""
    if (out / MANIFEST).exists():
        raise BadInput(f"{out} already holds a store; choose another --out, or delete it first")
    if not 1 <= n_dims <= MAX_KEY_DIMS:
        raise BadInput(f"stored keys have 1 to {MAX_KEY_DIMS} dimensions; got {n_dims}")
    size_mb = n_rows * row_dtype(n_dims).itemsize / 1e6
    if size_mb > max_mb:
        raise BadInput(
            f"{n_rows} rows of {n_dims} dimensions take {size_mb:.1f} MB, more than {max_mb:.0f}; "
            "keep fewer dimensions or a smaller share of the episodes"
        )
