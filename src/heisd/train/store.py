"""Demonstrations -> experience store, with the policy's own vision tower (HeiSD section 3.2: train frames only)."""

import hashlib
import logging
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from heisd.bench.provenance import versions
from heisd.codec import ActionCodec
from heisd.errors import BadInput, LeakError
from heisd.index.inspection import StoreCheck
from heisd.index.inspection import check as check_files
from heisd.index.manifest import TRAIN, StoreManifest, read_manifest
from heisd.index.projection import Projection, Recall, fit_projection, measure_recall
from heisd.index.record import MAX_KEY_DIMS, make_rows
from heisd.index.routing import normal_form
from heisd.index.store import read_episodes
from heisd.index.writer import MAX_STORE_MB, EpisodeOrigin, Origin, TaskRows, require_room, write_store
from heisd.policies.config import SeeingConfig
from heisd.policies.images import ImageStack
from heisd.policies.seeing import SeeingNetwork
from heisd.sim.dataset import read_spec
from heisd.sim.demos import Demos, load_demos
from heisd.sim.splits import EpisodeStart, parse_condition, require_train
from heisd.types import FloatArray, IntArray

log = logging.getLogger(__name__)

_ENCODER_PARTS = ("vision_backbone.", "projector.", "camera_embedding")
_LOG_EVERY = 50  # batches
Progress = Callable[[int, int], None]  # frames done, frames in all


class Encoding(Protocol):
    """The part of a policy, of either kind, whose keys and actions a store holds."""

    @property
    def config(self) -> SeeingConfig: ...

    @property
    def model(self) -> SeeingNetwork: ...

    @property
    def codec(self) -> ActionCodec: ...

    @property
    def device(self) -> torch.device: ...


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
    data: Sequence[Path], out: Path, weights: str, config: StoreConfig, *, command: Sequence[str] = (),
    progress: Progress | None = None,
) -> StoreManifest:  # fmt: skip
    """The core of ``heisd index build``: load a policy and data sets by name, build the store.

    ``weights`` may be ``default``: the policy shipped for the first data set's suite.
    Raises what :func:`build_store` does, and UnknownName, BadArtifact, DatasetError for the inputs.
    """
    from heisd.bench.weights import describe_weights, resolve_weights
    from heisd.policies.loading import load_any

    require_room(out, 0, config.n_dims, config.max_mb)
    directory = resolve_weights(weights, read_spec(data[0]).suite if data else "")
    policy = load_any(directory)
    demos = load_demos(data, _picture_size_px(policy))
    policy_hash = describe_weights(directory)["sha256"]
    return build_store(demos, policy, out, config, policy_hash=policy_hash, command=shlex.join(command),
                       progress=progress)  # fmt: skip


def build_store(
    demos: Demos,
    policy: Encoding,
    out: Path,
    config: StoreConfig | None = None,
    *,
    policy_hash: str,
    command: str = "",
    progress: Progress | None = None,
) -> StoreManifest:
    """Encode every frame, project the keys, write one shard per instruction.

    ``policy_hash`` is the identity that the store is checked against when it is opened (``describe_weights``).
    Actions are the clean labels as bins of the policy's codec: exactly the tokens it was trained on.
    Raises LeakError for episodes that are not from the train split, BadInput for a policy without eyes, for
    demonstrations of unknown origin, for a taken ``out`` and for too many rows.
    """
    config = config or StoreConfig()
    _require_train_episodes(demos)
    chosen = np.flatnonzero(np.isin(demos.episode, _chosen_episodes(demos, config)))
    _picture_size_px(policy)
    n_dims = min(config.n_dims, policy.config.decoder.hidden_size)
    require_room(out, len(chosen), n_dims, config.max_mb)
    keys = vision_keys(policy, demos, chosen, config.batch_size, progress)
    projection = fit_projection(keys, n_dims)
    tasks, stored = _task_rows(demos, policy, chosen, projection(keys))
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
            recall=_recall(demos, chosen, keys, stored, projection, config),
            data={"fingerprint": demos.fingerprint, "n_episodes": sum(len(task.episodes) for task in tasks),
                  "share": config.share, "cameras": list(policy.config.cameras)},
            versions=versions(),
        ),
        max_mb=config.max_mb,
    )  # fmt: skip


