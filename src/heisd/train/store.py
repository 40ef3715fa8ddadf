"""Experience -> store, keyed by the policy's own vision tower (HeiSD section 3.2: train frames only)."""

import hashlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heisd.bench.provenance import versions
from heisd.errors import BadInput, LeakError
from heisd.index.inspection import StoreCheck
from heisd.index.inspection import check as check_files
from heisd.index.journal import read_journal
from heisd.index.manifest import TRAIN, StoreManifest, read_manifest
from heisd.index.projection import Projection, Recall, fit_projection, measure_recall
from heisd.index.record import MAX_KEY_DIMS, make_rows
from heisd.index.routing import normal_form
from heisd.index.store import read_episodes
from heisd.index.writer import MAX_STORE_MB, Origin, TaskRows, require_room, write_store
from heisd.policies.manifest import FORMAT
from heisd.policies.seeing import SeeingNetwork
from heisd.sim.dataset import read_spec
from heisd.sim.demos import load_demos
from heisd.sim.splits import parse_start, require_train
from heisd.train.experience import (
    Demonstrations,
    Encoding,
    EpisodeInfo,
    Frames,
    OwnEpisodes,
    Progress,
    Source,
    picture_size_px,
)
from heisd.train.rollouts import SUITES
from heisd.types import FloatArray, IntArray

