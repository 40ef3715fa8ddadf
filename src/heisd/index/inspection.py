"""What ``heisd index info`` and ``heisd index check`` tell about a store; neither needs the policy."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heisd.errors import HeisdError
from heisd.files import mb_on_disk
from heisd.index.journal import FOLDER, JOURNAL, read_journal, read_tail
from heisd.index.manifest import read_manifest
from heisd.index.store import open_index
from heisd.policies.manifest import sha256_of


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store's manifest and journal say."""

    path: str
    store_sha256: str  # of the manifest, which names every file's: the same for every copy
    appended_sha256: str | None  # of the journal, which names all that was appended; None: nothing was
    policy_hash: str
    encoder_hash: str
    split: str
    n_rows: int
    n_appended_rows: int
    n_appended_episodes: int  # named in the journal; those whose rows were evicted stay until a rewrite
    rows_by_task: dict[str, int]  # instruction -> rows from demonstrations
    full_dims: int
    n_dims: int
    recall: dict[str, float] | None
    size_mb: float  # on disk, all files
    search_memory_mb: float  # float32 keys once every task has been looked up
    seed: int
    command: str
    data: dict[str, Any]
    versions: dict[str, str | None]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What reading a whole store has shown."""

    path: str
    n_rows: int
    n_appended_rows: int
    n_episodes: int
    problems: tuple[str, ...]  # empty: everything is as it should be

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"is_ok": self.is_ok}


def info(path: Path | str) -> StoreInfo:
    """Read the manifest and the journal; the other files are only measured. BadArtifact when there is no store."""
    root = Path(path)
    manifest, identity = read_manifest(root)
    journal = read_journal(root, identity, len(manifest.tasks))
    n_appended = sum(tail.end - tail.begin for tail in journal.tails.values())
    return StoreInfo(
        path=str(root),
        store_sha256=identity,
        appended_sha256=sha256_of(root / FOLDER / JOURNAL) if journal.tails else None,
        policy_hash=manifest.policy_hash,
        encoder_hash=manifest.encoder_hash,
        split=manifest.split,
        n_rows=manifest.n_rows,
        n_appended_rows=n_appended,
        n_appended_episodes=sum(len(tail.episodes) for tail in journal.tails.values()),
        rows_by_task={task.instruction: task.n_rows for task in manifest.tasks},
        full_dims=manifest.key.full_dims,
        n_dims=manifest.key.n_dims,
        recall=manifest.key.recall,
        size_mb=mb_on_disk(root),
        search_memory_mb=4 * manifest.key.n_dims * (manifest.n_rows + n_appended) / 1e6,
        seed=manifest.seed,
        command=manifest.command,
        data=manifest.data,
        versions=manifest.versions,
    )


def check(path: Path | str) -> StoreCheck:
    """Verify every file, shard and appended row, as opening does, and report instead of raising.

    Raises BadArtifact only when the directory is no store at all. Whether every start belongs to the train split is
    asked of ``heisd.sim.splits`` by :func:`heisd.train.store.check_store`.
    """
    root = Path(path)
    manifest, identity = read_manifest(root)
    problems: list[str] = []
    n_rows, n_appended, n_episodes = 0, 0, 0
    try:
        index = open_index(root, manifest)
        n_rows = index.n_rows
        n_episodes = sum(len(shard.base.episodes) for shard in index.shards)
        problems += [f"{root / t.file}: {p}" for t, s in zip(manifest.tasks, index.shards, strict=True)
                     for p in _row_problems(s.base.rows["episode"], len(s.base.episodes))]  # fmt: skip
    except HeisdError as error:
        problems.append(str(error))
    try:
        for tail in read_journal(root, identity, len(manifest.tasks)).tails.values():
            part = read_tail(root, tail, manifest.key.n_dims)
            n_appended += len(part.rows)
            problems += [f"{root / FOLDER / tail.file}: {p}" for p in _row_problems(part.rows["episode"],
                                                                                   len(part.episodes))]  # fmt: skip
    except HeisdError as error:
        problems.append(str(error))
    return StoreCheck(str(root), n_rows, n_appended, n_episodes, tuple(problems))


def _row_problems(episode: Any, n_episodes: int) -> list[str]:
    """Rows whose provenance is lost."""
    n_lost = int((episode >= n_episodes).sum())
    return [f"{n_lost} rows name an episode that is not in the table"] if n_lost else []
