"""Appending demonstrations so that a kill at any byte leaves a readable data set.

An episode exists once its metadata file does: its data file is written first, both by rename, so a kill
leaves at most an unfinished file or a data file without metadata. :class:`DatasetWriter` sweeps those on
opening; readers never look at them.
"""

import fcntl
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa

from heisd.errors import DatasetError
from heisd.files import TEMP_SUFFIX
from heisd.sim import lerobot_format as layout
from heisd.sim.dataset import DatasetSpec, Episode, EpisodeEntry, compute_stats, lerobot_state, read_entries
from heisd.sim.splits import require_train

log = logging.getLogger(__name__)

IMAGE_STATS_EVERY = 10  # frames; statistics of pictures need no more
STATS_EVERY = 50  # episodes between two rewrites of meta/stats.json


class DatasetWriter:
    """Appends episodes. Only one writer may have a data set open; readers may come at any time."""

    def __init__(self, root: Path | str, spec: DatasetSpec) -> None:
        """Create the data set or continue it. Raises DatasetError if it belongs to another specification."""
        self.root, self.spec = Path(root), spec
        self._lock = _lock(self.root)
        try:
            _require_same_spec(self.root, spec)
            self.entries = read_entries(self.root) if (self.root / layout.INFO).exists() else []
            _sweep(self.root, len(self.entries))
            layout.write_json(self.root / layout.MANIFEST, spec.as_dict())
            tasks = layout.parquet_bytes(layout.tasks_table(spec.instructions))
            layout.write_atomic(self.root / layout.TASKS, tasks)
            self._write_info()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self.entries and not isinstance(value, DatasetError):
                self.finalise()
        finally:
            self._lock.close()

    @property
    def n_frames(self) -> int:
        """Frames on disk."""
        return sum(entry.length for entry in self.entries)

    def append(self, episode: Episode) -> EpisodeEntry:
        """Add one episode; it is on disk when this returns.

        Raises LeakError for an episode that is not from the train split, DatasetError when its arrays do
        not fit the specification or the disk is full.
        """
        require_train(episode.provenance.start)
        _require_shapes(episode, self.spec)
        index = len(self.entries)
        content = layout.parquet_bytes(_data_table(episode, index, self.n_frames, self.spec.cameras))
        entry = EpisodeEntry(index, len(episode), self.n_frames, layout.sha256(content), episode.provenance)
        layout.write_atomic(self.root / entry.data_file, content)
        meta = layout.parquet_bytes(_meta_table(entry, _episode_stats(episode, entry, self.spec.cameras)))
        layout.write_atomic(self.root / layout.file_of(layout.EPISODES_PATH, index), meta)
        self.entries.append(entry)
        self._write_info()
        if len(self.entries) % STATS_EVERY == 0:
            self.finalise()
        return entry

    def finalise(self) -> None:
        """Recompute ``meta/stats.json`` from what is on disk."""
        layout.write_json(self.root / layout.STATS, compute_stats(self.root, self.entries, self.spec.cameras))

    def _write_info(self) -> None:
        info = {
            "codebase_version": layout.CODEBASE_VERSION,
            "robot_type": "panda",
            "total_episodes": len(self.entries),
            "total_frames": self.n_frames,
            "total_tasks": len(self.spec.instructions),
            "chunks_size": layout.CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": layout.FPS,
            "splits": {"train": f"0:{len(self.entries)}"},
            "data_path": layout.DATA_PATH,
            "video_path": None,
            "features": layout.features(self.spec.cameras, self.spec.image_size),
        }
        layout.write_json(self.root / layout.INFO, info)


def _lock(root: Path) -> IO[str]:
    """An exclusive lock held until closed. Raises DatasetError if another process writes here."""
    try:
        (root / "meta").mkdir(parents=True, exist_ok=True)
        file = (root / "meta/.lock").open("w")
    except OSError as error:
        raise DatasetError(f"cannot write to {root}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise DatasetError(
            f"{root} is being written by another process; wait for it or choose another --out"
        ) from error
    return file


def _require_same_spec(root: Path, spec: DatasetSpec) -> None:
    if not (root / layout.MANIFEST).exists():
        return
    old, new = layout.read_json(root / layout.MANIFEST), json.loads(json.dumps(spec.as_dict()))
    differing = sorted(key for key in new if old.get(key) != new[key])
    if differing:
        shown = "; ".join(f"{key}: {old.get(key)} there, {new[key]} asked for" for key in differing)
        raise DatasetError(f"{root} was recorded with other settings ({shown}); choose another directory")


def _sweep(root: Path, n_episodes: int) -> None:
    """Remove what an interrupted append left behind."""
    leftovers = list(root.rglob("*" + TEMP_SUFFIX))
    known = {root / layout.file_of(layout.DATA_PATH, i) for i in range(n_episodes)}
    leftovers += [path for path in root.glob("data/chunk-*/file-*.parquet") if path not in known]
    for path in leftovers:
        log.warning("removing %s, left by an interrupted recording", path)
        path.unlink()


