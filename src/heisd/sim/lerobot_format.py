"""The LeRobotDataset v3 layout as heisd writes it: names, column types, statistics, atomic files.

One data file and one metadata file per episode, images as JPEG bytes inside parquet. The layout itself
(`meta/info.json`, `meta/stats.json`, `meta/tasks.parquet`, `meta/episodes/`, `data/`) is LeRobot's.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from heisd import files
from heisd.errors import DatasetError
from heisd.types import FloatArray, ImageArray

CODEBASE_VERSION = "v3.0"
CHUNK_SIZE = 1000  # files per chunk directory
FPS = 20  # LIBERO's control rate
JPEG_QUALITY = 95
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS, MANIFEST = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/heisd.json"

STATE_NAMES = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "finger1", "finger2")
PROPRIO_PARTS = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2, "gripper_qvel": 2, "joint_pos": 7, "joint_vel": 7}
PROPRIO_NAMES = tuple(f"{part}{i}" for part, n in PROPRIO_PARTS.items() for i in range(n))
ACTION_NAMES = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper")
VECTORS: dict[str, tuple[str, ...]] = {
    "observation.state": STATE_NAMES,
    "observation.proprio": PROPRIO_NAMES,
    "action": ACTION_NAMES,
    "action.executed": ACTION_NAMES,
}
SCALARS = {
    "phase": "int64",
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
NUMERIC = (*VECTORS, *SCALARS)
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def image_key(camera: str) -> str:
    """``"wrist"`` -> ``"observation.images.wrist"``."""
    return f"observation.images.{camera}"


def file_of(pattern: str, episode_index: int) -> str:
    """Relative path of an episode's data or metadata file."""
    return pattern.format(chunk_index=episode_index // CHUNK_SIZE, file_index=episode_index % CHUNK_SIZE)


def features(cameras: Sequence[str], image_size: int) -> dict[str, dict[str, Any]]:
    """The ``features`` block of ``meta/info.json``."""
    shape, axes = [image_size, image_size, 3], ["height", "width", "channels"]
    result: dict[str, dict[str, Any]] = {
        image_key(c): {"dtype": "image", "shape": shape, "names": axes} for c in cameras
    }
    for name, parts in VECTORS.items():
        result[name] = {"dtype": "float32", "shape": [len(parts)], "names": list(parts)}
    for name, dtype in SCALARS.items():
        result[name] = {"dtype": dtype, "shape": [1], "names": None}
    return result


def data_schema(cameras: Sequence[str]) -> pa.Schema:
    """Arrow types of a data file; images are the {bytes, path} struct that Hugging Face `datasets` reads."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [(image_key(c), image) for c in cameras]
    fields += [(name, pa.list_(pa.float32(), len(parts))) for name, parts in VECTORS.items()]
    fields += [(name, pa.type_for_alias(dtype)) for name, dtype in SCALARS.items()]
    return pa.schema(fields)


def encode_jpeg(image: ImageArray) -> bytes:
    """(H, W, 3) u8 RGB -> JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes, size: int | None = None) -> ImageArray:
    """JPEG bytes -> (H, W, 3) u8 RGB, resized to ``size`` x ``size`` by area averaging when given."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        picture = opened.convert("RGB")
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return np.asarray(picture)


def parquet_bytes(table: pa.Table) -> bytes:
    """A parquet file in memory, so that it can be hashed and written in one piece."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def tasks_table(instructions: Sequence[str]) -> pa.Table:
    """``meta/tasks.parquet``: what pandas writes for a frame indexed by instruction (pandas itself is not needed)."""
    table = pa.table({"task_index": pa.array(range(len(instructions)), pa.int64()), "task": list(instructions)})

    def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": pandas_type, "numpy_type": numpy_type,
                "metadata": None}  # fmt: skip

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [column("", "unicode", "object") | {"name": None, "field_name": None}],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write, fsync, rename: afterwards the file is whole or as it was. Raises DatasetError when the disk is full."""
    files.write_atomic(path, content, error_type=DatasetError)


def write_json(path: Path, value: object) -> None:
    """Atomic, readable JSON."""
    write_atomic(path, files.json_bytes(value))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises DatasetError when the file is missing or not JSON."""
    return files.read_json(path, error_type=DatasetError, hint="; is this a directory written by `heisd collect`?")


def numeric_stats(values: FloatArray, *, with_quantiles: bool) -> dict[str, list[float]]:
    """LeRobot's statistics of (N, D) values, one entry per dimension."""
    values = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    result = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    result["count"] = [len(values)]
    if with_quantiles:
        result |= {name: np.quantile(values, q, axis=0).tolist() for name, q in QUANTILES.items()}
    return result


def image_stats(images: ImageArray) -> dict[str, Any]:
    """Statistics of (N, H, W, 3) pictures per channel, scaled to [0, 1], nested as (3, 1, 1)."""
    pixels = images.reshape(-1, 3) / 255.0
    result = {name: getattr(pixels, name)(axis=0).reshape(3, 1, 1).tolist() for name in ("min", "max", "mean", "std")}
    return result | {"count": [len(images)]}


def pool_image_stats(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine per-episode :func:`image_stats`; mean and std are pooled with the number of frames as weight."""
    stacked = {name: np.stack([np.asarray(p[name], dtype=np.float64) for p in parts]) for name in parts[0]}
    weight = stacked["count"].reshape(-1, 1, 1, 1) / stacked["count"].sum()
    mean = (weight * stacked["mean"]).sum(axis=0)
    variance = (weight * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(axis=0)
    return {
        "min": stacked["min"].min(axis=0).tolist(),
        "max": stacked["max"].max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(stacked["count"].sum())],
    }
