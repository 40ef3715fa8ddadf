"""Demonstrations as values, and reading them back from a LeRobotDataset v3 directory.

An episode exists once its metadata file does (see `dataset_writer.py`), so the index is read from those.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heisd.errors import DatasetError
from heisd.kinematics import quat_to_axis_angle
from heisd.sim import lerobot_format as layout
from heisd.sim.splits import Condition, EpisodeStart
from heisd.types import FloatArray, IntArray, Proprioception


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an episode came from."""

    start: EpisodeStart
    instruction: str
    attempt: int  # number of the try within its task, also the key of its random numbers
    jitter_m: float  # half-width of the extra uniform xy offset of the targets
    style: Mapping[str, Any]  # the expert's sampled style, JSON values
    n_retries: int
    mean_label_noise: float  # mean |executed - label| over the six motion dimensions, action units


@dataclass(frozen=True, slots=True)
class Episode:
    """One demonstration of T control steps, as the writer takes it."""

    jpegs: Mapping[str, Sequence[bytes]]  # camera -> T encoded pictures
    proprio: FloatArray  # (T, 25) in the order of lerobot_format.PROPRIO_PARTS
    actions: FloatArray  # (T, 7) clean labels, environment convention
    executed: FloatArray  # (T, 7) what the robot really did
    phase: IntArray  # (T,) the expert's phase
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """One row of the data set's index."""

    episode_index: int
    length: int
    from_index: int  # first global frame index
    data_sha256: str
    provenance: Provenance

    @property
    def data_file(self) -> str:
        """Path of the data file relative to the data set."""
        return layout.file_of(layout.DATA_PATH, self.episode_index)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """What must stay the same for every episode of a data set."""

    suite: str
    instructions: tuple[str, ...]  # of every task of the suite, by task index
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 128  # pixels, square
    settings: Mapping[str, Any] | None = None  # rendering, protocol, seed …: echoed, and compared on resume

    def as_dict(self) -> dict[str, Any]:
        """The content of ``meta/heisd.json``."""
        return {
            "suite": self.suite,
            "instructions": list(self.instructions),
            "cameras": list(self.cameras),
            "image_size": self.image_size,
            "settings": dict(self.settings or {}),
            "proprio_order": layout.PROPRIO_PARTS,
        }


def flatten_proprio(proprio: Proprioception) -> FloatArray:
    """(25,) float32: eef pos 3, quaternion 4 (xyzw), finger positions 2, speeds 2, joint positions 7, speeds 7."""
    parts = (proprio.eef_pos_m, proprio.eef_quat_xyzw, proprio.gripper_qpos_m, proprio.gripper_qvel_m_s,
             proprio.joint_pos_rad, proprio.joint_vel_rad_s)  # fmt: skip
    return np.concatenate(parts).astype(np.float32)


def unflatten_proprio(row: FloatArray) -> Proprioception:
    """Inverse of :func:`flatten_proprio`."""
    return Proprioception(*np.split(row, np.cumsum(list(layout.PROPRIO_PARTS.values()))[:-1]))


def lerobot_state(proprio: FloatArray) -> FloatArray:
    """(T, 25) -> (T, 8): position, axis-angle by robosuite's formula (angle in [0, 2 pi]), finger positions."""
    return np.concatenate([proprio[:, :3], quat_to_axis_angle(proprio[:, 3:7]), proprio[:, 7:9]], axis=1).astype(
        np.float32
    )


def read_spec(root: Path | str) -> DatasetSpec:
    """The specification a data set was created with."""
    found = layout.read_json(Path(root) / layout.MANIFEST)
    try:
        return DatasetSpec(found["suite"], tuple(found["instructions"]), tuple(found["cameras"]),
                           int(found["image_size"]), found["settings"])  # fmt: skip
    except KeyError as error:
        raise DatasetError(f"{Path(root) / layout.MANIFEST} lacks {error}") from None


def read_entries(root: Path | str) -> list[EpisodeEntry]:
    """The index of a data set, in order. Raises DatasetError when files are missing or torn."""
    root = Path(root)
    if not (root / layout.INFO).exists():
        raise DatasetError(f"{root} is no demonstration data set ({layout.INFO} is missing); make one: heisd collect")
    paths = sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
    entries = [_read_entry(path) for path in paths]
    for i, entry in enumerate(entries):
        if entry.episode_index != i:
            raise DatasetError(f"{root}: metadata of episode {i} is missing (found {entry.episode_index} instead)")
        if not (root / entry.data_file).exists():
            raise DatasetError(f"{root}: {entry.data_file} is missing; collect again or restore the file")
    return entries


def read_table(root: Path | str, entry: EpisodeEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of one episode's data file."""
    path = Path(root) / entry.data_file
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


def column_array(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """(T, D) of a vector column, (T,) of a scalar one."""
    column = table.column(name).combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten()).reshape(len(column), -1)
    return np.asarray(column)


def read_jpegs(table: pa.Table, camera: str) -> list[bytes]:
    """T encoded pictures of one camera."""
    return [item["bytes"] for item in table.column(layout.image_key(camera)).to_pylist()]


def fingerprint(entries: Sequence[EpisodeEntry]) -> str:
    """Hash of a data set's content; the same frames in the same order give the same value."""
    return layout.sha256("".join(entry.data_sha256 for entry in entries).encode())


def compute_stats(root: Path | str, entries: Sequence[EpisodeEntry], cameras: Sequence[str]) -> dict[str, Any]:
    """``meta/stats.json``, recomputed from the files; pictures from the per-episode statistics."""
    if not entries:
        return {}
    tables = [read_table(root, entry, layout.NUMERIC) for entry in entries]
    whole = pa.concat_tables(tables)
    stats: dict[str, Any] = {
        name: layout.numeric_stats(column_array(whole, name), with_quantiles=True) for name in layout.NUMERIC
    }
    for camera in cameras:
        key = layout.image_key(camera)
        parts = [_read_image_stats(Path(root), entry, key) for entry in entries]
        stats[key] = layout.pool_image_stats(parts)
    return stats


def _read_entry(path: Path) -> EpisodeEntry:
    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        row = file.read(columns=names).to_pylist()[0]
        start = EpisodeStart(row["suite"], row["suite_task_index"], row["init_state"], row["seed"],
                             Condition(row["condition"]))  # fmt: skip
        origin = Provenance(start, row["tasks"][0], row["attempt"], row["jitter_m"], json.loads(row["style"]),
                            row["n_retries"], row["mean_label_noise"])  # fmt: skip
        return EpisodeEntry(row["episode_index"], row["length"], row["dataset_from_index"], row["data_sha256"], origin)
    except (OSError, pa.ArrowInvalid, KeyError, IndexError, ValueError) as error:
        raise DatasetError(f"{path} is not readable episode metadata: {error!r}") from error


def _read_image_stats(root: Path, entry: EpisodeEntry, key: str) -> dict[str, Any]:
    path = root / layout.file_of(layout.EPISODES_PATH, entry.episode_index)
    prefix = f"stats/{key}/"
    names = [prefix + name for name in ("min", "max", "mean", "std", "count")]
    row = pq.read_table(path, columns=names).to_pylist()[0]
    return {name.removeprefix(prefix): value for name, value in row.items()}