def _require_shapes(episode: Episode, spec: DatasetSpec) -> None:
    n = len(episode)
    expected = {"proprio": (n, len(layout.PROPRIO_NAMES)), "actions": (n, 7), "executed": (n, 7), "phase": (n,)}
    wrong = {name: np.shape(getattr(episode, name)) for name, shape in expected.items()
             if np.shape(getattr(episode, name)) != shape}  # fmt: skip
    wrong |= {c: (len(episode.jpegs.get(c, ())),) for c in spec.cameras if len(episode.jpegs.get(c, ())) != n}
    start = episode.provenance.start
    if wrong or n == 0:
        raise DatasetError(f"episode of {start.key} with {n} steps has shapes {wrong}; expected {expected}")
    if not all(np.isfinite(getattr(episode, name)).all() for name in ("proprio", "actions", "executed")):
        raise DatasetError(f"episode of {start.key} holds values that are not finite")
    if start.suite != spec.suite or not 0 <= start.task_index < len(spec.instructions):
        raise DatasetError(f"episode of {start.key} does not belong to a data set of {spec.suite}")


def _data_table(episode: Episode, index: int, from_index: int, cameras: Sequence[str]) -> pa.Table:
    schema, columns = layout.data_schema(cameras), _numeric_columns(episode, index, from_index)
    arrays = []
    for field in schema:
        if pa.types.is_struct(field.type):
            camera = field.name.rsplit(".", 1)[-1]
            rows = [{"bytes": jpeg, "path": None} for jpeg in episode.jpegs[camera]]
            arrays.append(pa.array(rows, field.type))
        elif pa.types.is_fixed_size_list(field.type):
            flat = pa.array(np.ascontiguousarray(columns[field.name], dtype=np.float32).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _numeric_columns(episode: Episode, index: int, from_index: int) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    steps = np.arange(len(episode), dtype=np.int64)
    return {
        "observation.state": lerobot_state(episode.proprio),
        "observation.proprio": episode.proprio,
        "action": episode.actions,
        "action.executed": episode.executed,
        "phase": np.asarray(episode.phase, dtype=np.int64),
        "timestamp": (steps / layout.FPS).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, index),
        "index": from_index + steps,
        "task_index": np.full_like(steps, episode.provenance.start.task_index),
    }


def _episode_stats(episode: Episode, entry: EpisodeEntry, cameras: Sequence[str]) -> dict[str, Any]:
    columns = _numeric_columns(episode, entry.episode_index, entry.from_index)
    stats: dict[str, Any] = {name: layout.numeric_stats(columns[name], with_quantiles=False) for name in layout.NUMERIC}
    for camera in cameras:
        sample = [layout.decode_jpeg(jpeg) for jpeg in episode.jpegs[camera][::IMAGE_STATS_EVERY]]
        stats[layout.image_key(camera)] = layout.image_stats(np.stack(sample))
    return stats


def _meta_table(entry: EpisodeEntry, stats: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """One row: LeRobot's columns, then ours, then the flattened statistics."""
    chunk, file = divmod(entry.episode_index, layout.CHUNK_SIZE)
    origin, integer = entry.provenance, pa.int64()
    columns: dict[str, pa.Array] = {
        "episode_index": pa.array([entry.episode_index], integer),
        "tasks": pa.array([[origin.instruction]], pa.list_(pa.string())),
        "length": pa.array([entry.length], integer),
        "data/chunk_index": pa.array([chunk], integer),
        "data/file_index": pa.array([file], integer),
        "dataset_from_index": pa.array([entry.from_index], integer),
        "dataset_to_index": pa.array([entry.from_index + entry.length], integer),
        "meta/episodes/chunk_index": pa.array([chunk], integer),
        "meta/episodes/file_index": pa.array([file], integer),
        "suite": pa.array([origin.start.suite]),
        "suite_task_index": pa.array([origin.start.task_index], integer),
        "split": pa.array([str(origin.start.split)]),
        "start_key": pa.array([origin.start.key]),
        "init_state": pa.array([origin.start.init_state], integer),
        "seed": pa.array([origin.start.seed], integer),
        "condition": pa.array([str(origin.start.condition)]),
        "attempt": pa.array([origin.attempt], integer),
        "jitter_m": pa.array([origin.jitter_m], pa.float64()),
        "style": pa.array([json.dumps(dict(origin.style))]),
        "n_retries": pa.array([origin.n_retries], integer),
        "mean_label_noise": pa.array([origin.mean_label_noise], pa.float64()),
        "data_sha256": pa.array([entry.data_sha256]),
    }
    for feature, values in stats.items():
        columns |= {f"stats/{feature}/{name}": pa.array([value]) for name, value in values.items()}
    return pa.table(columns)