@torch.inference_mode()
def vision_keys(
    policy: Encoding, demos: Demos, frames: IntArray, batch_size: int, progress: Progress | None = None
) -> FloatArray:
    """(len(frames), D) float32: ``policy.encode(observation).vision_key`` of these frames, many at a time."""
    stack, device = ImageStack(policy.config), policy.device
    keys = []
    for begin in range(0, len(frames), batch_size):
        pictures = [stack(dict(zip(demos.cameras, demos.images[i], strict=True)))
                    for i in frames[begin : begin + batch_size]]  # fmt: skip
        patches = policy.model.patches(torch.stack(pictures).to(device))
        keys.append(patches.float().mean(dim=1).numpy(force=True))
        done = begin + len(pictures)
        if progress is not None:
            progress(done, len(frames))
        elif begin // batch_size % _LOG_EVERY == 0:
            log.info("encoded %d of %d frames", done, len(frames))
    return np.concatenate(keys).astype(np.float32)


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
    """The core of ``heisd index check``: the files, and that every start belongs to the train split."""
    report = check_files(path)
    if report.problems:
        return report
    manifest, _ = read_manifest(Path(path))
    starts = [start for shard in read_episodes(Path(path), len(manifest.tasks)) for start in shard]
    problems = []
    for start in starts:
        try:
            require_train(parse_start(start))
        except (LeakError, BadInput) as error:
            problems.append(str(error))
    return replace(report, problems=tuple(dict.fromkeys(problems)))


def parse_start(key: str) -> EpisodeStart:
    """Inverse of ``EpisodeStart.key``; BadInput for text that isn't one."""
    try:
        suite, task, where, condition = key.split("/")
        is_shipped = where.startswith("init")
        number = int(where.removeprefix("init" if is_shipped else "seed"))
        return EpisodeStart(suite, int(task.removeprefix("task")), number if is_shipped else None,
                            None if is_shipped else number, parse_condition(condition))  # fmt: skip
    except ValueError:
        raise BadInput(
            f"{key!r} is not the key of an episode start, such as libero_goal/task03/init07/shipped"
        ) from None


def _picture_size_px(policy: Encoding) -> int:
    """Side of the pictures the policy takes; BadInput for a blind one."""
    if policy.config.vision is None:
        raise BadInput("a blind policy has no vision key, so there is nothing to look up by; choose a seeing one")
    return policy.config.vision.image_size


def _require_train_episodes(demos: Demos) -> None:
    if not len(demos):
        raise BadInput("there are no demonstrations to build a store from; make some: heisd collect")
    if len(demos.provenance) != len(demos.instructions):
        raise BadInput(
            f"{len(demos.instructions)} episodes but {len(demos.provenance)} origins: demonstrations of unknown origin "
            "might be evaluation episodes; read them with load_demos"
        )
    for origin in demos.provenance:
        require_train(origin.start)


def _chosen_episodes(demos: Demos, config: StoreConfig) -> IntArray:
    """``share`` of each instruction's episodes; a smaller share is a subset of a larger one."""
    rng = np.random.default_rng([config.seed, 0])
    chosen: list[int] = []
    for episodes in _episodes_by_instruction(demos).values():
        order = rng.permutation(episodes)
        chosen += order[: math.ceil(config.share * len(episodes))].tolist()
    return np.asarray(sorted(chosen))


def _episodes_by_instruction(demos: Demos) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for episode, instruction in enumerate(demos.instructions):
        groups.setdefault(normal_form(instruction), []).append(episode)
    return groups


def _task_rows(
    demos: Demos, policy: Encoding, chosen: IntArray, projected: FloatArray
) -> tuple[list[TaskRows], FloatArray]:
    """Shards by instruction, and the stored keys in the order of ``chosen``."""
    stored = np.empty(projected.shape, dtype=np.float16)
    tasks = []
    for episodes in _episodes_by_instruction(demos).values():
        mine = np.flatnonzero(np.isin(demos.episode[chosen], episodes))
        frames = chosen[mine]
        kept, number = np.unique(demos.episode[frames], return_inverse=True)
        first = np.searchsorted(demos.episode, kept)  # episodes are contiguous and sorted in Demos
        rows = make_rows(
            projected[mine], demos.proprio[frames], number, frames - first[number], demos.phase[frames],
            policy.codec.encode_bins(demos.actions[frames]),
        )  # fmt: skip
        stored[mine] = rows["key"]
        origins = [demos.provenance[e] for e in kept]
        table = [EpisodeOrigin(o.start.key, str(o.start.split), o.attempt) for o in origins]
        tasks.append(TaskRows(demos.instructions[kept[0]], rows, table))
    return tasks, stored


def _recall(
    demos: Demos, chosen: IntArray, keys: FloatArray, stored: FloatArray, projection: Projection, config: StoreConfig
) -> Recall | None:
    """What the projection and float16 cost, measured on a sample of the stored frames."""
    if not config.recall_queries:
        return None
    rng = np.random.default_rng([config.seed, 1])
    queries = rng.choice(len(chosen), min(config.recall_queries, len(chosen)), replace=False)
    shards = {e: i for i, group in enumerate(_episodes_by_instruction(demos).values()) for e in group}
    episode = demos.episode[chosen]
    shard = np.asarray([shards[int(e)] for e in episode])
    return measure_recall(keys, stored, projection.mean, shard, episode, np.sort(queries))