_ENCODER_PARTS = ("vision_backbone.", "projector.", "camera_embedding")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The recipe of a store."""

    n_dims: int = MAX_KEY_DIMS  # of a stored key, at most; a narrower policy key keeps its width
    share: float = 1.0  # of each task's episodes, at least one (HeiSD's ablation of the store's size)
    seed: int = 0  # of the choice of episodes and of the recall queries
    batch_size: int = 64  # frames per forward of the vision tower
    recall_queries: int = 512
    max_mb: float = MAX_STORE_MB

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"share is the kept part of the episodes, in (0, 1]; got {self.share}")
        if min(self.batch_size, self.n_dims) < 1 or self.recall_queries < 0:
            raise BadInput(f"batch_size and n_dims are at least 1 and recall_queries at least 0; got {self}")


def run(
    data: Sequence[Path], rollouts: Path | None, out: Path, weights: str, config: StoreConfig, *,
    command: Sequence[str] = (), progress: Progress | None = None,
) -> StoreManifest:  # fmt: skip
    """The core of ``heisd index build``: load a policy and its experience by name, build the store.

    ``data`` are demonstration data sets, ``rollouts`` a directory of the policy's own episodes: one of the two.
    ``weights`` may be ``default``: the policy shipped for the first data set's suite.
    Raises what :func:`build_store` does, and UnknownName, BadArtifact, DatasetError for the inputs.
    """
    if bool(data) == (rollouts is not None):
        raise BadInput("a store is built from --data (demonstrations) or from --rollouts (the policy's own): give one")
    require_room(out, 0, config.n_dims, config.max_mb)
    policy, source = _experience(data, rollouts, weights)
    return build_store(source, policy, out, config, policy_hash=policy.policy_hash, command=shlex.join(command),
                       progress=progress)  # fmt: skip


def _experience(data: Sequence[Path], rollouts: Path | None, weights: str) -> tuple[Encoding, Source]:
    """The policy and what it is to remember; rollouts are of token policies, whose prompts they have recorded."""
    from heisd.bench.weights import require_policy, resolve_weights
    from heisd.policies.bundle import load_policy
    from heisd.policies.loading import load_any

    directory = resolve_weights(weights, read_spec(data[0]).suite if data else SUITES[0])
    if rollouts is not None:
        require_policy(directory, FORMAT, "--rollouts", "build its store from demonstrations: --data DIR")
        of_tokens = load_policy(directory)
        return of_tokens, OwnEpisodes.read(rollouts, of_tokens)
    policy = load_any(directory)
    return policy, Demonstrations(load_demos(data, picture_size_px(policy)), policy)


def build_store(
    source: Source,
    policy: Encoding,
    out: Path,
    config: StoreConfig | None = None,
    *,
    policy_hash: str,
    command: str = "",
    progress: Progress | None = None,
) -> StoreManifest:
    """Choose episodes, project their keys, write one shard per instruction.

    ``policy_hash`` is the identity that the store is checked against when it is opened (``describe_weights``).
    Raises LeakError for episodes that are not from the train split, BadInput for a taken ``out`` and for too many rows.
    """
    config = config or StoreConfig()
    for episode in source.episodes:
        require_train(episode.start)
    n_dims = min(config.n_dims, policy.config.decoder.hidden_size)
    chosen = _chosen_episodes(source.episodes, config)
    require_room(out, sum(source.episodes[number].n_frames for number in chosen), n_dims, config.max_mb)
    frames = source.frames(chosen, config.batch_size, progress)
    projection = fit_projection(frames.keys, n_dims)
    shards = _shards(source.episodes, frames)
    tasks, stored = _task_rows(source.episodes, frames, shards, projection(frames.keys))
    return write_store(
        out,
        tasks,
        projection,
        Origin(
            policy_hash=policy_hash,
            encoder_hash=encoder_hash(policy.model),
            codec=policy.codec,
            split=TRAIN,
            seed=config.seed,
            command=command,
            recall=_recall(frames, shards, stored, projection, config),
            data={**source.note, "n_episodes": sum(len(task.episodes) for task in tasks),
                  "share": config.share, "cameras": list(policy.config.cameras)},
            versions=versions(),
        ),
        max_mb=config.max_mb,
    )  # fmt: skip


def encoder_hash(model: SeeingNetwork) -> str:
    """sha256 of everything a vision key depends on: towers, projector, camera embedding, as float32."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(_ENCODER_PARTS):
            array = value.detach().float().contiguous().numpy(force=True)
            digest.update(f"{name} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def check_store(path: Path | str) -> StoreCheck:
    """The core of ``heisd index check``: the files, and that every start belongs to the train split.

    Episodes appended in free operation may have any name; those that have a start's are held to the same.
    """
    report = check_files(path)
    if report.problems:
        return report
    manifest, identity = read_manifest(Path(path))
    starts = [start for shard in read_episodes(Path(path), len(manifest.tasks)) for start in shard]
    appended = [start for tail in read_journal(Path(path), identity, len(manifest.tasks)).tails.values()
                for start in tail.episodes if _is_start(start)]  # fmt: skip
    problems = []
    for start in starts + appended:
        try:
            require_train(parse_start(start))
        except (LeakError, BadInput) as error:
            problems.append(str(error))
    return replace(report, problems=tuple(dict.fromkeys(problems)))


def _is_start(name: str) -> bool:
    try:
        parse_start(name)
    except BadInput:
        return False
    return True


def _chosen_episodes(episodes: Sequence[EpisodeInfo], config: StoreConfig) -> IntArray:
    """``share`` of each instruction's episodes; a smaller share is a subset of a larger one."""
    rng = np.random.default_rng([config.seed, 0])
    chosen: list[int] = []
    for group in _by_instruction(episodes).values():
        order = rng.permutation(group)
        chosen += order[: math.ceil(config.share * len(group))].tolist()
    return np.asarray(sorted(chosen))


def _by_instruction(episodes: Sequence[EpisodeInfo]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault(normal_form(episode.instruction), []).append(number)
    return groups


def _shards(episodes: Sequence[EpisodeInfo], frames: Frames) -> IntArray:
    """(N,) shard of every frame: one per instruction."""
    of_episode = np.zeros(len(episodes), dtype=np.int64)
    for shard, group in enumerate(_by_instruction(episodes).values()):
        of_episode[group] = shard
    return np.asarray(of_episode[frames.episode])


def _task_rows(
    episodes: Sequence[EpisodeInfo], frames: Frames, shards: IntArray, projected: FloatArray
) -> tuple[list[TaskRows], FloatArray]:
    """Shards by instruction, and the stored keys in the order of ``frames``."""
    stored = np.empty(projected.shape, dtype=np.float16)
    tasks = []
    for shard in np.unique(shards):
        mine = np.flatnonzero(shards == shard)
        kept, number = np.unique(frames.episode[mine], return_inverse=True)
        rows = make_rows(
            projected[mine], frames.proprio[mine], number, frames.frame[mine], frames.phase[mine], frames.bins[mine]
        )
        stored[mine] = rows["key"]
        table = [episodes[int(number)].origin for number in kept]
        tasks.append(TaskRows(episodes[int(kept[0])].instruction, rows, table))
    return tasks, stored


def _recall(
    frames: Frames, shards: IntArray, stored: FloatArray, projection: Projection, config: StoreConfig
) -> Recall | None:
    """What the projection and float16 cost, measured on a sample of the stored frames."""
    if not config.recall_queries:
        return None
    n = len(stored)
    rng = np.random.default_rng([config.seed, 1])
    queries = np.sort(rng.choice(n, min(config.recall_queries, n), replace=False))
    return measure_recall(frames.keys, stored, projection.mean, shards, frames.episode, queries)
